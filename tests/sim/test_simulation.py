"""The simulator itself: clean seeds stay clean, and a seed is one history, whatever the interpreter hashes like."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from ftvm.engines.names import engine_named
from ftvm.sim.faults import FAULTS
from ftvm.sim.operator import ACTIONS
from ftvm.sim.plan import MESSAGE_FAULTS
from ftvm.sim.simulation import Simulation

CLEAN_SEEDS = range(100, 112)
"""Together they have every kind of fault."""

TRACE = """
import hashlib
from ftvm.sim.simulation import Simulation
for seed in {seeds}:
    world = Simulation(seed, traces=True)
    world.run()
    print(seed, hashlib.sha256("\\n".join(world.trace_log.lines).encode()).hexdigest(), len(world.trace_log.lines))
"""


@cache
def history_of(seed: int) -> Simulation:
    """Return the world of a seed, played to its end: each only once for all tests."""
    world = Simulation(seed)
    world.run()
    return world


@pytest.mark.parametrize("seed", CLEAN_SEEDS)
def test_a_seed_keeps_every_invariant_and_the_guest_lives_on(seed: int) -> None:
    world = history_of(seed)

    assert world.checkers.outputs.released
    assert world.trace_log.told["Committed"]


@pytest.mark.parametrize("seed", range(200, 203))
@pytest.mark.parametrize("engine", ["kemari", "lockstep", "hybrid"])
def test_a_seed_keeps_every_invariant_under_each_engine(engine: str, seed: int) -> None:
    world = Simulation(seed, engine=engine_named(engine, 0.04))

    world.run()

    assert world.checkers.outputs.released
    assert world.trace_log.told["Committed"]
    assert world.trace_log.told["Diverged"] <= faults_of(world)["load_failed"]


def faults_of(world: Simulation) -> Counter[str]:
    """Return how many faults of each kind happened."""
    return Counter(fault.kind for fault in world.faults.happened)


def traces_of(seeds: range, hash_seed: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", TRACE.format(seeds=seeds)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return run.stdout.splitlines()


def test_a_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    traces = traces_of(CLEAN_SEEDS, "1")

    assert len(traces) == len(CLEAN_SEEDS)
    assert traces == traces_of(CLEAN_SEEDS, "2")


def test_other_seeds_are_other_histories() -> None:
    digests = set()
    for seed in (1, 2):
        world = Simulation(seed, traces=True)
        world.run()
        digests.add(hashlib.sha256("\n".join(world.trace_log.lines).encode()).hexdigest())

    assert len(digests) == 2


def test_the_faults_do_happen() -> None:
    worlds = [history_of(seed) for seed in CLEAN_SEEDS]

    happened = sum(map(faults_of, worlds), Counter())
    assert set(happened) == {*MESSAGE_FAULTS, *(kind.kind for kind in (*FAULTS, *ACTIONS))}
    assert sum(world.trace_log.told["TookOver"] for world in worlds)
    assert sum(world.checkers.states.compared for world in worlds)
    assert sum(world.checkers.outputs.repeats for world in worlds)


def test_losers_that_live_keep_a_part_of_their_memory_or_all_of_it() -> None:
    kept: set[bool] = set()
    for seed in range(24):
        simulation = Simulation(seed, traces=True)
        simulation.run()
        told = (re.search(r"; (\d+) pages of it were here", line) for line in simulation.trace_log.lines)
        kept |= {int(found[1]) == simulation.plan.page_count for found in told if found and int(found[1])}

    assert kept == {False, True}
