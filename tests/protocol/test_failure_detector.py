"""When silence becomes suspicion: within bounds, whatever the peer or the link does."""

from hypothesis import given
from hypothesis import strategies as st

from ftvm.protocol.detector import (
    BUCKET_NS,
    EXCUSES_MAX,
    GAP_FACTOR,
    LIMIT_FACTOR_MAX,
    MEMORY_NS,
    PROGRESS_FACTOR,
    FailureDetector,
)
from ftvm.units import Nanos

MS = 1_000_000
LIMIT = Nanos(300 * MS)
ORIGIN = Nanos(-5_000_000 * MS)


def beating(watch: FailureDetector, now: Nanos, *gaps: int, number: int = 0) -> Nanos:
    """Let a heartbeat come after each of these gaps, the first right now; return when the last came."""
    watch.heard(now, number)
    for place, gap in enumerate(gaps, start=1):
        now = Nanos(now + gap)
        watch.heard(now, number + place)
    return now


def make_watch(*gaps: int, patience: int = 1) -> tuple[FailureDetector, Nanos]:
    watch = FailureDetector(LIMIT, ORIGIN, patience=patience)
    return watch, beating(watch, ORIGIN, *gaps)


def test_silence_below_the_limit_is_no_suspicion_and_at_the_limit_it_is() -> None:
    watch, now = make_watch(10)

    assert not watch.is_silent(Nanos(now + LIMIT - 1))
    assert watch.is_silent(Nanos(now + LIMIT))
    assert watch.suspects_at == now + LIMIT


# --- the limit adapts ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10 * LIMIT), max_size=40), st.integers(1, 10))
def test_the_limit_stays_between_what_was_configured_and_ten_times_that(gaps: list[int], patience: int) -> None:
    watch, _ = make_watch(*gaps, patience=patience)

    assert LIMIT * patience <= watch.limit_ns() <= LIMIT * patience * LIMIT_FACTOR_MAX


@given(st.lists(st.integers(0, LIMIT * 2), max_size=20))
def test_the_limit_is_never_under_four_times_the_longest_gap_of_a_minute(gaps: list[int]) -> None:
    watch, _ = make_watch(*gaps)

    assert watch.limit_ns() == max(LIMIT, GAP_FACTOR * max(gaps, default=0))


def test_a_gap_is_remembered_for_a_minute_and_no_longer_however_many_messages_come() -> None:
    watch, now = make_watch(200 * MS)
    limits = []
    for wait in (MEMORY_NS - BUCKET_NS, 2 * BUCKET_NS):
        gaps = [BUCKET_NS // 20] * (20 * wait // BUCKET_NS)
        now = beating(watch, Nanos(now + BUCKET_NS // 20), *gaps, number=now)
        for _ in range(2000):
            watch.heard(now)
        limits.append(watch.limit_ns())

    assert limits == [GAP_FACTOR * 200 * MS, LIMIT]


def test_messages_that_are_no_heartbeats_leave_no_gap() -> None:
    watch, now = make_watch()

    for wait in (250 * MS, 290 * MS):
        now = Nanos(now + wait)
        watch.heard(now)

    assert watch.limit_ns() == LIMIT


@given(st.lists(st.integers(0, 20 * BUCKET_NS), max_size=300))
def test_what_is_remembered_is_bounded_by_the_seconds_of_a_minute(gaps: list[int]) -> None:
    watch, _ = make_watch(*gaps)

    assert len(watch._gaps.longest) <= MEMORY_NS // BUCKET_NS + 1


def test_arming_ends_the_patience_and_forgets_the_gaps_of_the_time_before() -> None:
    watch, now = make_watch(2_000 * MS, patience=10)

    watch.arm(now)

    assert watch.limit_ns() == LIMIT
    assert watch.silence_ns(now) == 0


# --- suspected at once -----------------------------------------------------------------------------------------------


def test_hurry_suspects_at_once_and_any_sign_of_life_undoes_it() -> None:
    watch, now = make_watch(10)

    watch.hurry("it said goodbye")
    was_silent, reason = watch.is_silent(now), watch.reason("the peer", now)
    watch.heard(now)

    assert was_silent
    assert reason == "it said goodbye"
    assert not watch.is_silent(now)


# --- our own stalls --------------------------------------------------------------------------------------------------


def test_an_excuse_leaves_our_own_stall_out_and_no_more() -> None:
    watch, now = make_watch(10)

    stalled_until = Nanos(now + 100 * MS + 5_000 * MS)
    watch.excuse(5_000 * MS, stalled_until)
    silence_ns = watch.silence_ns(stalled_until)
    watch.heard(stalled_until, 7)

    assert silence_ns == 100 * MS
    assert watch.limit_ns() == GAP_FACTOR * 100 * MS


def test_stop_pulses_do_not_excuse_a_dead_peer_for_ever() -> None:
    """Regression: a host stopped for 250 ms and running for 50 ms, again and again, never suspected anybody."""
    watch, now = make_watch(10)
    pulses = 0
    while not watch.is_silent(now) and pulses < 1_000:
        pulses += 1
        now = Nanos(now + 250 * MS)
        watch.excuse(250 * MS, now)
        now = Nanos(now + 50 * MS)

    assert pulses <= LIMIT // (50 * MS)


def test_a_peer_that_is_heard_between_stalls_is_excused_each_time() -> None:
    watch, now = make_watch(10)
    for _ in range(10 * EXCUSES_MAX):
        now = Nanos(now + 10_000 * MS)
        watch.excuse(10_000 * MS, now)
        watch.heard(now)

    assert not watch.is_silent(now)


def test_stalls_without_any_sign_of_life_between_are_excused_a_few_times_only() -> None:
    watch, now = make_watch(10)
    for _ in range(EXCUSES_MAX + 1):
        now = Nanos(now + LIMIT)
        watch.excuse(LIMIT, now)

    assert watch.is_silent(now)


# --- progress --------------------------------------------------------------------------------------------------------


def test_a_loop_that_makes_no_progress_for_four_limits_is_suspected_though_its_process_is_heard() -> None:
    watch, now = make_watch(10)
    hung_at = now
    while not watch.is_silent(now):
        now = Nanos(now + 50 * MS)
        if now < hung_at + PROGRESS_FACTOR * LIMIT:
            watch.heard(now, 1)

    assert now - hung_at == PROGRESS_FACTOR * LIMIT
    assert watch.reason("the active", now) == (
        "the active's process lives, but its loop has made no progress for 1200 ms"
    )


def test_a_loop_that_is_busy_for_less_is_not_suspected() -> None:
    watch, now = make_watch(10)
    for _ in range(20):
        now = Nanos(now + 50 * MS)
        watch.heard(now, 1)

    watch.heard(now, 2)

    assert not watch.is_silent(Nanos(now + LIMIT - 1))
