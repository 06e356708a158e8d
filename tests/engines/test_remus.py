"""Remus: cut at a fixed interval, hold each output until its own epoch is committed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Watermarks
from ftvm.engines.names import ENGINES, engine_named
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import EngineView
from ftvm.units import Nanos


@given(st.integers(-(10**15), 10**15), st.floats(0.0005, 10), st.integers(0, 9))
def test_the_next_cut_is_one_interval_after_the_last_whatever_waits(last: int, interval: float, waiting: int) -> None:
    view = EngineView(last_cut_at=Nanos(last), epochs_in_flight=1, outputs_waiting=waiting, oldest_output_at=None)

    assert Remus(interval).next_cut(view) == last + round(interval * 1e9)


@given(st.integers(1, 1 << 40), st.integers(0, 1 << 40))
def test_an_output_needs_the_commit_of_its_own_epoch(epoch: int, log_index: int) -> None:
    needs = Remus().output_needs(epoch=epoch, log_index=log_index)

    assert Watermarks(epoch, 0).cover(needs)
    assert not Watermarks(epoch - 1, log_index).cover(needs)


@pytest.mark.parametrize("interval", [0, -1, 0.0004, 10.1, math.inf, math.nan])
def test_an_impossible_interval_is_refused(interval: float) -> None:
    with pytest.raises(ConfigError, match=r"an interval of .* ms is not from 0\.5 ms to 10000 ms"):
        Remus(interval)


def test_remus_asks_nothing_special_of_a_guest() -> None:
    assert Remus().needs == frozenset()


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found_by_its_own_name(name: str) -> None:
    assert engine_named(name, 0.02).name == name


def test_an_unknown_engine_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'warp'; choose one of: remus"):
        engine_named("warp", 0.02)
