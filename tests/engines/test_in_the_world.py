"""Engines with parameters in the simulator: however they move the cuts, every invariant holds under all faults."""

import pytest

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.interfaces import Engine
from ftvm.sim.simulation import MS, Simulation

from ..sim.worlds import PAIR, play_until, world_of


def steps_beside_a_far_standby(engine: Engine) -> int:
    """Return how many steps the guest does in two seconds with its standby 40 ms away."""
    quiet = {"rates": {}, "fault_kinds": frozenset(), "link_jitter_ns": 50_000, "wake_ns": 20_000}
    world = world_of(PAIR, 1, engine, link_delay_ns=40 * MS, guest_step_ns=10 * MS, drift_ppm=0, **quiet)
    play_until(world, lambda: world.trace_log.told["Protected"])
    world.play(1_000 * MS)
    guest = world.hosts["a"].guest
    before = guest.position.retired
    world.play(2_000 * MS)
    return guest.position.retired - before


@pytest.mark.parametrize("seed", range(400, 406))
def test_adaptive_remus_keeps_every_invariant(seed: int) -> None:
    world = Simulation(seed, engine=Remus(interval=0.02, latency=0.008))

    world.run()

    assert world.checkers.outputs.released
    assert world.trace_log.told["Committed"]


@pytest.mark.parametrize("seed", range(500, 506))
def test_grouped_kemari_keeps_every_invariant(seed: int) -> None:
    world = Simulation(seed, engine=Kemari(interval=0.02, group=0.05))

    world.run()

    assert world.checkers.outputs.released
    assert world.trace_log.told["Committed"]


def test_the_guest_of_a_far_lockstep_standby_waits_no_more_than_one_that_nobody_follows() -> None:
    assert steps_beside_a_far_standby(Lockstep(0.025)) >= 0.95 * steps_beside_a_far_standby(Hybrid(0.025))
