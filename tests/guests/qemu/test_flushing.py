"""A guest waits for the device with each flush; a host that stops it does not, and the guest goes on after that."""

import errno
import threading

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftvm.guests.qemu.flushing import Flusher

WAIT_SECONDS = 60.0


class Device:
    """Takes what is saved when a test says so."""

    def __init__(self) -> None:
        self.saved: list[set[int]] = []
        self.error: OSError | None = None
        self._permits = threading.Semaphore(0)
        self.has_been_asked = threading.Event()

    def save(self, pages: set[int]) -> None:
        self.has_been_asked.set()
        assert self._permits.acquire(timeout=WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        self.saved.append(set(pages))

    def permit(self, count: int = 1) -> None:
        self._permits.release(count)


class Guest(threading.Thread):
    """Flushes in a thread of its own, as a disk's server does."""

    def __init__(self, flusher: Flusher, pages: set[int]) -> None:
        super().__init__(daemon=True)
        self.error: OSError | None = None
        self._flusher, self._pages = flusher, pages
        self.start()

    def run(self) -> None:
        try:
            self._flusher.flush(self._pages)
        except OSError as wrong:
            self.error = wrong

    def is_answered(self) -> bool:
        self.join(WAIT_SECONDS)
        return not self.is_alive()


def test_a_flush_is_answered_when_the_device_has_it() -> None:
    device = Device()
    flusher = Flusher(device.save, "flush")
    guest = Guest(flusher, {1, 2})
    assert device.has_been_asked.wait(WAIT_SECONDS)
    assert guest.is_alive()

    device.permit()

    assert guest.is_answered()
    assert device.saved == [{1, 2}]
    flusher.close()


def test_a_flush_of_a_guest_that_is_being_stopped_is_answered_at_once_and_the_end_is_told_when_the_device_has_it() -> (
    None
):
    device, told = Device(), threading.Event()
    flusher = Flusher(device.save, "flush")
    before = Guest(flusher, {1})
    assert device.has_been_asked.wait(WAIT_SECONDS)

    flusher.hurry()
    assert before.is_answered()
    assert Guest(flusher, {2}).is_answered()
    flusher.when_settled(lambda error: told.set() if error is None else None)
    assert not told.is_set()
    assert device.saved == []
    device.permit(2)

    assert told.wait(WAIT_SECONDS)
    assert device.saved == [{1}, {2}]
    flusher.close()


def test_who_was_to_be_told_is_not_once_the_guest_is_stopped_again() -> None:
    device, told = Device(), []
    flusher = Flusher(device.save, "flush")
    flusher.hurry()
    flusher.flush({1})
    flusher.when_settled(told.append)

    flusher.hurry()
    device.permit()
    flusher.settle()

    assert told == []
    flusher.when_settled(told.append)
    assert told == [None]
    flusher.close()


def test_a_device_that_cannot_write_is_told_to_all() -> None:
    device, told = Device(), threading.Event()
    device.error = OSError(errno.ENOSPC, "No space left on device")
    flusher = Flusher(device.save, "flush")
    flusher.hurry()
    flusher.flush({1})
    flusher.when_settled(lambda error: told.set() if error is device.error else None)

    device.permit()

    assert told.wait(WAIT_SECONDS)
    with pytest.raises(OSError, match="No space"):
        flusher.flush({2})
    flusher.close()


def test_closing_writes_what_is_owed() -> None:
    device = Device()
    flusher = Flusher(device.save, "flush")
    flusher.hurry()
    flusher.flush({1})
    device.permit()

    flusher.close()

    assert device.saved == [{1}]


class Stopping(RuleBasedStateMachine):
    """A guest that is stopped and let go in any order runs only when the device has all that it was told to have."""

    def __init__(self) -> None:
        super().__init__()
        self.device = Device()
        self.flusher = Flusher(self.device.save, "flush")
        self.is_running = True
        self.told: set[int] = set()
        self.page = 0

    @precondition(lambda self: not self.is_running)
    @rule()
    def let_go(self) -> None:
        self.flusher.when_settled(self.go)

    def go(self, error: OSError | None) -> None:
        assert error is None
        assert self.told <= self.on_device()
        self.is_running = True

    def on_device(self) -> set[int]:
        return set().union(*self.device.saved)

    @rule()
    def stop(self) -> None:
        """QEMU flushes as it stops."""
        self.flusher.hurry()
        self.is_running = False
        self.page += 1
        self.flusher.flush({self.page})
        self.told.add(self.page)

    @precondition(lambda self: self.told > self.on_device())
    @rule()
    def the_device_takes_all(self) -> None:
        self.device.permit(len(self.told))
        self.flusher.settle()

    @invariant()
    def what_runs_owes_nothing(self) -> None:
        assert not self.is_running or self.told <= self.on_device()

    def teardown(self) -> None:
        self.device.permit(1_000)
        self.flusher.close()
        assert self.told <= self.on_device()


TestStopping = Stopping.TestCase
TestStopping.settings = settings(max_examples=30, stateful_step_count=12)
