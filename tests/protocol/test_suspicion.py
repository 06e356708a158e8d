"""When silence becomes suspicion: within bounds, whatever the peer or the link does."""

from hypothesis import given
from hypothesis import strategies as st

from ftvm.protocol.suspicion import GAP_FACTOR, GAPS_KEPT, LIMIT_FACTOR_MAX, Watch
from ftvm.units import Nanos

LIMIT = Nanos(300)
ORIGIN = Nanos(-5_000_000)


def make_watch(*gaps: int, patience: int = 1) -> tuple[Watch, Nanos]:
    watch, now = Watch(LIMIT, ORIGIN, patience=patience), ORIGIN
    for gap in gaps:
        now = Nanos(now + gap)
        watch.heard(now)
    return watch, now


def test_silence_below_the_limit_is_no_suspicion_and_at_the_limit_it_is() -> None:
    watch, now = make_watch(10)

    assert not watch.is_silent(Nanos(now + LIMIT - 1))
    assert watch.is_silent(Nanos(now + LIMIT))
    assert watch.deadline() == now + LIMIT


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(1, 10))
def test_the_limit_stays_between_what_was_configured_and_ten_times_that(gaps: list[int], patience: int) -> None:
    watch, _ = make_watch(*gaps, patience=patience)

    assert LIMIT * patience <= watch.limit_ns() <= LIMIT * patience * LIMIT_FACTOR_MAX


@given(st.lists(st.integers(0, LIMIT * 2), min_size=1, max_size=40))
def test_the_limit_is_never_under_four_times_the_longest_recent_gap(gaps: list[int]) -> None:
    watch, _ = make_watch(*gaps)

    assert watch.limit_ns() == max(LIMIT, GAP_FACTOR * max(gaps[-GAPS_KEPT:]))


def test_old_gaps_are_forgotten() -> None:
    watch, _ = make_watch(1_000, *[10] * GAPS_KEPT)

    assert watch.limit_ns() == LIMIT


def test_hurry_suspects_at_once_and_any_sign_of_life_undoes_it() -> None:
    watch, now = make_watch(10)

    watch.hurry("it said goodbye")
    was_silent = watch.is_silent(now)
    watch.heard(now)

    assert was_silent
    assert not watch.is_silent(now)


def test_an_excuse_starts_the_silence_anew_and_is_no_gap() -> None:
    watch, now = make_watch(10)

    watch.excuse(Nanos(now + 5_000))

    assert not watch.is_silent(Nanos(now + 5_000 + LIMIT - 1))
    assert watch.limit_ns() == LIMIT


def test_arming_ends_the_patience_and_forgets_the_gaps_of_the_time_before() -> None:
    watch, now = make_watch(2_000, patience=10)

    watch.arm(now)

    assert watch.limit_ns() == LIMIT
    assert watch.silence_ns(now) == 0
