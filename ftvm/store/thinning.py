"""Carries out what retention.py decides, in a store: drops rows, moves the far end, removes files that no row needs.

Each call does a bounded piece, in one transaction with the look at the pins: a snapshot that was answered is kept.
"""

from bisect import bisect_right
from typing import Final

from ftvm.store.catalogue import Catalogue, Stream
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import WIDTH_NS, Base, Keep, far_end, kept_for_pins, thinned
from ftvm.store.store import Store

__all__ = ["Thinner"]

_ROWS_A_CALL: Final = 4_000
_MOVES_MAX: Final = 10_000


class Thinner:
    """Thins one store; remembers how far each level is done."""

    def __init__(self, store: Store, keep: Keep) -> None:
        self._store = store
        self._catalogue: Catalogue = store.catalogue
        self.keep = keep
        self._done: dict[tuple[int, EntryLevel], int] = {}

    def run(self, *, recording: int | None = None) -> int:
        """Thin a piece of each stream; return how many bytes went. Raises HistoryError.

        recording  the stream that is being written, if any: it is never dropped as a whole
        """
        now_ns = self._catalogue.last_time_ns()
        with self._catalogue.transaction():
            for stream in self._catalogue.streams():
                self._thin(stream.id, now_ns)
                self._drop_old(stream, now_ns, is_recording=stream.id == recording)
        freed = self._store.remove_empty_segments()
        freed += self._keep_budget(now_ns, recording)
        return freed

    def run_whole(self) -> int:
        """Thin until nothing more goes; return how many bytes went."""
        self._done.clear()
        freed, before = 0, -1
        for _ in range(_MOVES_MAX):
            if freed == before:
                break
            before = freed
            freed += self.run()
        return freed

    def _thin(self, stream: int, now_ns: int) -> None:
        pins = [pin.epoch for pin in self._catalogue.pins(stream)]
        for level in tuple(EntryLevel)[1:-1]:
            age_ns = self.keep.age_ns(level)
            before_ns = (now_ns - age_ns) // WIDTH_NS[EntryLevel.SECOND] * WIDTH_NS[EntryLevel.SECOND]
            first = self._done.get((stream, level), -1)
            rows = self._catalogue.older_rows(stream, level, before_ns, _ROWS_A_CALL, first)
            if not rows:
                continue
            above = EntryLevel(level + 1)
            start = self._catalogue.reach(stream, above, rows[0].base)
            covers = self._catalogue.rows(stream, above, start.base if start else rows[0].base, rows[-1].base)
            gone, uncovered = thinned(rows, covers, pins, before_ns=before_ns)
            self._catalogue.drop_entries([row.id for row in gone])
            self._done[stream, level] = rows[-1].base + 1 if uncovered is None else uncovered

    def _drop_old(self, stream: Stream, now_ns: int, *, is_recording: bool) -> None:
        """Move the far end of a stream by age; an ended stream may go as a whole."""
        span = self._catalogue.span(stream.id)
        if span is None:
            if not is_recording:
                self._catalogue.drop_stream(stream.id)
        elif not is_recording and span[3] <= now_ns - self.keep.minute_ns:
            self._drop_before(stream.id, span[1] + 1, ())
        else:
            bases = self._catalogue.bases(stream.id)
            end = far_end(bases, self.keep, now_ns=now_ns, is_over_budget=False)
            if end is not None:
                self._drop_before(stream.id, end.since, [base for base in bases if base.until >= end.until])

    def _keep_budget(self, now_ns: int, recording: int | None) -> int:
        """Move far ends, oldest stream first, until the budget holds or nothing more can go."""
        freed = 0
        for _ in range(_MOVES_MAX):
            if self._catalogue.total_bytes() <= self.keep.budget_bytes:
                break
            with self._catalogue.transaction():
                if not any(self._move(stream, now_ns, recording) for stream in self._catalogue.streams()):
                    break
            freed += self._store.remove_empty_segments()
        return freed

    def _move(self, stream: Stream, now_ns: int, recording: int | None) -> bool:
        """Drop the oldest part of a stream; tell whether anything went."""
        bases = self._catalogue.bases(stream.id)
        before = self._catalogue.counts(stream.id)
        end = far_end(bases, self.keep, now_ns=now_ns, is_over_budget=True)
        if end is not None:
            self._drop_before(stream.id, end.since, [base for base in bases if base.until >= end.until])
        elif stream.id != recording and (span := self._catalogue.span(stream.id)) is not None:
            self._drop_before(stream.id, span[1] + 1, ())
        elif stream.id != recording:
            self._catalogue.drop_stream(stream.id)
        return self._catalogue.counts(stream.id) != before

    def _drop_before(self, stream: int, end: int, stay: "list[Base] | tuple[()]") -> None:
        """Drop what ends at or before epoch `end`, but for what leads to pins."""
        bases = self._catalogue.bases(stream)
        spans = kept_for_pins(bases, [pin.epoch for pin in self._catalogue.pins(stream)], before=end)
        starts = [since for since, _ in spans]

        def is_needed(base: int, epoch: int) -> bool:
            at = bisect_right(starts, epoch - 1)
            return any(since < epoch and base < pin for since, pin in spans[max(0, at - 2) : at])

        rows = self._catalogue.rows_upto(stream, end)
        self._catalogue.drop_entries([row.id for row in rows if not is_needed(row.base, row.epoch)])
        kept = {base.until for base in stay}
        needed = set(starts)
        for base in bases:
            if base.until not in kept and base.since not in needed:
                self._catalogue.drop_entries([row.id for row in self._catalogue.portions(stream, base.since)])
                self._catalogue.drop_base(stream, base.until)
        if not stay and not spans:
            self._catalogue.drop_stream(stream)
