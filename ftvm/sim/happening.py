"""What befalls a simulated world from time to time: a fault of the machinery, or an act of an operator.

Each kind has a random stream of its own, which decides when it comes and what exactly it does; a kind is off in a third
of the seeds. The tables are in faults.py and operator.py.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftvm.sim.world import World

__all__ = ["Happening"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One kind of happening.

    kind         its name, that of its random stream, and of its count in the figures
    gap_ms       the least and the most virtual milliseconds between two of them
    act          does it to the world; its chance is this one happening's own, drawn from the kind's stream
    is_possible  whether it can be done now; what cannot is not counted
    """

    kind: str
    gap_ms: tuple[int, int]
    act: Callable[["World", random.Random], None]
    is_possible: Callable[["World"], bool] = lambda world: True  # noqa: ARG005 - most can be done at any time
