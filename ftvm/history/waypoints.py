"""States of one machine, in the order of its life, each kept as what changed since the one before.

Each knows what was written on the way to it, so that a search for a write leaves out all other stretches. Going from
one to another touches only the pages that differ. Memory that waypoints take is bounded: when it is used
up, every second one is merged into the next, so that they lie further apart. Knows no log: who leads the machine from
one position to another is timeline.py.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ftvm.guests.riscv.machine import Machine
from ftvm.history.hooks import ALL_MARKS, Hooks
from ftvm.units import PAGE_BYTES

__all__ = ["Moment", "Waypoint", "Waypoints"]

_BLANK = bytes(PAGE_BYTES)


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """A place in a machine's past: so many instructions begun, and so many inputs of its log taken."""

    retired: int
    inputs: int


@dataclass(slots=True, kw_only=True)
class Waypoint:
    """A state at a moment. `pages` holds at least those that changed since the waypoint before, with the marks of what
    was written in them (hooks.py); `is_fine` ones may go at any time."""

    moment: Moment
    state: bytes
    is_fine: bool
    pages: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Versions:
    """The contents that one page had, by the retired count of their waypoints."""

    at: list[int] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)

    def put(self, retired: int, content: bytes) -> None:
        place = bisect_left(self.at, retired)
        self.at.insert(place, retired)
        self.contents.insert(place, content)

    def take(self, retired: int) -> bytes:
        place = bisect_left(self.at, retired)
        del self.at[place]
        return self.contents.pop(place)

    def latest(self, retired: int) -> bytes:
        place = bisect_right(self.at, retired)
        return self.contents[place - 1] if place else _BLANK


class Waypoints:
    """The waypoints of a machine, which stands at the first one when they are made."""

    def __init__(self, machine: Machine, hooks: Hooks, start: Moment, *, bytes_max: int) -> None:
        self._machine = machine
        self._hooks = hooks
        hooks.mark_writes()
        self._memories = [machine.ram] if machine.disk is None else [machine.ram, machine.disk]
        self._bytes_max = bytes_max
        self._bytes = 0
        self._versions: dict[int, _Versions] = {}
        self._list: list[Waypoint] = []
        self._marks: list[int] = []
        for memory in self._memories:
            memory.take_dirty()
        used = dict.fromkeys(self._not_blank(), ALL_MARKS)
        self._here = self._insert(start, used, is_fine=False)
        self._bytes = 0  # the first cannot be left out, so it takes nothing from the others
        self._changed: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._list)

    @property
    def coarse_last(self) -> Waypoint:
        """The last one that is not fine."""
        return next(waypoint for waypoint in reversed(self._list) if not waypoint.is_fine)

    def before(self, retired: int) -> Waypoint:
        """Return the last one at or before a retired count; the first one if all are behind it."""
        return self._list[max(0, bisect_right(self._marks, retired) - 1)]

    def preceding(self, waypoint: Waypoint) -> Waypoint | None:
        """Return the one before another."""
        place = bisect_left(self._marks, waypoint.moment.retired)
        return self._list[place - 1] if place else None

    def following(self, waypoint: Waypoint) -> Waypoint | None:
        """Return the one behind another."""
        place = bisect_right(self._marks, waypoint.moment.retired)
        return self._list[place] if place < len(self._list) else None

    def is_at(self, retired: int) -> bool:
        """Tell whether there is one at exactly this retired count."""
        place = bisect_left(self._marks, retired)
        return place < len(self._marks) and self._marks[place] == retired

    # --- adding and removing ---

    def add(self, moment: Moment, *, is_fine: bool = False) -> None:
        """Keep the state of the machine, which stands at `moment` and came there from the last waypoint before it."""
        self._note_changes()
        self._here = self._insert(moment, self._changed, is_fine=is_fine)
        self._changed = {}
        while self._bytes > self._bytes_max and self._thin():
            pass

    def drop_fine(self) -> None:
        """Forget the fine ones, but for the one that the machine came from."""
        for waypoint in [one for one in self._list if one.is_fine and one is not self._here]:
            self._merge(waypoint)

    def _insert(self, moment: Moment, pages: dict[int, int], *, is_fine: bool) -> Waypoint:
        waypoint = Waypoint(moment=moment, state=self._machine.save(), is_fine=is_fine, pages=pages)
        insort(self._marks, moment.retired)
        self._list.insert(bisect_left(self._marks, moment.retired), waypoint)
        for page in pages:
            self._versions.setdefault(page, _Versions()).put(moment.retired, self._read(page))
        self._bytes += len(pages) * PAGE_BYTES
        return waypoint

    def _thin(self) -> bool:
        """Merge every second waypoint into the next; return whether there was one."""
        self.drop_fine()
        merged = [one for one in self._list[1:-1:2] if one is not self._here]
        for waypoint in merged:
            self._merge(waypoint)
        return bool(merged)

    def _merge(self, waypoint: Waypoint) -> None:
        """Remove one. What it has and the next has not is at the next as it was here."""
        following = self.following(waypoint)
        for page, marks in waypoint.pages.items():
            versions = self._versions[page]
            content = versions.take(waypoint.moment.retired)
            if following is None or page in following.pages:
                self._bytes -= PAGE_BYTES
            else:
                versions.put(following.moment.retired, content)
            if following is not None:
                following.pages[page] = following.pages.get(page, 0) | marks
        self._remove(waypoint)

    def _remove(self, waypoint: Waypoint) -> None:
        place = bisect_left(self._marks, waypoint.moment.retired)
        del self._marks[place], self._list[place]

    # --- going ---

    def restore(self, waypoint: Waypoint) -> None:
        """Bring the machine to a waypoint."""
        self._note_changes()
        first, last = sorted((self._here.moment.retired, waypoint.moment.retired))
        between = self._list[bisect_right(self._marks, first) : bisect_right(self._marks, last)]
        pages = set(self._changed).union(*(one.pages for one in between))
        for page in pages:
            self._write(page, self._content(page, waypoint.moment.retired))
        self._machine.load(waypoint.state)
        self._here = waypoint
        self._changed = {}

    def wrote_in(self, waypoint: Waypoint, marks: Mapping[int, int]) -> bool:
        """Tell whether any of these marks, by their page, may have been written between a waypoint and the next one."""
        following = self.following(waypoint)
        return following is None or any(following.pages.get(page, 0) & wanted for page, wanted in marks.items())

    def _content(self, page: int, retired: int) -> bytes:
        versions = self._versions.get(page)
        return versions.latest(retired) if versions is not None else _BLANK

    def _note_changes(self) -> None:
        first = 0
        for memory in self._memories:
            bits = int.from_bytes(memory.take_dirty(), "little")
            while bits:
                lowest = bits & -bits
                page = lowest.bit_length() - 1
                marks = self._hooks.take_marks(page) if memory is self._machine.ram else ALL_MARKS
                self._changed[first + page] = self._changed.get(first + page, 0) | marks
                bits ^= lowest
            first += memory.page_count

    def _not_blank(self) -> Iterable[int]:
        page_count = sum(memory.page_count for memory in self._memories)
        return (page for page in range(page_count) if self._read(page) != _BLANK)

    def _place(self, page: int) -> memoryview:
        ram = self._memories[0]
        if page < ram.page_count:
            return ram.buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
        at = (page - ram.page_count) * PAGE_BYTES
        return self._memories[1].buffer[at : at + PAGE_BYTES]

    def _read(self, page: int) -> bytes:
        return bytes(self._place(page))

    def _write(self, page: int, content: bytes) -> None:
        self._place(page)[:] = content
