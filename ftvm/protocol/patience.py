"""Whom to ignore for a while: who fails again and again is ignored, each time for longer.

A failure by itself costs its author only the message or the session. What this bounds is the cost of failing on and on:
of the one place for a joining standby, of log lines, of decoding. Names are keys where there are keys: a peer chooses
all else about itself afresh whenever it likes.
"""

from dataclasses import dataclass, field
from typing import Final

from ftvm.units import Nanos

__all__ = ["Patience"]

_NAMES_MAX: Final = 1024
"""Beyond it whoever failed longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class _Record:
    strikes: int
    struck_at: Nanos
    ignored_until: Nanos


@dataclass(slots=True)
class Patience:
    """The first `tolerated` failures of a name cost nothing; each later one has it ignored for twice as long, from
    `first_ns` to `longest_ns`. Who has not failed for `longest_ns` after that is as good as new."""

    tolerated: int
    first_ns: Nanos
    longest_ns: Nanos
    _records: dict[str, _Record] = field(default_factory=dict, repr=False)

    def strike(self, name: str, now: Nanos) -> Nanos:
        """Note a failure; return for how long the name is ignored from now on, 0 if it is tolerated."""
        before = self._records.pop(name, None)
        if before is None or now - max(before.struck_at, before.ignored_until) >= self.longest_ns:
            before = _Record(0, now, now)
        strikes = before.strikes + 1
        ignored_ns = self._price(strikes)
        self._records[name] = _Record(strikes, now, Nanos(now + ignored_ns))
        if len(self._records) > _NAMES_MAX:
            del self._records[next(iter(self._records))]
        return ignored_ns

    def forgive(self, name: str) -> None:
        """Forget the failures of a name: it has done well."""
        self._records.pop(name, None)

    def ignored_ns(self, name: str, now: Nanos) -> Nanos:
        """Return for how long the name is still ignored; 0 if it is not."""
        record = self._records.get(name)
        return Nanos(0) if record is None else Nanos(max(0, record.ignored_until - now))

    def _price(self, strikes: int) -> Nanos:
        beyond = strikes - self.tolerated
        if beyond <= 0:
            return Nanos(0)
        doublings = min(beyond - 1, self.longest_ns.bit_length())
        return Nanos(min(self.first_ns << doublings, self.longest_ns))
