"""The first copy ends: when the rest is small, when it no longer shrinks, or after so many rounds."""

from hypothesis import given
from hypothesis import strategies as st

from ftvm.config import Limits
from ftvm.protocol.active.active_state import CopyPlan

LIMITS = Limits(copy_rest_pages=10, copy_rounds=5)


def rounds_until_last(*sizes: int) -> list[bool]:
    plan = CopyPlan()
    return [plan.collected(size, LIMITS) for size in sizes]


def test_the_first_round_is_never_the_last_even_if_it_is_small() -> None:
    assert rounds_until_last(3) == [False]


def test_a_small_rest_is_cut_in_one_pause() -> None:
    assert rounds_until_last(1000, 500, 10) == [False, False, True]


def test_rounds_that_no_longer_shrink_are_ended() -> None:
    assert rounds_until_last(1000, 500, 451) == [False, False, True]


def test_rounds_that_shrink_too_slowly_are_ended_by_their_number() -> None:
    assert rounds_until_last(10000, 8000, 6000, 5000, 4000, 3000) == [False] * 5 + [True]


@given(st.lists(st.integers(0, 1 << 28), min_size=LIMITS.copy_rounds + 1, max_size=LIMITS.copy_rounds + 1))
def test_every_first_copy_ends(sizes: list[int]) -> None:
    assert any(rounds_until_last(*sizes))


def test_progress_counts_what_was_sent_and_what_is_left() -> None:
    plan = CopyPlan()
    plan.collected(100, LIMITS)

    plan.copied(60)
    plan.copied(0)

    assert (plan.pages_sent, plan.left, plan.round) == (100, 0, 1)
