"""A heartbeat that is repeated while the loop is busy tells that the process lives, not that the loop goes on."""

from types import SimpleNamespace
from typing import Any

from ftvm.config import Timing
from ftvm.errors import ClosedError
from ftvm.events import Suspected
from ftvm.protocol.view import ClaimState, Role
from ftvm.runtime.pulse import Pulse
from ftvm.testing.pair import Pair
from ftvm.units import Nanos

HEARTBEAT_MS = Timing().heartbeat_ns / 1e6
LIMIT_MS = Timing().backup_limit_ns / 1e6
BEAT_MS = 1.3 * HEARTBEAT_MS
"""Late enough to be repeated."""


def protected() -> Pair:
    pair = Pair().protected()
    pair.run(int(5 * HEARTBEAT_MS))
    return pair


def hang(pair: Pair, milliseconds: float, *, beats: bool = True) -> None:
    """Keep a's loop busy for so long, while b runs."""
    for _ in range(int(milliseconds / BEAT_MS)):
        pair.clock.elapse(BEAT_MS)
        if beats:
            pair.a.endpoint.beat(pair.clock.now())
        pair.b.step()


def test_a_heartbeat_is_late_by_a_quarter_of_the_interval() -> None:
    pulse = Pulse("b", [b"ping"], Nanos(0), Nanos(40))

    assert pulse.due_at == 50


def test_the_heart_sleeps_until_the_loop_is_late_and_no_longer() -> None:
    pair = protected()
    endpoint, pulse = pair.a.endpoint, pair.a.driver.pulse
    assert pulse is not None

    late_ns = Timing().heartbeat_ns * 5 // 4
    assert endpoint.beats_in(pulse.sent_at) == late_ns
    assert endpoint.beats_in(Nanos(pulse.sent_at + late_ns - 1)) == 1
    endpoint.beat(Nanos(pulse.sent_at + late_ns))
    assert endpoint.beats_in(pulse.sent_at) == late_ns


def test_a_heart_that_wakes_early_repeats_nothing() -> None:
    pair = protected()
    endpoint, pulse = pair.a.endpoint, pair.a.driver.pulse
    assert pulse is not None
    sent_at = pulse.sent_at

    endpoint.beat(Nanos(pulse.due_at - 1))

    assert pulse.sent_at == sent_at


def test_a_heart_with_nothing_to_repeat_wakes_before_what_the_loop_may_send_is_late() -> None:
    pair = Pair()

    assert pair.b.driver.pulse is None
    assert pair.b.endpoint.beats_in(Nanos(0)) == Timing().heartbeat_ns * 5 // 4


def test_the_heart_wakes_in_time_for_a_guest_that_sends_its_first_heartbeat_meanwhile() -> None:
    """Regression: it slept until another guest's heartbeat, of a longer interval, was late."""
    pair = protected()
    endpoint, pulse = pair.a.endpoint, pair.a.driver.pulse
    assert pulse is not None
    quick: Any = SimpleNamespace(pulse=None, settings=SimpleNamespace(timing=Timing(heartbeat_ns=Nanos(4_000_000))))

    endpoint._drivers["vm2"] = quick

    assert endpoint.beats_in(pulse.sent_at) == 5_000_000


def test_a_busy_loop_is_not_suspected_for_longer_than_the_limit() -> None:
    pair = protected()

    hang(pair, 3 * LIMIT_MS)

    assert pair.b.role is Role.STANDBY
    assert pair.b.told(Suspected) == []


def test_without_its_heart_a_busy_loop_is_suspected_at_the_limit() -> None:
    pair = protected()

    hang(pair, 2 * LIMIT_MS, beats=False)

    assert [event.reason for event in pair.b.told(Suspected)] == [""]


def test_a_loop_that_hangs_is_suspected_though_its_heart_beats() -> None:
    pair = protected()

    hang(pair, 6 * LIMIT_MS)

    assert "the active's process lives, but its loop has made no progress" in pair.b.told(Suspected)[0].reason
    assert pair.b.role is Role.ACTIVE


def test_the_standbys_busy_loop_is_borne_with_as_well() -> None:
    pair = protected()

    for _ in range(int(1.5 * LIMIT_MS / BEAT_MS)):
        pair.clock.elapse(BEAT_MS)
        pair.b.endpoint.beat(pair.clock.now())
        pair.a.step()

    assert pair.a.told(Suspected) == []


def test_who_claims_the_guest_gives_no_sign_of_life() -> None:
    pair = protected()
    had_pulse = pair.b.driver.pulse is not None

    while pair.b.view.standby is not None and pair.b.standby.claim is ClaimState.WATCHING:
        pair.clock.elapse(BEAT_MS)
        pair.b.step()

    assert had_pulse
    assert pair.b.driver.pulse is None


def test_who_has_ended_gives_no_sign_of_life() -> None:
    pair = protected()
    had_pulse = pair.a.driver.pulse is not None

    pair.a.driver.halt(ClosedError("gone"))

    assert had_pulse
    assert pair.a.driver.pulse is None
