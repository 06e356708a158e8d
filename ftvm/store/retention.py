"""What of a history is kept, merged and dropped. Pure: rows in, rows out; the newest entry's time is the time now.

Fine entries are merged into one for each second, these into one for a minute, and so on up to an hour (`WIDTH_NS`). A
merged entry serves whoever wants to pass over its span; a finer one goes once it is old enough for its level and a
coarser one covers it, never before. A pin (a snapshot) keeps what leads to it.

The far end is a base: all before the last base that is older than `Keep.minute` goes, unless a pin needs it. The byte
budget stands above all ages: it moves the far end to a later base. So a base is due (`base_is_due`) often enough for
the far end to move in small steps, and no more often than its size allows.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from ftvm.errors import ConfigError
from ftvm.store.entry import EntryLevel

__all__ = ["WIDTH_NS", "Base", "EntryRow", "Keep", "base_is_due", "bucket", "far_end", "kept_for_pins", "thinned"]

_SECOND: Final = 1_000_000_000
_UNITS_NS: Final = {"s": _SECOND, "m": 60 * _SECOND, "h": 3600 * _SECOND, "d": 86_400 * _SECOND}
_UNITS_BYTES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_BUDGET_MIN: Final = 16 << 20

WIDTH_NS: Final = {
    EntryLevel.SECOND: _SECOND,
    EntryLevel.MINUTE: 60 * _SECOND,
    EntryLevel.TEN_MINUTES: 600 * _SECOND,
    EntryLevel.HOUR: 3600 * _SECOND,
}
"""How much time an entry of each level covers; each is a multiple of the one before."""

_BASES_PER_SPAN: Final = 8
"""The far end moves by an eighth of what is kept at most."""
_BASE_INTERVAL_NS: Final = 600 * _SECOND
_BASE_SHARE: Final = 8
"""A base may be written for so many times its size of entries: an eighth more written at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long each kind of entry is kept, and the bytes that all of them may take.

    all     every epoch: "60s", "1m"
    second  one point a second
    minute  one point a minute; what is older goes
    budget  of the whole history: "20G"; above the ages
    """

    all: str = "1m"
    second: str = "1h"
    minute: str = "1d"
    budget: str = "20G"

    def __post_init__(self) -> None:
        if not self.all_ns <= self.second_ns <= self.minute_ns:
            raise ConfigError(
                f"a history keeps all for {self.all}, seconds for {self.second}, minutes for "
                f"{self.minute}: each must be as long as the one before, or longer"
            )
        if self.budget_bytes < _BUDGET_MIN:
            raise ConfigError(f"the budget of a history is {self.budget}: give 16M or more")

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Read "all=1m,second=1h,minute=1d,budget=20G", any part of it. Raises ConfigError."""
        named = {field.name for field in fields(cls)}
        given: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, is_given, value = part.partition("=")
            if not is_given or name not in named or name in given:
                raise ConfigError(f"{part!r} is not one of all=1m, second=1h, minute=1d, budget=20G")
            given[name] = value
        return cls(**given)

    def __str__(self) -> str:
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    @property
    def all_ns(self) -> int:
        """How long every epoch is kept."""
        return _measure(self.all, _UNITS_NS, "all")

    @property
    def second_ns(self) -> int:
        """How long one point a second is kept."""
        return _measure(self.second, _UNITS_NS, "second")

    @property
    def minute_ns(self) -> int:
        """How long anything is kept."""
        return _measure(self.minute, _UNITS_NS, "minute")

    @property
    def budget_bytes(self) -> int:
        """What the history may take."""
        return _measure(self.budget, _UNITS_BYTES, "budget")

    def age_ns(self, level: EntryLevel) -> int:
        """Return how old an entry of this level gets, once a coarser one covers it."""
        if level is EntryLevel.FINE:
            return self.all_ns
        return self.second_ns if level is EntryLevel.SECOND else self.minute_ns


def _measure(text: str, units: dict[str, int], name: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([a-zA-Z]?)", text)
    if found is None or found[2] not in units or int(found[1]) == 0:
        raise ConfigError(f"{name} of a history is {text!r}, not a number with one of {', '.join(units)} behind it")
    return int(found[1]) * units[found[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRow:
    """What the catalogue says of an entry."""

    id: int
    level: EntryLevel
    base: int
    epoch: int
    time_ns: int
    segment: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base: its pages were read between epoch `since` and epoch `until`. From `until` on the state is its pages,
    with all entries from `since` on applied."""

    since: int
    until: int
    time_ns: int


def bucket(level: EntryLevel, time_ns: int) -> int:
    """Return which span of a level a time falls into."""
    return time_ns // WIDTH_NS[level]


def thinned(
    rows: Sequence[EntryRow], covers: Sequence[EntryRow], pins: Sequence[int], *, before_ns: int
) -> tuple[list[EntryRow], int | None]:
    """Return which rows of one level may go, and the base of the first that is too young, or waits for its cover.

    rows    by rising base
    covers  the rows of the next level, by rising epoch
    pins    epochs to be kept, rising
    A row goes if it is older than `before_ns` and a cover spans it, unless a pin lies within that cover at or behind
    it: then the cover leads past the pin, and the row is what leads to it.
    """
    ends = [cover.epoch for cover in covers]
    gone: list[EntryRow] = []
    for row in rows:
        at = bisect_left(ends, row.epoch)
        if row.time_ns >= before_ns or at == len(covers):
            return gone, row.base
        if covers[at].base > row.base:
            continue  # no cover ever will: a crash came between
        first = bisect_left(pins, row.epoch)
        if first == len(pins) or pins[first] >= covers[at].epoch:
            gone.append(row)
    return gone, None


def far_end(bases: Sequence[Base], keep: Keep, *, now_ns: int, is_over_budget: bool) -> Base | None:
    """Return the base that the history starts from now: what is before its `since` may go. None keeps all.

    bases  by rising epoch
    Over budget the far end moves by one base a call.
    """
    old = [base for base in bases if base.time_ns <= now_ns - keep.minute_ns]
    start = len(old) - 1 if old else 0
    if is_over_budget and start == 0:
        start = 1
    return bases[start] if 0 < start < len(bases) else None


def kept_for_pins(bases: Sequence[Base], pins: Sequence[int], *, before: int) -> list[tuple[int, int]]:
    """Return the spans of epochs that lead to pins before a new far end at epoch `before`: from a base to its last pin.

    bases, pins  by rising epoch
    """
    starts = [base.until for base in bases]
    last: dict[int, int] = {}
    for pin in pins:
        at = bisect_right(starts, pin) - 1
        if pin < before and at >= 0:
            last[bases[at].since] = pin
    return sorted(last.items())


def base_is_due(keep: Keep, *, base_bytes: int, bytes_since: int, ns_since: int, total_bytes: int, bases: int) -> bool:
    """Tell whether the next base is to be written.

    base_bytes, bytes_since, ns_since  the size of the last one, and what came since
    total_bytes, bases                 the whole history, and how many bases it has
    """
    if bases == 1 and total_bytes > keep.budget_bytes:
        return bytes_since >= base_bytes  # else nothing could ever go
    if bytes_since * _BASES_PER_SPAN > keep.budget_bytes:
        return bytes_since >= base_bytes
    interval_ns = min(max(_BASE_INTERVAL_NS, keep.minute_ns // _BASES_PER_SPAN), keep.minute_ns)
    is_worth_it = ns_since >= interval_ns and bytes_since >= _BASE_SHARE * base_bytes
    return is_worth_it or ns_since >= keep.minute_ns
