"""Adaptive Remus: what moves the next cut, in which direction, and between which bounds."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.engines.interval import INTERVAL_MIN
from ftvm.engines.names import engine_named
from ftvm.engines.remus import DIRTY_PAGES_CAP, PAUSES_APART, STRETCH, Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import EngineView
from ftvm.units import Nanos, seconds_to_nanos

MS: Final = 1_000_000
ENGINE: Final = Remus(interval=0.025, latency=0.010)
LONGEST_NS: Final = STRETCH * 25 * MS
LAST_CUT: Final = Nanos(-3_000 * MS)
QUIET: Final = EngineView(last_cut_at=LAST_CUT, epochs_in_flight=0, outputs_waiting=0, oldest_output_at=None)

durations = st.integers(0, 20_000 * MS)
views = st.builds(
    EngineView,
    last_cut_at=st.just(LAST_CUT),
    epochs_in_flight=st.integers(0, 2),
    outputs_waiting=st.integers(0, 9),
    oldest_output_at=st.none(),
    oldest_uncut_at=st.none() | durations.map(lambda after: Nanos(LAST_CUT + after)),
    epoch_ns=durations,
    dirty_pages=st.integers(0, 1 << 24),
    pause_ns=durations,
    commit_ns=durations,
)


def wait_ns(view: EngineView, engine: Remus = ENGINE) -> int:
    """How long after the last cut the next one is due."""
    return engine.next_cut(view) - view.last_cut_at


def speaking(after_ms: int, **facts: int) -> EngineView:
    """A view in which the guest first spoke so long after the last cut."""
    return replace(QUIET, oldest_uncut_at=Nanos(LAST_CUT + after_ms * MS), outputs_waiting=1, **facts)


@given(views)
def test_the_next_cut_is_never_closer_than_the_least_interval_nor_further_than_the_stretched_one(
    view: EngineView,
) -> None:
    assert seconds_to_nanos(INTERVAL_MIN) <= wait_ns(view) <= LONGEST_NS


@given(views)
def test_the_same_view_gives_the_same_cut_wherever_the_clock_started(view: EngineView) -> None:
    shift = 10**15
    uncut = view.oldest_uncut_at
    later = replace(
        view,
        last_cut_at=Nanos(view.last_cut_at + shift),
        oldest_uncut_at=None if uncut is None else Nanos(uncut + shift),
    )

    assert wait_ns(later) == wait_ns(view)


def test_a_quiet_guest_is_cut_less_often() -> None:
    assert wait_ns(QUIET) == LONGEST_NS


@pytest.mark.parametrize("commit_ms", [0, 1, 4])
def test_an_output_leaves_about_the_target_after_it_was_made(commit_ms: int) -> None:
    view = speaking(7, commit_ns=commit_ms * MS)

    hold_ns = wait_ns(view) - 7 * MS + view.commit_ns

    assert hold_ns == 10 * MS


def test_an_output_that_cannot_leave_in_time_is_cut_at_once() -> None:
    view = speaking(20, commit_ns=15 * MS)

    assert LAST_CUT + wait_ns(view) <= LAST_CUT + 20 * MS


@given(views, st.integers(0, 20_000 * MS))
def test_an_output_never_delays_a_cut(view: EngineView, after: int) -> None:
    silent = replace(view, oldest_uncut_at=None)
    speaks = replace(view, oldest_uncut_at=Nanos(LAST_CUT + after))

    assert wait_ns(speaks) <= wait_ns(silent)


def test_a_guest_that_dirties_the_cap_in_half_an_epoch_gets_epochs_half_as_long() -> None:
    view = replace(QUIET, epoch_ns=40 * MS, dirty_pages=2 * DIRTY_PAGES_CAP)

    assert wait_ns(view) == 20 * MS


@given(views, st.integers(1, 1 << 24))
def test_more_dirty_pages_never_delay_a_cut(view: EngineView, more: int) -> None:
    dirtier = replace(view, dirty_pages=view.dirty_pages + more)

    assert wait_ns(dirtier) <= wait_ns(view)


def test_a_lagging_backup_moves_cuts_apart_although_output_waits() -> None:
    prompt, lagging = speaking(0, commit_ns=2 * MS), speaking(0, commit_ns=60 * MS)

    assert wait_ns(prompt) == 8 * MS
    assert wait_ns(lagging) == 30 * MS


def test_a_long_pause_is_followed_by_enough_running() -> None:
    view = speaking(0, pause_ns=3 * MS)

    assert wait_ns(view) == PAUSES_APART * 3 * MS


@given(views)
def test_without_a_target_nothing_moves_the_cut(view: EngineView) -> None:
    assert wait_ns(view, Remus(interval=0.025)) == 25 * MS


@pytest.mark.parametrize("latency", [0, -1, 0.0004, 10.1, float("nan"), float("inf")])
def test_an_impossible_latency_is_refused(latency: float) -> None:
    with pytest.raises(ConfigError, match=r"a latency target of .* ms is not from 0\.5 ms to 10000 ms"):
        Remus(latency=latency)


def test_the_command_line_gives_remus_its_target() -> None:
    assert engine_named("remus", 0.025, 0.01) == ENGINE


@pytest.mark.parametrize("name", ["kemari", "hybrid"])
def test_an_engine_that_does_not_adapt_refuses_a_target(name: str) -> None:
    with pytest.raises(ConfigError, match=f"engine {name} takes no latency target; only remus"):
        engine_named(name, 0.025, 0.01)
