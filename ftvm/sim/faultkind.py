"""What happens to a simulated world from time to time: a fault of the machinery, or an act of an operator.

Each kind has its own random stream, which decides when it comes and what exactly it does; a kind is off in a third
of the seeds. The tables are in faults.py and operator.py.
"""

from dataclasses import dataclass

from ftvm.sim.port import Act, Test

__all__ = ["FaultKind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One kind of fault.

    kind         its name, that of its random stream, and of its count in the figures
    gap_ms       the least and the most virtual milliseconds between two of them
    act          does it to the world; its randomness is this one fault's own, drawn from the kind's stream
    share        of the seeds in which there is such a fault at all
    is_possible  whether it can be done now; if not, it is not counted
    """

    kind: str
    gap_ms: tuple[int, int]
    act: Act
    share: float = 0.67
    is_possible: Test = lambda world: True  # noqa: ARG005 - most can be done at any time
