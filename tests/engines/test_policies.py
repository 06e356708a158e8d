"""What holds for every engine by itself: pure policies that the protocol can trust whatever they are asked."""

from typing import Final

import pytest

from ftvm.engines.kemari import QUIET_INTERVALS, Kemari
from ftvm.engines.names import ENGINES
from ftvm.engines.remus import Remus
from ftvm.interfaces import Engine, EngineView
from ftvm.testing import check_engine
from ftvm.units import Nanos

MS: Final = 1_000_000
ALL: Final = [*(make(0.025) for make in ENGINES.values()), Remus(0.025, 0.005)]


@pytest.mark.parametrize("engine", ALL, ids=repr)
def test_every_engine_keeps_its_contract(engine: Engine) -> None:
    check_engine(engine, longest_seconds=QUIET_INTERVALS * 0.025)


def test_kemari_cuts_at_the_moment_of_the_output() -> None:
    view = EngineView(last_cut_at=Nanos(0), epochs_in_flight=0, outputs_waiting=1, oldest_output_at=Nanos(7))

    assert Kemari().next_cut(view) == 7


def test_kemari_does_not_cut_again_for_an_output_that_is_on_its_way() -> None:
    view = EngineView(last_cut_at=Nanos(9), epochs_in_flight=1, outputs_waiting=1, oldest_output_at=Nanos(7))

    assert Kemari(0.025).next_cut(view) == 9 + QUIET_INTERVALS * 25 * MS
