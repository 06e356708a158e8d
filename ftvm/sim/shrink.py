"""Makes a failing run small: finds few faults that, alone, still break the same invariant.

First whole kinds are left out, the most frequent one first; then of what is left ever smaller pieces. Each try plays
the seed again with only the faults that remain (faultlog.py), so what is printed can be played again as it is.

Source: Zeller & Hildebrandt, Simplifying and Isolating Failure-Inducing Input, TSE 2002 (ddmin).
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ftvm.sim.faultlog import FaultId
from ftvm.sim.run import Run, play

__all__ = ["Shrunk", "shrink"]

TRIES_MAX: Final = 400


@dataclass(slots=True)
class Shrunk:
    """The smallest run found so far that still breaks the invariant, and how many were tried."""

    run: Run
    tries: int = 0

    @property
    def faults(self) -> tuple[FaultId, ...]:
        """The faults that are left."""
        return self.run.faults


def shrink(failing: Run, *, engine: str | None = None) -> Shrunk:
    """Return a run of the same seed that breaks the same invariant with as few faults as could be found."""
    found = Shrunk(failing)

    def still_fails(only: Collection[FaultId]) -> bool:
        found.tries += 1
        tried = play(failing.seed, engine=engine, only=only)
        if tried.invariant != failing.invariant:
            return False
        found.run = tried
        return True

    _without_kinds(found, still_fails)
    _without_pieces(found, still_fails)
    return found


def _without_kinds(found: Shrunk, still_fails: Callable[[Collection[FaultId]], bool]) -> None:
    for kind, _ in Counter(fault.kind for fault in found.faults).most_common():
        if found.tries >= TRIES_MAX:
            return
        still_fails([fault for fault in found.faults if fault.kind != kind])


def _without_pieces(found: Shrunk, still_fails: Callable[[Collection[FaultId]], bool]) -> None:
    size = max(1, len(found.faults) // 2)
    while found.faults:
        place, has_shrunk = 0, False
        while place < len(found.faults) and found.tries < TRIES_MAX:
            faults = found.faults
            if still_fails(faults[:place] + faults[place + size :]):
                has_shrunk = True
            else:
                place += size
        if found.tries >= TRIES_MAX or (size == 1 and not has_shrunk):
            return
        size = max(1, min(size, len(found.faults)) // 2) if size > 1 else 1
