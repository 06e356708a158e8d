"""Turns the commits of a host into a history: entries, bases, merges, and what goes. One step at a time, no thread.

A stream begins with the first commit, and another with each that does not extend the one before. Its first base is read
from memory right away (basing.py), in portions, while commits go on; others follow as retention.py says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from ftvm.capture.pages import StagedCopy
from ftvm.checkpoint import Commit, LogRecord, Output, PageBatch
from ftvm.encode.merge import join_batches, merge_batches
from ftvm.history.basing import PortionReader
from ftvm.history.marks import whole_pages
from ftvm.store.entry import EMPTY_BATCH, Entry, EntryLevel, unbroken_log, unbroken_outputs
from ftvm.store.merging import Merger
from ftvm.store.retention import Base, Keep, base_is_due
from ftvm.store.store import Store
from ftvm.store.thinning import Thinner

__all__ = ["Break", "Pipeline", "Queued"]

_PORTIONS_A_TURN: Final = 2
"""So many are packed; pages of zeros cost a look only."""
_LOOKS_A_TURN: Final = 16
_TURNS_A_GROUP: Final = 10
_TURNS_A_THINNING: Final = 50
_MARKS_NS: Final = 1_000_000_000
_MARKS_BYTES: Final = 32 << 20
"""Under lockstep, marks become one entry until a second has passed, or their pages take so much."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A commit on its way to the store: when it came, in which call of the observer, and whether as its last.

    pages  what the guest wrote up to this mark, if it executes here (lockstep)
    """

    commit: Commit
    time_ns: int
    call: int
    is_last: bool
    pages: StagedCopy | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """What is queued behind this does not follow what is before it, and why; a gap is worth an event."""

    why: str
    is_gap: bool


@dataclass(slots=True)
class _Reading:
    """A base that is being read. `done_at` is the last call of the observer when its last page was read."""

    since: int
    lifetime: int
    next_page: int = 0
    size_bytes: int = 0
    done_at: int | None = None


class Pipeline:
    """Writes one host's part of a history.

    calls, lifetime  how often the observer was called, and how often memory ceased to be what was committed, so far
    on_gap           told why a stream begins or ends where it should not
    """

    def __init__(
        self,
        store: Store,
        keep: Keep,
        reader: PortionReader,
        *,
        host: str,
        calls: Callable[[], int],
        lifetime: Callable[[], int],
        on_gap: Callable[[str], None],
    ) -> None:
        self._store = store
        self._keep = keep
        self._reader = reader
        self._host = host
        self._calls = calls
        self._lifetime = lifetime
        self._on_gap = on_gap
        self._thinner = Thinner(store, keep)
        self._merger = Merger(reader.page_count)
        self._stream: int | None = None
        self._group: list[Queued] = []
        self._epoch = -1
        self._time_ns = store.catalogue.last_time_ns()
        self._output_next = 1
        self._reading: _Reading | None = None
        self._base_bytes = self._bytes_since = 0
        self._base_time_ns = self._turns = 0
        self._why = "recording began"

    # --- commits ---------------------------------------------------------------------------------------------------

    def take(self, queued: Sequence[Queued | Break], *, at_once: int = 1) -> None:
        """Write commits, each as an entry, or so many together `at_once`. Raises HistoryError."""
        for item in queued:
            if isinstance(item, Break):
                self._end(item.why, is_gap=item.is_gap)
            elif self._stream is None or item.commit.is_first or item.commit.checkpoint.base != self._last():
                self._begin(item)
            else:
                if self._group and self._group[-1].commit.is_executed != item.commit.is_executed:
                    self._write()
                self._group.append(item)
                if self._is_awaited(item) or (
                    self._are_marks_enough() if item.commit.is_executed else len(self._group) >= at_once
                ):
                    self._write()
        if self._group and not self._group[-1].commit.is_executed:
            self._write()

    def _are_marks_enough(self) -> bool:
        taken = sum(each.pages.taken_bytes for each in self._group if each.pages is not None)
        return self._group[-1].time_ns - self._group[0].time_ns >= _MARKS_NS or taken >= _MARKS_BYTES

    def _last(self) -> int:
        return self._group[-1].commit.checkpoint.epoch if self._group else self._epoch

    def _is_awaited(self, item: Queued) -> bool:
        """Whether a base becomes whole with this commit."""
        reading = self._reading
        return reading is not None and reading.done_at is not None and item.is_last and item.call > reading.done_at

    def _begin(self, item: Queued) -> None:
        """Start a stream with what this commit left in memory; its pages come with the base."""
        if self._stream is not None:
            self._end("the next epoch does not follow: this host got a fresh copy of the guest")
        commit, checkpoint = item.commit, item.commit.checkpoint
        self._time_ns = max(self._time_ns + 1, item.time_ns)
        self._stream = self._store.catalogue.add_stream(
            uuid=uuid4().hex,
            lineage=commit.lineage,
            generation=commit.generation,
            host=self._host,
            began_ns=self._time_ns,
            reason=self._why,
        )
        self._epoch, self._output_next = checkpoint.epoch, checkpoint.output_next
        self._merger = Merger(self._reader.page_count)
        self._begin_base()

    def _write(self) -> None:
        """Write what waits as one entry."""
        group, self._group = self._group, []
        if not group or self._stream is None:
            return
        last, checkpoint = group[-1], group[-1].commit.checkpoint
        self._time_ns = max(self._time_ns + 1, last.time_ns)
        batches = [_pages_of(each) for each in group]
        entry = Entry(
            level=EntryLevel.FINE,
            base=self._epoch,
            epoch=checkpoint.epoch,
            time_ns=self._time_ns,
            engine=checkpoint.engine,
            position=checkpoint.position,
            output_next=checkpoint.output_next,
            log_index=checkpoint.log_index,
            memory_digest=checkpoint.memory_digest,
            dirty_pages=sum(each.commit.checkpoint.dirty_pages for each in group),
            pages=merge_batches(batches, self._reader.page_count),
            devices=checkpoint.devices,
            outputs=self._new_outputs(group),
            log=_log_of(group),
        )
        for each in self._merger.add(entry):
            self._append(each)
        self._append(entry)
        self._epoch = checkpoint.epoch
        if self._is_awaited(last):
            self._end_base(last)

    def _append(self, entry: Entry) -> None:
        if self._stream is not None:
            self._bytes_since += self._store.append(self._stream, entry)

    def _new_outputs(self, group: Sequence[Queued]) -> tuple[Output, ...]:
        """Return the outputs made since the last entry: a checkpoint may carry earlier ones, too."""
        carried = (output for each in group for output in each.commit.checkpoint.outputs)
        first, self._output_next = self._output_next, group[-1].commit.checkpoint.output_next
        return unbroken_outputs((output for output in carried if output.number >= first), self._output_next)

    def _end(self, why: str, *, is_gap: bool = True) -> None:
        """Write what waits and end the stream, if there is one; a gap is told, once."""
        self._write()
        if is_gap and self._epoch >= 0 and why != self._why:
            self._on_gap(why)
        self._why = why
        if self._stream is None:
            return
        for entry in self._merger.finish():
            self._append(entry)
        self._give_up_base()
        self._store.commit()
        self._store.catalogue.end_stream(self._stream, why)
        self._store.end_segments()
        self._stream = None

    # --- bases -----------------------------------------------------------------------------------------------------

    def _begin_base(self) -> None:
        self._reading = _Reading(self._epoch, self._lifetime())
        self._store.break_likeness()
        self._base_time_ns = self._time_ns
        self._bytes_since = 0

    def _read_on(self, reading: _Reading) -> None:
        packed = 0
        for _ in range(_LOOKS_A_TURN):
            if reading.next_page >= self._reader.page_count or packed == _PORTIONS_A_TURN or self._stream is None:
                break
            pages = self._reader.read(reading.next_page)
            reading.next_page += self._reader.portion_pages
            if pages.count:
                entry = Entry(
                    level=EntryLevel.BASE, base=reading.since, epoch=reading.since, time_ns=self._time_ns, pages=pages
                )
                reading.size_bytes += self._store.append(self._stream, entry)
                packed += 1
        if reading.next_page >= self._reader.page_count and reading.done_at is None:
            reading.done_at = self._calls()

    def _end_base(self, last: Queued) -> None:
        reading, self._reading = self._reading, None
        if reading is None or self._stream is None:
            return
        if reading.lifetime != self._lifetime():  # the guest has run in what was read
            self._reading = reading
            self._give_up_base()
            return
        epoch = last.commit.checkpoint.epoch
        self._store.add_base(self._stream, Base(since=reading.since, until=epoch, time_ns=self._time_ns))
        self._store.end_base_segment()
        self._base_bytes = reading.size_bytes

    def _give_up_base(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and self._stream is not None:
            self._store.drop_portions(self._stream, reading.since)

    # --- turns -----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what is due in this turn: portions of a base, a commit of the group, thinning. Raises HistoryError."""
        self._turns += 1
        if self._reading is not None and self._reading.lifetime == self._lifetime():
            self._read_on(self._reading)
        if self._turns % _TURNS_A_GROUP == 0:
            self._store.commit()
        if self._turns % _TURNS_A_THINNING == 0:
            self._thinner.run(recording=self._stream)
            if self._is_base_due():
                self._begin_base()

    def _is_base_due(self) -> bool:
        if self._stream is None or self._reading is not None:
            return False
        return base_is_due(
            self._keep,
            base_bytes=self._base_bytes,
            bytes_since=self._bytes_since,
            ns_since=self._time_ns - self._base_time_ns,
            total_bytes=self._store.catalogue.total_bytes(),
            bases=len(self._store.catalogue.bases(self._stream)),
        )

    def finish(self, why: str) -> None:
        """End the stream and commit all. Raises HistoryError."""
        self._end(why, is_gap=False)


def _pages_of(item: Queued) -> PageBatch:
    if item.pages is not None:
        return whole_pages(item.pages)
    return join_batches(item.commit.checkpoint.batches or (EMPTY_BATCH,))


def _log_of(group: Sequence[Queued]) -> tuple[LogRecord, ...]:
    return unbroken_log(record for each in group for record in each.commit.log)
