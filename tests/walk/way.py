"""A walk as a value: its legs, the files on the way, the functions called in each; as text, and for JSON.

A **visit** is a row of calls of one file with no call of another file between. Who calls a helper elsewhere and goes on
with what it has is not left; who is called again after somebody else was called is entered again.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap
from typing import Final

from .tracing import Call

MAY_BE_ENTERED_AGAIN: Final = ("runtime/driver.py", "protocol/replica.py")
"""The two façades, through which each step of a leg goes (the design's target names them)."""

STAND_INS: Final = ("sim/", "testing/", "transport/")
"""Where the calls of what stands in for the real guest, clock and transport are: told, and counted apart. All else is
what a host in production calls, whatever its guest and its transport."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One file, and how often each of its functions is called there, in the order of the first calls."""

    file: str
    calls: dict[str, int]


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the way, on one host."""

    name: str
    side: str
    calls: tuple[Call, ...]

    @property
    def visits(self) -> list[Visit]:
        """The way, file by file."""
        rows = groupby(self.calls, key=lambda call: call.file)
        return [Visit(file, dict(Counter(call.function for call in row))) for file, row in rows]

    @property
    def stand_in_calls(self) -> int:
        """How many of the calls are those of stand-ins."""
        return sum(call.file.startswith(STAND_INS) for call in self.calls)

    @property
    def files(self) -> set[str]:
        """The files crossed."""
        return {call.file for call in self.calls}

    @property
    def functions(self) -> set[tuple[str, str]]:
        """The functions called, each with its file."""
        return {(call.file, call.function) for call in self.calls}

    @property
    def entered_again(self) -> dict[str, int]:
        """How often each file is entered again once left; the two façades may be, and are not told."""
        visits = Counter(visit.file for visit in self.visits)
        return {file: n - 1 for file, n in sorted(visits.items()) if n > 1 and file not in MAY_BE_ENTERED_AGAIN}


@dataclass(frozen=True, slots=True)
class Walk:
    """What a checkpoint, or an output, crosses."""

    kind: str
    engine: str
    legs: tuple[Leg, ...]

    @property
    def files(self) -> set[str]:
        """The files crossed on all legs."""
        return set().union(*(leg.files for leg in self.legs))

    def calls_on(self, side: str) -> tuple[int, int]:
        """Return how many calls the legs of one host have: of production code, and of stand-ins."""
        legs = [leg for leg in self.legs if leg.side == side]
        apart = sum(leg.stand_in_calls for leg in legs)
        return sum(len(leg.calls) for leg in legs) - apart, apart

    def summary(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "files": len(self.files),
            "functions": len(set().union(*(leg.functions for leg in self.legs))),
            "calls": sum(len(leg.calls) for leg in self.legs),
            "legs": {leg.name: _figures(leg) for leg in self.legs},
        }

    def as_json(self) -> dict[str, object]:
        """Return the whole as plain values."""
        legs = [
            {"name": leg.name, "side": leg.side, "way": [{"file": v.file, "calls": v.calls} for v in leg.visits]}
            for leg in self.legs
        ]
        return {"walk": self.kind, "engine": self.engine, "legs": legs, "summary": self.summary()}

    def as_text(self) -> str:
        """Return the way, one file after the other, and the figures."""
        lines = [f"one {self.kind} under {self.engine}"]
        for leg in self.legs:
            lines += ["", f"{leg.name} ({leg.side})", *_way(leg)]
        return "\n".join([*lines, "", *self._figures_as_text()])

    def _figures_as_text(self) -> Iterable[str]:
        yield f"{'':30}{'files':>7}{'functions':>11}{'calls':>7}{'of stand-ins':>14}{'entered again once left':>25}"
        for leg in self.legs:
            row = (len(leg.files), len(leg.functions), len(leg.calls), leg.stand_in_calls, len(leg.entered_again))
            yield f"{leg.name:30}{row[0]:7}{row[1]:11}{row[2]:7}{row[3]:14}{row[4]:25}"
        total = self.summary()
        yield f"{'the whole way, each once':30}{total['files']:7}{total['functions']:11}{total['calls']:7}"
        for leg in self.legs:
            again = (f"{file} x{times}" for file, times in leg.entered_again.items())
            yield from ("", *wrap(f"{leg.name}, entered again: {', '.join(again) or 'nothing'}", 118))


def _figures(leg: Leg) -> dict[str, object]:
    return {
        "side": leg.side,
        "files": len(leg.files),
        "functions": len(leg.functions),
        "calls": len(leg.calls),
        "stand_in_calls": leg.stand_in_calls,
        "entered_again": leg.entered_again,
    }


def _way(leg: Leg) -> Iterable[str]:
    seen: set[str] = set()
    for visit in leg.visits:
        yield f"  {visit.file}{'  (again)' if visit.file in seen else ''}"
        seen.add(visit.file)
        yield from (f"      {name}{f'  x{n}' if n > 1 else ''}" for name, n in visit.calls.items())
