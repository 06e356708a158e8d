"""What an operator does to a running pair in the simulator, at any moment, like a fault (happening.py).

To add one, write a function that takes the world and a stream of chance, and put it into `ACTIONS`. It may use what
the public API uses, nothing else: `world.active()` is the node where the guest runs, if it is up, `node.driver` its
driver, and `node.wake()` has it stepped.
"""

import random
from typing import TYPE_CHECKING, Final

from ftvm.protocol.active import Active
from ftvm.protocol.link import LINKS, LinkEvent
from ftvm.sim.happening import Happening
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
    steps = node.driver.replica.steps if node is not None else None
    return isinstance(steps, Active) and (steps.link, LinkEvent.ASKED) in LINKS


ACTIONS: Final[tuple[Happening, ...]] = (
    Happening(kind="switchover", gap_ms=(100, 1000), act=_switch_over, is_possible=_can_switch_over),
)
