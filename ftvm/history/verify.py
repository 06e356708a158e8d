"""Is a history what it claims, and what can be restored if not? Reads every entry, and restores the newest epoch and
each snapshot."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ftvm.errors import HistoryError
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import EntryRow
from ftvm.store.store import Store
from ftvm.units import pages_to_bytes

__all__ = ["Damage", "Restorable", "restorable_runs", "verify_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is wrong: `epoch` of `stream` cannot be read or restored, and why.

    entry  the entry that cannot be read, as the catalogue numbers them; None: all can, and restore to something else
    """

    stream: int
    epoch: int
    reason: str
    entry: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorable:
    """A run of epochs: each of `stream` that is kept from `first` to `last` can be restored."""

    stream: int
    first: int
    last: int

    def holds(self, *, stream: int, epoch: int) -> bool:
        """Tell whether an epoch that is kept is in it."""
        return stream == self.stream and self.first <= epoch <= self.last


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
            yield Damage(stream=stream, epoch=row.epoch, reason=str(wrong), entry=row.id)
        progress(done + 1, total)
    memory = mmap.mmap(-1, pages_to_bytes(store.page_count)) if points else None
    for done, (stream, epoch) in enumerate(points):
        if memory is not None:
            try:
                RestoredMemory(store, stream, [memoryview(memory)]).go_to(epoch)
            except HistoryError as wrong:
                yield Damage(stream=stream, epoch=epoch, reason=str(wrong))
        progress(len(rows) + done + 1, total)


def restorable_runs(store: Store, epochs: Iterable[tuple[int, int]], damaged: Sequence[Damage]) -> Iterator[Restorable]:
    """Yield what `damaged`, all that `verify_store` found, leaves of `epochs`: (stream, epoch), by rising epoch.

    Where all entries can be read and an epoch restores to something else, all entries that lead to it are suspect.
    """
    bad = {found.entry for found in damaged if found.entry is not None}
    lost = {(found.stream, found.epoch) for found in damaged if found.entry is None}
    for stream, epoch in lost:
        rows = _leading_to(store, stream, epoch)
        bad |= set() if bad & rows else rows

    def standing(point: tuple[int, int]) -> tuple[int, bool]:
        return point[0], point not in lost and not (bad and _leading_to(store, *point) & bad)

    for (stream, is_whole), run in groupby(epochs, standing):
        numbers = [epoch for _, epoch in run]
        if is_whole:
            yield Restorable(stream=stream, first=numbers[0], last=numbers[-1])


def _leading_to(store: Store, stream: int, epoch: int) -> set[int]:
    """Return the entries from which an epoch is restored."""
    base, rows = store.route(stream, epoch)
    return {row.id for row in (*store.catalogue.portions(stream, base.since), *rows)}


def _rows(store: Store, stream: int, level: EntryLevel) -> list[EntryRow]:
    return store.catalogue.rows(stream, level, 0, 1 << 62)


def _points(store: Store, stream: int) -> list[int]:
    """Return the epochs to restore: the snapshots, and the newest that a base leads to."""
    pinned = {pin.epoch for pin in store.catalogue.pins(stream)}
    span = store.catalogue.span(stream)
    if span is not None and store.catalogue.bases(stream):
        pinned.add(span[1])
    return sorted(pinned)
