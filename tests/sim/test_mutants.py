"""The simulator finds each break of the protocol: a mutant that lives would show that a fault or a checker is missing.

recorded_seeds.json holds the seeds that found each when it was last searched for. When the world has changed so much
that none of a mutant's seeds finds it any more, search again and look at what changed:

    ftvm simulate --mutant all --seeds 20000 --jobs 2 --record tests/sim/recorded_seeds.json

A few breaks need two things within milliseconds of each other; they have a script as well (scripts.py).
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.lab.campaign import MISWRITTEN
from ftvm.sim.checkers import InvariantViolated
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import mutate
from ftvm.sim.run import play

from . import scripts

RECORDED: dict[str, list[int]] = json.loads((Path(__file__).parent / "recorded_seeds.json").read_text())
SCRIPTS: dict[str, Callable[[int], None]] = {
    "add_up_the_refusals_of_two_resets": scripts.the_firewall_resets_twice_and_refuses_once_each_time,
    "add_without_hold": scripts.the_active_dies_right_after_its_add,
    "bear_with_a_loop_that_hangs": scripts.the_actives_loop_hangs_for_good,
    "discard_before_an_add_can_have_come": scripts.the_active_dies_while_its_add_is_written,
    "excuse_every_stall_to_its_end": scripts.the_standby_of_a_dead_active_is_stopped_again_and_again,
}
SCRIPT_SEEDS = range(4)


def script_finds(play_script: Callable[[int], None], seed: int) -> bool:
    try:
        play_script(seed)
    except InvariantViolated:
        return True
    except scripts.MomentMissed:
        return False
    return False


def found_by(name: str) -> int:
    return len(RECORDED.get(name, [])) + (name in SCRIPTS)


def test_at_least_thirty_breaks_are_found() -> None:
    assert set(RECORDED) <= set(MUTANTS)
    assert sum(map(bool, map(found_by, MUTANTS))) >= 30


@pytest.mark.parametrize("name", [name for name, seeds in RECORDED.items() if seeds])
def test_a_break_is_found(name: str) -> None:
    with mutate(name):
        is_found = any(play(seed).invariant not in {None, *MISWRITTEN} for seed in RECORDED[name])

    assert is_found, f"no recorded seed finds that {MUTANTS[name].breaks}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_break_of_a_moment_is_found_by_its_script(name: str) -> None:
    with mutate(name):
        assert any(script_finds(SCRIPTS[name], seed) for seed in SCRIPT_SEEDS)


def test_the_recorded_seeds_break_nothing_that_is_whole() -> None:
    seeds = sorted({seeds[0] for seeds in RECORDED.values() if seeds})

    assert [seed for seed in seeds if play(seed).invariant is not None] == []


@pytest.mark.parametrize("seed", SCRIPT_SEEDS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_breaks_nothing_that_is_whole(name: str, seed: int) -> None:
    assert not script_finds(SCRIPTS[name], seed)
