"""What an operator does to running hosts in the simulator, at any moment, like a fault (faultkind.py).

To add one, write a function that takes the world and its randomness, and put it into `ACTIONS`. It may use what port.py
offers, which is what the public API offers.
"""

from typing import Final

from ftvm.engines.kemari import Kemari
from ftvm.engines.names import ENGINES, engine_named
from ftvm.sim.faultkind import FaultKind
from ftvm.sim.port import WorldPort
from ftvm.sim.rng import Rng
from ftvm.sim.stops import can_stop, stop_one
from ftvm.units import Nanos

__all__ = ["ACTIONS"]

_MS: Final = 1_000_000
_GROUPED_MS: Final = 80
_GROUP_S: Final = 0.03
"""Under the engine that lets outputs share a cut, they do at that interval: no further draw is needed."""


def _switch_over(world: WorldPort, rng: Rng) -> None:
    """Ask the active to hand the guest over, now and then within less time than it takes."""
    limit_ns = Nanos(rng.choice([30, 300, 3000]) * _MS)
    host = world.active()
    if host is not None:
        world.trace(f"SWITCH {host.name} within {limit_ns // _MS} ms")
        host.switch_over(limit_ns)


def _can_switch_over(world: WorldPort) -> bool:
    """Tell whether somebody is active whose standby is in step: any other is refused, which a separate test shows."""
    host = world.active()
    active = host.view.active if host is not None and not host.is_leaving else None
    return active is not None and active.may_switch_over


def _set_engine(world: WorldPort, rng: Rng) -> None:
    """Change the guest's engine, or its interval."""
    name, interval_ms = rng.choice(list(ENGINES)), rng.choice([20, 40, 80])
    shares_cuts = name == Kemari.name and interval_ms == _GROUPED_MS
    engine = engine_named(name, interval_ms / 1000, group=_GROUP_S if shares_cuts else None)
    host = world.active()
    if host is not None:
        world.trace(f"ENGINE {host.name} {engine}")
        host.set_engine(engine)


def _can_set_engine(world: WorldPort) -> bool:
    """Tell whether somebody is active who is not handing the guest over just now: that is refused."""
    host = world.active()
    active = host.view.active if host is not None else None
    return active is not None and active.may_change_engine


ACTIONS: Final[tuple[FaultKind, ...]] = (
    FaultKind(kind="switchover", gap_ms=(100, 1000), act=_switch_over, is_possible=_can_switch_over),
    FaultKind(kind="engine", gap_ms=(50, 800), act=_set_engine, is_possible=_can_set_engine),
    FaultKind(kind="stop", gap_ms=(300, 2000), act=stop_one, is_possible=can_stop),
)
