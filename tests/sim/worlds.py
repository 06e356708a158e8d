"""Worlds of two or three hosts in which nothing goes wrong by itself."""

from collections.abc import Callable
from dataclasses import replace

from ftvm.engines.remus import Remus
from ftvm.interfaces import Engine
from ftvm.sim.plan import draw
from ftvm.sim.simulation import MS, Simulation

PAIR = ("a", "b")
TRIO = ("a", "b", "c")


def world_of(addresses: tuple[str, ...], seed: int = 0, engine: Engine | None = None, **plan: object) -> Simulation:
    """Return a seed's world with these hosts, and with `plan` in place of what the seed draws."""
    drawn = draw(seed, engine or Remus(interval=0.04))
    return Simulation(seed, plan=replace(drawn, addresses=addresses, **plan))  # type: ignore[arg-type]


def play_until(world: Simulation, is_so: Callable[[], object]) -> None:
    """Let time go on until something is so; ten virtual seconds at most."""
    for _ in range(1_000):
        if is_so():
            return
        world.play(10 * MS)
    raise AssertionError("it never came to be so")
