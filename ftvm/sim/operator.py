"""What an operator does to a running pair in the simulator, at any moment, like a fault (happening.py).

To add one, write a function that takes the world and a stream of chance, and put it into `ACTIONS`. It may use what
the public API uses, nothing else: `world.active()` is the node where the guest runs, if it is up, `node.driver` its
driver, and `node.wake()` has it stepped.
"""

import random
from typing import TYPE_CHECKING, Final

from ftvm.engines.names import ENGINES, engine_named
from ftvm.sim.happening import Happening
from ftvm.sim.stops import can_stop, stop_one
from ftvm.units import Nanos

if TYPE_CHECKING:
    from ftvm.sim.world import World

__all__ = ["ACTIONS"]

_MS: Final = 1_000_000


def _switch_over(world: "World", chance: random.Random) -> None:
    """Ask the active to hand the guest over, now and then within less time than it takes."""
    limit_ns = Nanos(chance.choice([30, 300, 3000]) * _MS)
    node = world.active()
    if node is None:
        return
    world.trace(f"SWITCH {node.name} within {limit_ns // _MS} ms")
    node.driver.begin_switchover(limit_ns)
    node.wake()


def _can_switch_over(world: "World") -> bool:
    """Tell whether somebody is active whose standby is in step: any other is refused, which a test of its own shows."""
    node = world.active()
    active = node.view.active if node is not None and not node.driver.is_leaving else None
    return active is not None and active.may_switch_over


def _set_engine(world: "World", chance: random.Random) -> None:
    """Have the guest protected in another way, or in the same one at another interval."""
    engine = engine_named(chance.choice(list(ENGINES)), chance.choice([20, 40, 80]) / 1000)
    node = world.active()
    if node is None:
        return
    world.trace(f"ENGINE {node.name} {engine}")
    node.driver.set_engine(engine)
    node.wake()


def _can_set_engine(world: "World") -> bool:
    """Tell whether somebody is active who is not handing the guest over just now: that is refused."""
    node = world.active()
    active = node.view.active if node is not None else None
    return active is not None and active.may_change_engine


ACTIONS: Final[tuple[Happening, ...]] = (
    Happening(kind="switchover", gap_ms=(100, 1000), act=_switch_over, is_possible=_can_switch_over),
    Happening(kind="engine", gap_ms=(50, 800), act=_set_engine, is_possible=_can_set_engine),
    Happening(kind="stop", gap_ms=(300, 2000), act=stop_one, is_possible=can_stop),
)
