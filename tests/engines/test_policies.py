"""What holds for every engine by itself: pure policies that the protocol can trust whatever they are asked."""

from dataclasses import replace
from typing import Any, Final

import pytest

from ftvm.engines.kemari import GROUP_OUTPUTS, QUIET_INTERVALS, Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.names import ENGINES
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.interfaces import Engine, EngineView
from ftvm.testing import check_engine
from ftvm.units import Nanos

MS: Final = 1_000_000
ALL: Final = [*(make(0.025) for make in ENGINES.values()), Remus(0.025, 0.005), Kemari(0.025, 0.0002)]
GROUPED: Final = Kemari(group=0.002)
ONE_WAITS: Final = EngineView(last_cut_at=Nanos(0), epochs_in_flight=0, outputs_waiting=1, oldest_output_at=Nanos(7))


@pytest.mark.parametrize("engine", ALL, ids=repr)
def test_every_engine_keeps_its_contract(engine: Engine) -> None:
    check_engine(engine, longest_seconds=2)


def test_kemari_cuts_at_the_moment_of_the_output() -> None:
    assert Kemari().next_cut(ONE_WAITS) == 7


def test_kemari_does_not_cut_again_for_an_output_that_is_on_its_way() -> None:
    view = EngineView(last_cut_at=Nanos(9), epochs_in_flight=1, outputs_waiting=1, oldest_output_at=Nanos(7))

    assert Kemari(0.025).next_cut(view) == 9 + QUIET_INTERVALS * 25 * MS


def test_grouped_kemari_waits_for_other_outputs_from_the_first_one_on() -> None:
    assert GROUPED.next_cut(ONE_WAITS) == 7 + 2 * MS


@pytest.mark.parametrize("known", [{"is_guest_idle": True}, {"outputs_waiting": GROUP_OUTPUTS}], ids=str)
def test_grouped_kemari_waits_for_no_output_that_will_not_come_or_is_one_too_many(known: dict[str, Any]) -> None:
    assert GROUPED.next_cut(replace(ONE_WAITS, **known)) == 7


def test_only_grouped_kemari_lets_a_guest_go_on_behind_an_output_and_both_stand_still_behind_a_cut() -> None:
    assert [(engine.stops_at_output, engine.stands_still) for engine in (Kemari(), GROUPED)] == [
        (True, True),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("round_trip_ms", "mark_at_ms"), [(0, 25), (20, 25), (80, 100), (5_000, 1_250)], ids=["none", "near", "far", "lost"]
)
def test_the_marks_of_lockstep_follow_the_round_trip(round_trip_ms: int, mark_at_ms: int) -> None:
    view = EngineView(
        last_cut_at=Nanos(0),
        epochs_in_flight=1,
        outputs_waiting=0,
        oldest_output_at=None,
        round_trip_ns=round_trip_ms * MS,
    )

    assert Lockstep(0.025).next_cut(view) == mark_at_ms * MS


@pytest.mark.parametrize("group", [-0.001, 0.101, float("nan")])
def test_a_group_beyond_its_bounds_is_refused(group: float) -> None:
    with pytest.raises(ConfigError, match=r"a group commit of .* ms is not from 0 to 100 ms"):
        Kemari(group=group)
