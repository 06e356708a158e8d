"""HostServices are stepped by the loop, and one that breaks ends nothing but itself."""

from collections.abc import Sequence

import pytest

from ftvm.events import Committed, Event, HostServiceFailed, Solo
from ftvm.runtime.closing import Closing
from ftvm.runtime.services import LOOK_NS, Controls, HostServices, Pending
from ftvm.runtime.status import Status
from ftvm.units import Nanos


class Visitor:
    """A service that does what a test says."""

    name = "visitor"

    def __init__(self, due: Nanos | None = None) -> None:
        self.due = due
        self.breaks_in = ""
        self.close_error: Exception | None = None
        self.heard: list[Event] = []
        self.steps = 0
        self.closed = 0

    def begin(self, controls: Controls) -> None:
        self.controls = controls

    def fds(self) -> Sequence[int]:
        return (7,)

    def note(self, event: Event) -> None:
        if self.breaks_in == "note":
            raise RuntimeError("broken")
        self.heard.append(event)

    def step(self, now: Nanos) -> Nanos | None:
        del now
        if self.breaks_in == "step":
            raise RuntimeError("broken")
        self.steps += 1
        return self.due

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class Guest:
    guest_id = "vm1"

    def status(self) -> Status:
        raise NotImplementedError

    def set_engine(
        self, *, name: str | None, interval: float | None, latency: float | None, group: float | None
    ) -> Pending:
        raise NotImplementedError

    def switch_over(self, limit_ns: Nanos) -> Pending:
        raise NotImplementedError

    def end_guest(self, reason: str) -> None:
        raise NotImplementedError

    def ask_to_stop(self, reason: str) -> None:
        raise NotImplementedError


COMMITTED = Committed(at=Nanos(0), guest_id="vm1", epoch=1, dirty_pages=1, sent_bytes=1, pause_ns=1)
SOLO = Solo(at=Nanos(0), guest_id="vm1", generation=1, reason="")


def test_the_first_that_is_due_says_when_to_step_again() -> None:
    services = HostServices([Visitor(), Visitor(Nanos(30)), Visitor(Nanos(20))])

    assert services.step(Nanos(10)) == 20


def test_with_nobody_due_all_are_looked_at_once_in_a_while_and_the_loop_wakes_for_none() -> None:
    visitor = Visitor()
    services = HostServices([visitor])

    assert services.step(Nanos(10)) is None
    assert services.step(Nanos(11), []) is None
    assert services.step(Nanos(10 + LOOK_NS), []) is None
    assert visitor.steps == 2


def test_they_are_stepped_where_nobody_has_looked_what_is_readable() -> None:
    visitor = Visitor()
    services = HostServices([visitor])
    services.step(Nanos(10))

    services.step(Nanos(11), None)

    assert visitor.steps == 2


def test_one_that_is_due_is_stepped_then_and_not_before() -> None:
    visitor = Visitor(Nanos(20))
    services = HostServices([visitor])
    services.step(Nanos(10))
    visitor.due = None

    assert services.step(Nanos(19), []) == 20
    assert services.step(Nanos(20), []) is None
    assert visitor.steps == 2


def test_they_are_stepped_when_one_is_spoken_to_or_something_has_happened() -> None:
    visitor = Visitor()
    services = HostServices([visitor])
    services.step(Nanos(10))

    services.step(Nanos(11), [8])
    services.note(COMMITTED)
    services.step(Nanos(12), [8])
    assert visitor.steps == 1

    services.step(Nanos(13), [8, 7])
    services.note(SOLO)
    services.step(Nanos(14), [])
    assert visitor.steps == 3


def test_one_that_breaks_and_cannot_be_closed_is_told_of_with_both_reasons() -> None:
    """Regression: what its closing raised ended the host's loop, and the guest."""
    told: list[Event] = []
    broken = Visitor()
    services = HostServices([broken], told.append)
    services.begin(Guest(), Nanos(5))
    broken.breaks_in = "step"
    broken.close_error = PermissionError("read-only")

    services.step(Nanos(10))

    assert [event.error for event in told if isinstance(event, HostServiceFailed)] == [
        "RuntimeError: broken; closing it failed: PermissionError: read-only"
    ]


@pytest.mark.parametrize("place", ["note", "step"])
def test_one_that_breaks_is_closed_and_told_of_and_the_others_go_on(place: str) -> None:
    told: list[Event] = []
    broken, other = Visitor(), Visitor()
    services = HostServices([broken, other], told.append)
    services.begin(Guest(), Nanos(5))
    broken.breaks_in = place

    for _ in range(2):
        services.note(SOLO)
        services.step(Nanos(10))

    failures = [event for event in told if isinstance(event, HostServiceFailed)]
    assert [(event.name, event.error) for event in failures] == [("visitor", "RuntimeError: broken")]
    assert (broken.closed, broken.heard == [], other.steps, other.heard) == (1, place == "note", 2, [SOLO, SOLO])
    assert services.fds == (7,)


def test_closing_closes_all_of_them() -> None:
    visitors = [Visitor(), Visitor()]
    services = HostServices(visitors)

    services.close(Closing())

    assert [visitor.closed for visitor in visitors] == [1, 1]
    assert services.fds == ()
