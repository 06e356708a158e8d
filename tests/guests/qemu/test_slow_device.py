"""A QEMU whose disk's device is slow, or fails: no pause waits for it, and the guest goes on only when it may."""

import errno
from collections.abc import Iterator

import pytest

from ftvm.guests.disk import several
from ftvm.guests.disk.disk import Disk

from ..disk.witness import Gate, Witness
from .conftest import PATIENCE_S, Guests, is_alive, wait_until, wait_until_it_fails


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The device of each disk that is opened: it syncs when a test says so."""
    gate = Gate()
    witness = Witness(gate)

    class Witnessed(Disk):
        def __init__(self, path: str, *, boots: bool, name: str) -> None:
            super().__init__(path, boots=boots, name=name, witnesses=witness.descriptors)

    monkeypatch.setattr(several, "Disk", Witnessed)
    yield gate
    gate.permit(1_000)


def test_a_pause_waits_for_no_device_and_the_guest_goes_on_when_that_has_what_it_flushed(
    device: Gate, guests: Guests
) -> None:
    """A host that waited would be silent, and the other would take over from it."""
    guest, ear = guests.running()
    assert device.is_asked.wait(PATIENCE_S)

    for _ in range(3):
        guest.pause()
        guest.collect_dirty()
        guest.save_devices()
        assert guest.monitor.execute("query-status")["running"] is False
        guest.resume()
    assert guest.monitor.execute("query-status")["running"] is False
    device.permit(1_000)
    ear.wait_count(ear.counts()[-1] + 3)

    assert guest.failure() is None
    guest.pause()
    assert guest.monitor.execute("query-status")["running"] is False


def test_a_guest_that_was_paused_again_does_not_go_on_when_its_disk_is_ready_late(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, ear = guests.running()
    disk, told = next(iter(guest._disks)), []
    assert disk is not None
    guest.pause()
    with monkeypatch.context() as patched:
        patched.setattr(disk, "when_settled", told.append)
        guest.resume()
    guest.pause()

    told[0](None)

    assert guest.monitor.execute("query-status")["running"] is False
    guest.resume()
    ear.wait_count(ear.counts()[-1] + 2)


def test_a_guest_whose_flush_fails_behind_its_pause_goes_on_nowhere(device: Gate, guests: Guests) -> None:
    guest, _ = guests.running()
    device.error = errno.EIO
    assert device.is_asked.wait(PATIENCE_S)

    guest.pause()
    guest.resume()
    device.permit()
    wait_until_it_fails(guest)

    assert "cannot be written: Input/output error" in str(guest.failure())
    assert wait_until(lambda: not is_alive(guest.pid))
