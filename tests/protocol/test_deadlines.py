"""A driver that steps exactly when it is told to, and never else, loses nothing by it."""

import pytest

from ftvm.config import Timing
from ftvm.protocol.core import Role
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.units import Nanos

from .harness import MS, Pair, make_settings

TIMINGS = [
    Timing(),
    Timing(heartbeat_ns=Nanos(10 * MS), backup_limit_ns=Nanos(60 * MS), primary_limit_ns=Nanos(100 * MS)),
    Timing(heartbeat_ns=Nanos(20 * MS)),
    Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(5_000 * MS), primary_limit_ns=Nanos(9_000 * MS)),
]


def protected_at(origin: int, timing: Timing) -> Pair:
    pair = Pair(make_settings(timing=timing))
    for host in (pair.a, pair.b):
        host.replica._stepped_at = Nanos(origin)
    pair.now = Nanos(origin)
    return pair.protected()


@pytest.mark.parametrize("origin", [-(10**16), 0, 10**16])
@pytest.mark.parametrize(
    "timing", TIMINGS, ids=lambda timing: f"{timing.heartbeat_ns // MS}-{timing.backup_limit_ns // MS}"
)
def test_a_standby_that_is_stepped_at_its_deadlines_suspects_in_time(timing: Timing, origin: int) -> None:
    """Regression: its own waiting looked like a stall and excused the silence, again and again, for ever."""
    pair = protected_at(origin, timing)
    heard_at = pair.now

    for _ in range(10_000):
        if pair.b.standby.claim.state is not ClaimState.WATCHING:
            break
        pair.now = Nanos(max(pair.b.replica.end_step(pair.now).due, pair.now + 1))
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer()

    assert pair.now - heard_at <= 2 * timing.backup_limit_ns


@pytest.mark.parametrize("origin", [-(10**16), 0, 10**16])
@pytest.mark.parametrize(
    "timing", TIMINGS, ids=lambda timing: f"{timing.heartbeat_ns // MS}-{timing.backup_limit_ns // MS}"
)
def test_an_active_that_is_stepped_at_its_deadlines_drops_a_silent_standby_in_time(timing: Timing, origin: int) -> None:
    pair = protected_at(origin, timing)
    heard_at = pair.now

    for _ in range(100_000):
        if pair.store.record.standby is None:
            break
        pair.now = Nanos(max(pair.a.replica.end_step(pair.now).due, pair.now + 1))
        pair.a.tick()
        if pair.a.outstanding is not None:
            pair.a.answer()
        pair.a.sent.clear()

    assert pair.a.role is Role.ACTIVE
    assert pair.now - heard_at <= 2 * timing.primary_limit_ns
