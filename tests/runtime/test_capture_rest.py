"""A guest that waits and has written nothing is at rest: nobody looks at it until it says that it goes on."""

from ftvm.checkpoint import GuestPosition
from ftvm.interfaces import Capability
from ftvm.protocol.reports import (
    CutTaken,
    NothingToCut,
)

from .captured import QUIET, Primary, RestingGuest


def test_a_guest_that_waits_and_has_written_nothing_is_at_rest_and_watched() -> None:
    primary = Primary(kind=RestingGuest)
    primary.cut()

    assert primary.report(QUIET) == NothingToCut(is_at_rest=True)
    assert primary.sink.is_watched


def test_a_guest_that_runs_is_not_at_rest_though_it_has_written_nothing() -> None:
    primary = Primary(kind=RestingGuest)
    primary.cut()
    primary.guest.waits = False

    assert primary.report(QUIET) == NothingToCut()
    assert not primary.sink.is_watched


def test_a_guest_that_has_written_is_cut_and_not_watched() -> None:
    primary = Primary(kind=RestingGuest)
    primary.cut()
    primary.guest._mark(3)
    primary.guest.waits = False

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    assert (report.is_at_rest, primary.sink.is_watched) == (False, False)


def test_a_guest_that_waits_is_at_rest_and_watched_from_its_cut_on() -> None:
    primary = Primary(kind=RestingGuest)

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    assert report.is_at_rest
    assert primary.sink.is_watched


def test_the_step_of_the_clock_that_a_pause_makes_ends_no_rest() -> None:
    primary = Primary(kind=RestingGuest)
    paused = primary.runner.stall

    def pause() -> None:
        paused()
        primary.sink.moved_clock(GuestPosition(1, 0), 5)

    primary.runner.stall = pause

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    assert report.is_at_rest
    assert not primary.sink.has_stirred


def test_a_guest_that_wrote_as_soon_as_it_went_on_from_its_cut_is_not_at_rest() -> None:
    primary = Primary(kind=RestingGuest)
    primary.on_go_on = lambda: primary.guest._mark(3)

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    assert not report.is_at_rest


def test_a_guest_that_goes_on_while_it_is_asked_is_told_of() -> None:
    primary = Primary(kind=RestingGuest)
    primary.cut()
    primary.guest.on_asked = lambda: primary.sink.moved_clock(GuestPosition(1, 0), 5)

    primary.report(QUIET)

    assert primary.sink.has_stirred


def test_what_a_guest_writes_behind_the_last_question_is_told_of() -> None:
    """Mutant: it is asked what it has written before anybody watches: what it writes between, and sleeps, is missed."""

    class Waking(RestingGuest):
        def has_written(self) -> bool:
            told = super().has_written()
            self._mark(3)
            primary.sink.moved_clock(GuestPosition(1, 0), 5)
            return told

    primary = Primary(kind=Waking)
    primary.cut()

    report = primary.report(QUIET)

    assert report == NothingToCut(is_at_rest=True)
    assert primary.sink.has_stirred


def test_a_guest_that_is_cut_for_what_it_wrote_is_watched_by_nobody_while_it_is_paused() -> None:
    """Mutant: the pause, which moves its clock, is told of as if the guest had gone on."""
    primary = Primary(kind=RestingGuest)
    primary.cut()
    primary.guest._mark(3)
    paused, watched = primary.runner.stall, list[bool]()

    def pause() -> None:
        watched.append(primary.sink.is_watched)
        paused()

    primary.runner.stall = pause

    report = primary.report(QUIET)

    assert isinstance(report, CutTaken)
    assert watched == [False]


def test_a_guest_that_tells_no_steps_of_its_clock_is_never_at_rest() -> None:
    class Unsteady(RestingGuest):
        @property
        def can(self) -> frozenset[Capability]:
            return super().can - {Capability.REPLAY}

    primary = Primary(kind=Unsteady)
    primary.cut()

    assert primary.report(QUIET) == NothingToCut()
