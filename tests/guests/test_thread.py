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
        self.wrong: BaseException | None = None
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


def test_a_thread_that_dies_is_told_to_whoever_looks_at_threads_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.wrong = ValueError("out of ideas")
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda what: told.append(what.exc_value))
    machine.thread.start()

    machine.thread.close(machine.is_over.set)

    assert told == [machine.wrong]


def test_a_guest_that_is_closed_by_its_own_thread_does_not_wait_for_itself() -> None:
    closed: list[bool] = []
    has_left = threading.Event()
    thread = GuestThread("a machine", lambda: closed.append(thread.close(lambda: None)), has_left.set)
    thread.attach(Mock())

    thread.start()

    assert has_left.wait(PATIENCE_S)
    assert closed == [True]
    assert thread.look() is None


def test_who_is_dismissed_can_see_that_the_guest_is_closed() -> None:
    machine = Machine()
    seen: list[bool] = []

    machine.thread.close(lambda: seen.append(machine.thread.is_closed))

    assert seen == [True]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_of_what_was_wrong_before_leaves_the_first_reason() -> None:
    machine = Machine()
    machine.wrong = ValueError("out of ideas")
    machine.thread.failure = "the disk cannot be read"
    machine.thread.start()

    machine.thread.close(machine.is_over.set)

    assert machine.thread.look() == "the disk cannot be read"


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


def test_whoever_hears_a_guest_is_warned_of_what_it_does_in_a_worse_way() -> None:
    sink = Mock()
    thread = GuestThread("a machine", lambda: None, warning="each checkpoint compares every page")

    thread.attach(sink)

    sink.warn.assert_called_once_with("each checkpoint compares every page")


def test_news_of_a_disk_waits_until_somebody_hears_the_guest() -> None:
    kept, sink = Mock(), Mock()
    kept.news.side_effect = ["the image was deleted", None]
    thread = GuestThread("a machine", lambda: None, kept=kept)

    before = thread.look()
    thread.attach(sink)
    thread.look()

    assert before is None
    sink.warn.assert_called_once_with("the image was deleted")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_leaves_the_interpreter_has_died_too() -> None:
    """Mutant: only an Exception counts."""
    machine = Machine()
    machine.wrong = SystemExit(3)
    machine.thread.start()

    machine.thread.close(machine.is_over.set)

    assert machine.thread.look() == "its thread ended by SystemExit: 3"
