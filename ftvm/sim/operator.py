"""What an operator does to a running pair in the simulator, at any moment, like a fault (happening.py).

To add one, write a function that takes the world and a stream of chance, and put it into `ACTIONS`. It may use what
the public API uses, nothing else: `world.active()` is the node where the guest runs, if it is up, `node.driver` its
driver, and `node.wake()` has it stepped.
"""

from typing import Final

from ftvm.sim.happening import Happening

__all__ = ["ACTIONS"]

ACTIONS: Final[tuple[Happening, ...]] = ()
