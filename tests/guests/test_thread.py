"""A guest's thread: when it runs, what it makes of its end, and whom it keeps waiting (nobody)."""

import threading
from unittest.mock import Mock

import pytest

from ftvm.errors import ClosedError, LocalProtocolError
from ftvm.guests.thread import GuestThread

PATIENCE_S = 60


class Machine:
    """Is attended until it is dismissed, or broken."""

    def __init__(self) -> None:
        self.wrong: Exception | None = None
        self.is_over, self.has_left = threading.Event(), threading.Event()
        self.thread = GuestThread("a machine", self.attend, self.has_left.set)
        self.thread.attach(Mock())

    def attend(self) -> None:
        assert self.is_over.wait(PATIENCE_S)
        if self.wrong is not None:
            raise self.wrong


def test_a_thread_that_is_closed_has_ended_and_is_no_failure() -> None:
    machine = Machine()
    machine.thread.start()
    machine.thread.start()

    closed = [machine.thread.close(machine.is_over.set) for _ in range(2)]

    assert closed == [True, False]
    assert machine.has_left.is_set()
    assert machine.thread.look() is None
    with pytest.raises(ClosedError):
        machine.thread.start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_a_failure_that_no_loaded_state_mends() -> None:
    machine = Machine()
    machine.wrong = ValueError("out of ideas")
    machine.thread.start()
    machine.is_over.set()
    assert machine.has_left.wait(PATIENCE_S)
    machine.thread.close(machine.is_over.set)

    machine.thread.revive()

    assert machine.thread.look() == "its thread ended by ValueError: out of ideas"


def test_a_state_that_is_loaded_mends_what_the_guest_said_of_itself() -> None:
    machine = Machine()
    machine.thread.failure = "the program ended with code 1"

    machine.thread.revive()

    assert machine.thread.look() is None


def test_a_guest_that_nobody_hears_does_not_run() -> None:
    thread = GuestThread("a machine", lambda: None)

    with pytest.raises(LocalProtocolError, match="attach a sink"):
        thread.start()


def test_a_guest_that_never_ran_is_closed_without_a_thread() -> None:
    machine = Machine()

    assert machine.thread.close(machine.is_over.set)

    assert not machine.has_left.is_set()
