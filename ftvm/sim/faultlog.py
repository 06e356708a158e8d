"""Which faults a run has: each has a name, so that it can be left out, or be one of the few that are let in.

A fault is drawn from the stream of its kind and then shown here. Because no other kind's draws depend on whether it
is let in, a run can be played again with fewer faults: that is how shrink.py makes a failing one small.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from ftvm.errors import ConfigError
from ftvm.sim.rng import Rng, stream

__all__ = ["FaultId", "FaultLog"]


@dataclass(frozen=True, slots=True, order=True)
class FaultId:
    """The `number`th fault of its kind in a run, from 1."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> "FaultId":
        """Read what `str` gave."""
        kind, _, number = text.partition(":")
        if not kind or not number.isdigit():
            raise ConfigError(f"{text!r} names no fault: write kind:number, like crash:2")
        return cls(kind, int(number))


class FaultLog:
    """Draws and numbers the faults of one run.

    only   those that are let in; None: all
    rates  how probable each fault of a single message, or other single act, is now; absent: off
    """

    def __init__(self, seed: int, only: Collection[FaultId] | None = None) -> None:
        self.only = None if only is None else frozenset(only)
        self.happened: list[FaultId] = []
        self.rates: dict[str, float] = {}
        self._seed = seed
        self._rngs: dict[tuple[str, str], Rng] = {}
        self._drawn: Counter[str] = Counter()

    def strikes(self, kind: str, whom: str = "") -> bool:
        """Draw whether a fault of this kind strikes now; each kind has its own stream for each who is struck."""
        rate = self.rates.get(kind)
        if rate is None:
            return False
        rng = self._rngs.get((kind, whom))
        if rng is None:
            rng = self._rngs[kind, whom] = stream(self._seed, kind, whom)
        return rng.random() < rate and self.admits(kind)

    def admits(self, kind: str) -> bool:
        """Number a fault that was drawn; tell whether it is to happen."""
        self._drawn[kind] += 1
        fault = FaultId(kind, self._drawn[kind])
        if self.only is not None and fault not in self.only:
            return False
        self.happened.append(fault)
        return True
