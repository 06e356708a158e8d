"""Merges entries as time goes by: the fine ones of a second into one, those of a minute, and so on to an hour.

Fed with each fine entry, by rising time; when an entry falls into a later span than the one before, the span before is
complete, and one entry takes the place of all of it for whoever passes over it. Nothing is dropped here
(retention.py does, later).
"""

from collections.abc import Sequence
from typing import Final

from ftvm.encode.merge import merge_batches
from ftvm.store.entry import Entry, EntryLevel, unbroken_log, unbroken_outputs
from ftvm.store.retention import WIDTH_NS, bucket

__all__ = ["Merger", "merged"]

_WAITING_BYTES_MAX: Final = 16 << 20
"""So much may wait for the end of a span; beyond it, what waits is merged early, and again when it has doubled."""


def merged(entries: Sequence[Entry], level: EntryLevel, page_count: int) -> Entry:
    """Return one entry that does what `entries` do in order. Raises BadFrame if they do not merge."""
    last = entries[-1]
    return Entry(
        level=level,
        base=entries[0].base,
        epoch=last.epoch,
        time_ns=last.time_ns,
        engine=last.engine,
        position=last.position,
        output_next=last.output_next,
        log_index=last.log_index,
        memory_digest=last.memory_digest,
        dirty_pages=sum(entry.dirty_pages for entry in entries),
        pages=merge_batches([entry.pages for entry in entries], page_count),
        devices=last.devices,
        outputs=unbroken_outputs(
            (output for entry in entries if level <= EntryLevel.SECOND for output in entry.outputs), last.output_next
        ),
        log=unbroken_log(record for entry in entries for record in entry.log),
    )


class Merger:
    """The spans of one stream that are not complete. What waits is the merged entries of the level below."""

    def __init__(self, page_count: int) -> None:
        self._page_count = page_count
        self._waiting: dict[EntryLevel, list[Entry]] = {level: [] for level in WIDTH_NS}
        self._room = dict.fromkeys(WIDTH_NS, _WAITING_BYTES_MAX)

    def add(self, entry: Entry) -> list[Entry]:
        """Take a fine entry; return the merged entries that it completes, finest first."""
        return self._add(entry, EntryLevel.SECOND)

    def finish(self) -> list[Entry]:
        """Return what the incomplete spans hold, merged: the stream ends. What is in one entry already stays there."""
        done: list[Entry] = []
        for level in WIDTH_NS:
            if level is EntryLevel.SECOND or len(self._waiting[level]) > 1:
                done += self._close(level)
        return done

    def _add(self, entry: Entry, level: EntryLevel) -> list[Entry]:
        waiting, done = self._waiting[level], []
        if waiting and bucket(level, waiting[0].time_ns) != bucket(level, entry.time_ns):
            done = self._close(level)
        self._waiting[level].append(entry)
        self._room[level] -= entry.pages.size_bytes
        if self._room[level] < 0 and len(self._waiting[level]) > 1:
            early = merged(self._waiting[level], entry.level, self._page_count)
            self._waiting[level] = [early]
            self._room[level] = max(_WAITING_BYTES_MAX - early.pages.size_bytes, early.pages.size_bytes)
        return done

    def _close(self, level: EntryLevel) -> list[Entry]:
        waiting, self._waiting[level] = self._waiting[level], []
        self._room[level] = _WAITING_BYTES_MAX
        if not waiting:
            return []
        whole = merged(waiting, level, self._page_count)
        return [whole, *(self._add(whole, EntryLevel(level + 1)) if level < EntryLevel.HOUR else [])]
