"""A guest that makes its host's loop wait: told once, shown, and bounded once the host is to stop."""

from dataclasses import replace

import pytest

from ftvm.errors import GuestError
from ftvm.events import HostStalled
from ftvm.runtime.waiting import GuestWait
from ftvm.units import Nanos

from ..service.fakes import SECOND, STATUS

REASON = "the monitor (process 9) has not answered `pause` for 1 s"


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 100 * SECOND

    def now(self) -> Nanos:
        return Nanos(self.at)


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def wait(clock: Hand, told: list[str]) -> GuestWait:
    wait = GuestWait(clock, told.append)
    wait.begin(lambda: True, lambda: None)
    return wait


def test_a_wait_is_told_once_and_has_no_end_of_its_own(wait: GuestWait, clock: Hand, told: list[str]) -> None:
    for _ in range(200):
        assert wait.may_wait(REASON)
        clock.at += SECOND

    assert told == [REASON]


def test_a_guest_that_is_slow_again_and_again_is_told_of_once_a_minute(
    wait: GuestWait, clock: Hand, told: list[str]
) -> None:
    for _ in range(120):
        wait.may_wait(REASON)
        wait.over()
        clock.at += SECOND

    assert told == [REASON] * 2


@pytest.mark.parametrize(("role", "state"), [("active", "standing still"), ("standby", "standby unable")])
def test_the_status_shows_a_wait_since_when_and_why_until_it_is_over(
    role: str, state: str, wait: GuestWait, clock: Hand
) -> None:
    wait.may_wait(REASON)
    clock.at += 3 * SECOND
    now = replace(STATUS, role=role, at=clock.now())
    shown = wait.shown_in(now)
    wait.over()

    assert (shown.state, shown.reason, shown.state_seconds) == (state, REASON, 3.0)
    assert wait.shown_in(now) == now


def stalled(clock: Hand, seconds: int) -> HostStalled:
    return HostStalled(at=clock.now(), guest_id="vm1", stall_ns=seconds * SECOND)


def test_a_stall_is_explained_by_the_wait_in_it(wait: GuestWait, clock: Hand) -> None:
    """Regression: a host that had waited for its QEMU said that it was stopped, or too busy."""
    wait.may_wait(REASON)
    during = wait.explained(stalled(clock, 3))
    wait.over()
    clock.at += SECOND // 100
    wait.over()
    behind = wait.explained(stalled(clock, 3))

    assert (during.waited, behind.waited, behind.stall_ns) == (REASON, REASON, 3 * SECOND)


def test_a_stall_that_no_wait_was_in_is_explained_by_none(wait: GuestWait, clock: Hand) -> None:
    before = stalled(clock, 3)
    wait.may_wait(REASON)
    wait.over()
    clock.at += 10 * SECOND

    assert wait.explained(stalled(clock, 3)).waited == ""
    assert GuestWait(clock, lambda _: None).explained(before) == before


def test_no_order_is_taken_during_a_wait(wait: GuestWait) -> None:
    wait.require_over()
    wait.may_wait(REASON)

    with pytest.raises(GuestError, match="has not answered `pause` for 1 s; nothing was done"):
        wait.require_over()


def test_a_host_that_stops_waits_so_long_in_all_and_says_so(wait: GuestWait, clock: Hand, told: list[str]) -> None:
    wait.hurry(10)

    assert wait.may_wait(REASON)
    clock.at += 9 * SECOND
    assert wait.may_wait(REASON)
    wait.over()
    clock.at += SECOND
    assert not wait.may_wait(REASON)
    assert told == [REASON, f"{REASON}: this host stops, and gives its guest up in 10 s"]


def test_who_is_hurried_again_waits_no_longer_and_no_later_wish_gives_it_more(wait: GuestWait) -> None:
    wait.hurry(10)
    wait.hurry(0)
    wait.hurry(10)

    assert not wait.may_wait(REASON)


def test_a_thread_that_is_not_the_loops_is_bounded_too_but_holds_nobody_up(clock: Hand, told: list[str]) -> None:
    wait = GuestWait(clock, told.append)

    assert wait.may_wait(REASON)
    wait.require_over()
    wait.hurry(0)
    assert not wait.may_wait(REASON)
    assert told == []
