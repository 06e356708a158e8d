"""A QEMU whose machine stands still, as a standby's does, is asked again and again whether it answers."""

import os
import signal
import threading

import pytest

from ftvm.guests.qemu import qmp, watch
from ftvm.interfaces import Capability

from .conftest import Ear, Guests, is_alive, nap, wait_until
from .test_guest import copy_memory

NAMED = "QEMU has not answered query-status for "


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_SECONDS", 0.01)


@pytest.mark.usefixtures("soon")
def test_a_qemu_that_hangs_before_a_takeover_is_named_and_one_that_goes_on_is_well(guests: Guests) -> None:
    """Regression: nothing asked the QEMU of a standby, which said that it stood by, until a takeover waited for it."""
    guest, ear = guests.blank(), Ear()
    guest.attach(ear)
    os.kill(guest.pid, signal.SIGSTOP)

    assert wait_until(lambda: guest.silence() is not None)
    named = str(guest.silence())
    os.kill(guest.pid, signal.SIGCONT)

    assert Capability.TELLS_SILENCE in guest.can
    assert named.startswith(NAMED)
    assert ear.warnings[0].startswith(NAMED)
    assert ear.warnings[0].endswith(": a takeover has to start another one first")
    assert wait_until(lambda: guest.silence() is None)
    assert guest.failure() is None


@pytest.mark.usefixtures("soon")
def test_a_qemu_that_hangs_for_longer_than_any_answer_may_take_has_failed(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ANSWER_SECONDS", 3.0)
    guest = guests.blank()
    os.kill(guest.pid, signal.SIGSTOP)

    assert wait_until(lambda: guest.failure() is not None)

    assert str(guest.failure()).startswith(NAMED)
    assert str(guest.failure()).endswith(": it hangs or is stopped")


@pytest.mark.usefixtures("soon")
def test_a_state_loads_into_another_qemu_if_that_which_waits_for_it_hangs(guests: Guests) -> None:
    """Regression: a takeover waited a minute for it, then failed, and only the next one started another."""
    source, _ = guests.running()
    source.pause()
    source.collect_dirty()
    devices = source.save_devices()
    guest, ear = guests.blank(), Ear()
    guest.attach(ear)
    hung = guest.pid
    os.kill(hung, signal.SIGSTOP)
    assert wait_until(lambda: guest.silence() is not None)

    copy_memory(source, guest)
    guest.load_devices(devices)
    guest.resume()
    ear.wait_for(b"count ")

    assert guest.pid != hung
    assert not is_alive(hung)
    assert wait_until(lambda: guest.silence() is None)
    assert guest.failure() is None


@pytest.mark.usefixtures("soon")
def test_a_qemu_whose_machine_runs_is_not_asked(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, ear = guests.running()
    looks = threading.Event()
    monkeypatch.setattr(qmp.Qmp, "look", lambda _: looks.set())

    ear.wait_count(ear.counts()[-1] + 2)
    assert not looks.is_set()
    guest.pause()

    assert looks.wait(60)


def test_a_watch_ends_with_its_guest(guests: Guests) -> None:
    guest = guests.blank()
    thread = guest._watch._thread
    nap(0.01)
    guest.close()
    guest.close()

    assert not thread.is_alive()
