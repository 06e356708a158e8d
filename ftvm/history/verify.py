"""Is a history what it claims? Reads every entry, and restores the newest epoch and each snapshot."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from ftvm.errors import HistoryError
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import EntryRow
from ftvm.store.store import Store
from ftvm.units import pages_to_bytes

__all__ = ["Damage", "verify_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is wrong: `epoch` of `stream` cannot be read or restored, and why."""

    stream: int
    epoch: int
    reason: str


def verify_store(store: Store, progress: Progress) -> Iterator[Damage]:
    """Yield what is damaged; nothing is changed. Takes as much memory as the guest has."""
    streams = [stream.id for stream in store.catalogue.streams()]
    rows = [(stream, row) for stream in streams for level in EntryLevel for row in _rows(store, stream, level)]
    points = [(stream, epoch) for stream in streams for epoch in _points(store, stream)]
    total = len(rows) + len(points)
    for done, (stream, row) in enumerate(rows):
        try:
            store.read(stream, row)
        except HistoryError as wrong:
            yield Damage(stream=stream, epoch=row.epoch, reason=str(wrong))
        progress(done + 1, total)
    memory = mmap.mmap(-1, pages_to_bytes(store.page_count)) if points else None
    for done, (stream, epoch) in enumerate(points):
        if memory is not None:
            try:
                RestoredMemory(store, stream, [memoryview(memory)]).go_to(epoch)
            except HistoryError as wrong:
                yield Damage(stream=stream, epoch=epoch, reason=str(wrong))
        progress(len(rows) + done + 1, total)


def _rows(store: Store, stream: int, level: EntryLevel) -> list[EntryRow]:
    return store.catalogue.rows(stream, level, 0, 1 << 62)


def _points(store: Store, stream: int) -> list[int]:
    """Return the epochs to restore: the snapshots, and the newest that a base leads to."""
    pinned = {pin.epoch for pin in store.catalogue.pins(stream)}
    span = store.catalogue.span(stream)
    if span is not None and store.catalogue.bases(stream):
        pinned.add(span[1])
    return sorted(pinned)
