"""What holds for every engine by itself: pure policies that the protocol can trust whatever they are asked."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Watermarks
from ftvm.engines.kemari import QUIET_INTERVALS, Kemari
from ftvm.engines.names import ENGINES
from ftvm.engines.remus import Remus
from ftvm.interfaces import Capability, Engine, EngineView
from ftvm.units import Nanos

MS: Final = 1_000_000
ALL: Final = [*(make(0.025) for make in ENGINES.values()), Remus(0.025, 0.005)]

times = st.integers(0, 10**12).map(Nanos)
views = st.builds(
    EngineView,
    last_cut_at=times,
    epochs_in_flight=st.integers(0, 8),
    outputs_waiting=st.integers(0, 1000),
    oldest_output_at=st.none() | times,
    oldest_uncut_at=st.none() | times,
    epoch_ns=st.integers(0, 10**10),
    dirty_pages=st.integers(0, 1 << 20),
    pause_ns=st.integers(0, 10**10),
    commit_ns=st.integers(0, 10**10),
)
epochs = st.integers(1, 1 << 40)
log_indices = st.integers(0, 1 << 40)


def later(at: Nanos | None, shift: int) -> Nanos | None:
    return None if at is None else Nanos(at + shift)


@pytest.mark.parametrize("engine", ALL, ids=repr)
@given(view=views, shift=st.integers(-(10**15), 10**15))
def test_no_policy_depends_on_where_the_clock_starts(engine: Engine, view: EngineView, shift: int) -> None:
    moved = replace(
        view,
        last_cut_at=Nanos(view.last_cut_at + shift),
        oldest_output_at=later(view.oldest_output_at, shift),
        oldest_uncut_at=later(view.oldest_uncut_at, shift),
    )

    assert engine.next_cut(moved) == engine.next_cut(view) + shift


@pytest.mark.parametrize("engine", ALL, ids=repr)
@given(view=views)
def test_every_guest_is_cut_again_within_a_bounded_time(engine: Engine, view: EngineView) -> None:
    """Or a takeover would replay, or the next cut ship, without bound."""
    latest = max(view.last_cut_at + QUIET_INTERVALS * 25 * MS, view.oldest_output_at or 0)

    assert engine.next_cut(view) <= latest


@pytest.mark.parametrize("engine", ALL, ids=repr)
@given(epoch=epochs, log_index=log_indices, more=st.integers(0, 9), more_log=st.integers(0, 9))
def test_a_later_output_never_needs_less(engine: Engine, epoch: int, log_index: int, more: int, more_log: int) -> None:
    earlier = engine.output_needs(epoch=epoch, log_index=log_index)
    after = engine.output_needs(epoch=epoch + more, log_index=log_index + more_log)

    assert after.cover(earlier)


@pytest.mark.parametrize("engine", ALL, ids=repr)
@given(epoch=epochs, log_index=st.integers(1, 1 << 40))
def test_an_output_needs_its_own_epoch_or_its_own_log_record(engine: Engine, epoch: int, log_index: int) -> None:
    needs = engine.output_needs(epoch=epoch, log_index=log_index)

    assert needs == (Watermarks(0, log_index) if engine.logs else Watermarks(epoch, 0))


@pytest.mark.parametrize("engine", ALL, ids=repr)
def test_an_engine_that_logs_asks_for_a_guest_that_can_be_replayed(engine: Engine) -> None:
    assert (Capability.REPLAY in engine.needs) == engine.logs


def test_kemari_cuts_at_the_moment_of_the_output() -> None:
    view = EngineView(last_cut_at=Nanos(0), epochs_in_flight=0, outputs_waiting=1, oldest_output_at=Nanos(7))

    assert Kemari().next_cut(view) == 7


def test_kemari_does_not_cut_again_for_an_output_that_is_on_its_way() -> None:
    view = EngineView(last_cut_at=Nanos(9), epochs_in_flight=1, outputs_waiting=1, oldest_output_at=Nanos(7))

    assert Kemari(0.025).next_cut(view) == 9 + QUIET_INTERVALS * 25 * MS
