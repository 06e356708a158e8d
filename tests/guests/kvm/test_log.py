"""KVM's log of written pages: nothing is missed, and what is told too much is told for some looks only."""

import os
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ftvm._native.memory import bitmap_indices
from ftvm.checkpoint import Bitmap
from ftvm.errors import ConfigError, TrackingLost
from ftvm.guests.kvm import KvmGuest
from ftvm.guests.kvm.log import LogTracker
from ftvm.guests.kvm.machine import KvmMachine, KvmShape
from ftvm.guests.kvm.programs import read_program
from ftvm.lab.kv import KV_PORT, Operation, Request
from ftvm.lab.station import Station, UdpAddress
from ftvm.testing.transcript import changed_pages

from .test_guest import Sink, answer_from

LOOKS_UNTIL_PROBED = 17
FEW = 4
MEMORY_BYTES = 18 << 20
"""Of a machine with room for 512 pages where the program `pages` begins to write, at 16 MiB (examples/kvm/pages)."""


class Looks:
    """A guest that runs `pages`, its number of pages, and what its tracker told of it."""

    def __init__(self, guest: KvmGuest) -> None:
        self._guest, self._sink = guest, Sink()
        guest.attach(self._sink)
        guest.stop_at_output(True)
        self._tell()
        self._before = bytes(guest.memory[0].buffer)

    def _tell(self) -> set[int]:
        return set(bitmap_indices(self._guest.collect_dirty()))

    def write(self, count: int | None = None) -> tuple[set[int], set[int]]:
        """Have it write its pages, or from now on so many, until its next line; return which differ, and are told."""
        if count is not None:
            self._guest.deliver("console", b"%d\n" % count)
        lines = len(self._sink.said)
        self._guest.resume()
        self._sink.wait(lambda said: len(said) > lines)
        self._guest.pause()
        told, after = self._tell(), bytes(self._guest.memory[0].buffer)
        changed, self._before = set(changed_pages(self._before, after)), after
        return changed, told


@pytest.fixture
def looks() -> Iterator[Looks]:
    with closing(KvmGuest(read_program("pages"), memory_bytes=MEMORY_BYTES, mac=None)) as guest:
        assert guest.tracker == "log"
        yield Looks(guest)


def test_no_written_page_is_missed_whether_it_was_written_often_rarely_or_long_ago(looks: Looks) -> None:
    seen = []
    for count, epochs in [(300, 20), (1, 3), *[(40, 2), (300, 1)] * 8, (1, 20), (300, 4)]:
        for epoch in range(epochs):
            changed, told = looks.write(None if epoch else count)

            assert changed <= told
            seen.append(len(changed))
    assert sum(count > 300 for count in seen) > 15


def test_a_page_that_is_written_in_each_epoch_is_told_on_when_it_rests_but_not_for_ever(looks: Looks) -> None:
    looks.write(300)
    busy = [looks.write() for _ in range(20)]

    resting = [looks.write(1), *[looks.write() for _ in range(LOOKS_UNTIL_PROBED + 1)]]

    assert all(len(told - changed) <= FEW for changed, told in busy)
    assert len(resting[2][1]) > 200
    assert len(resting[-1][1]) <= FEW


def test_a_page_that_only_a_device_wrote_is_told() -> None:
    with closing(KvmGuest(read_program("kv"), memory_bytes=16 << 20)) as guest:
        here = UdpAddress(ip=IPv4Address("10.77.0.9"), port=40_000)
        station = Station(mac=b"\2\0\0\0\0\1", here=here, peer=UdpAddress(ip=IPv4Address("10.77.0.2"), port=KV_PORT))
        sink = Sink()
        guest.attach(sink)
        guest.resume()
        answer_from(guest, sink, station, Request(operation=Operation.GET, client=1, number=1, key=b"k"))
        for number in range(2, 10):
            guest.pause()
            guest.collect_dirty()
            before = bytes(guest.memory[0].buffer)
            guest.resume()

            answer_from(guest, sink, station, Request(operation=Operation.GET, client=1, number=number, key=b"k"))
            guest.pause()

            told = set(bitmap_indices(guest.collect_dirty()))
            assert set(changed_pages(before, bytes(guest.memory[0].buffer))) <= told

        assert [guest.collect_dirty().count() for _ in range(LOOKS_UNTIL_PROBED)][-1] == 0


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 1000])
def test_the_first_look_tells_all_pages_of_a_machine_of_any_size(pages: int) -> None:
    with closing(KvmMachine(KvmShape(ram_bytes=pages * 4096))) as machine:
        tracker = LogTracker(machine)

        assert tracker.collect() == Bitmap.full((pages,))
        assert tracker.collect() == Bitmap.empty((pages,))
        tracker.restore(Bitmap.full((pages,)))
        assert tracker.collect() == Bitmap.full((pages,))
        assert tracker.collect() == Bitmap.empty((pages,))


def test_tracking_is_lost_where_kvm_does_not_tell_what_was_written() -> None:
    folder = Path("/proc/self/fd")
    machines = {name for name in os.listdir(folder) if "kvm-vm" in os.path.realpath(folder / name)}
    with closing(KvmMachine(KvmShape(ram_bytes=1 << 20))) as machine:
        (opened,) = {name for name in os.listdir(folder) if "kvm-vm" in os.path.realpath(folder / name)} - machines
        tracker = LogTracker(machine)
        tracker.collect()
        with open("/dev/null", "r+b", buffering=0) as no_machine:
            os.dup2(no_machine.fileno(), int(opened), inheritable=False)

        with pytest.raises(TrackingLost, match="KVM does not tell which pages were written: Inappropriate ioctl"):
            tracker.collect()


def test_where_kvm_has_no_log_another_tracker_is_chosen_and_the_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KvmMachine, "has_log", False)

    with closing(KvmGuest(read_program("work"), memory_bytes=4 << 20, mac=None)) as guest:
        assert guest.tracker == "compare"
    with pytest.raises(ConfigError, match="unknown tracker 'log'"):
        KvmGuest(read_program("work"), memory_bytes=4 << 20, mac=None, tracker="log")
