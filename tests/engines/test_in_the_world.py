"""Engines with parameters in the simulator: however they move the cuts, every invariant holds under all faults."""

import pytest

from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.sim.simulation import Simulation


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
