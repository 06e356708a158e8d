"""Brings memory to an epoch of a history, and checks that it is that one.

From a base, the fewest entries that lead to the epoch are applied in order; then the digest of the whole memory is
computed and compared with the one that the primary computed from its own pages. What does not agree is not restored.
"""

from collections.abc import Callable, Sequence

from ftvm._native.memory import NativeMemory
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import BadFrame, ConfigError, HistoryError
from ftvm.interfaces import Guest
from ftvm.store.entry import Entry
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES

__all__ = ["Progress", "RestoredMemory", "restore_guest"]

Progress = Callable[[int, int], None]
"""Told how many of how many entries are applied."""


def _tell_nobody(done: int, total: int) -> None:
    """Nobody watches."""


class RestoredMemory:
    """Memory that is brought to epochs of one stream. `entry` is the one that ended at the present epoch."""

    def __init__(self, store: Store, stream: int, buffers: Sequence[memoryview | bytearray]) -> None:
        """Use `buffers`, which together are as large as the guest's memory: what they hold is lost."""
        native = NativeMemory(buffers)
        if native.page_count != store.page_count:
            raise ConfigError(f"the memory has {native.page_count} pages, and the history's {store.page_count}")
        self._store = store
        self._stream = stream
        self._memory = CommittedMemory(native)
        self.entry: Entry | None = None

    def go_to(self, epoch: int, progress: Progress = _tell_nobody) -> Entry:
        """Bring the memory to `epoch`; return the entry that ended there, with its devices.

        Raises HistoryError if the epoch is gone, an entry is damaged, or the result has another digest.
        """
        here = self.entry.epoch if self.entry is not None else None
        rows = None if here is None or here > epoch else self._store.chain(self._stream, here, epoch)
        self.entry, last = None, self.entry
        if rows is None:
            base, rows = self._store.route(self._stream, epoch)
            portions = self._store.catalogue.portions(self._stream, base.since)
            self._memory.clear()
            for done, row in enumerate(portions):
                self._apply(self._store.read(self._stream, row))
                progress(done + 1, len(portions) + len(rows))
        for done, row in enumerate(rows):
            last = self._store.read(self._stream, row)
            self._apply(last)
            progress(done + 1, len(rows))
        if last is None or last.epoch != epoch:
            raise HistoryError(f"no entry of {self._store.folder} ends at epoch {epoch}")
        self._memory.measure()
        if self._memory.memory_digest != last.memory_digest:
            raise HistoryError(f"epoch {epoch} of {self._store.folder} restores to another digest: entries are damaged")
        self.entry = last
        return last

    def _apply(self, entry: Entry) -> None:
        try:
            self._memory.replay(entry.pages)
        except BadFrame as wrong:
            raise HistoryError(f"the entry of epoch {entry.epoch} does not apply: {wrong}") from wrong


def restore_guest(store: Store, stream: int, epoch: int, guest: Guest, progress: Progress = _tell_nobody) -> Entry:
    """Make a paused guest the one that it was at `epoch`; return the entry. Nothing of it runs yet.

    Raises ConfigError if the guest has another shape, HistoryError if the epoch cannot be restored, GuestError if its
    devices do not load. After an error the guest is of no use.
    """
    owner = store.owner
    if owner is None:
        raise HistoryError(f"nothing was recorded into {store.folder} yet")
    if owner.geometry != guest.geometry:
        what = owner.geometry.difference(guest.geometry)
        raise ConfigError(f"the guest is not the one of the history (history's / guest's): {what}")
    guest.pause()
    stored = [(region.store, region.buffer) for region in guest.memory if region.store is not None]
    for disk, _ in stored:
        disk.discarded()
    entry = RestoredMemory(store, stream, [region.buffer for region in guest.memory]).go_to(epoch, progress)
    for disk, content in stored:
        disk.committed(_pages_in_use(content))
        disk.completed()
    guest.collect_dirty()
    guest.load_devices(entry.devices)
    return entry


def _pages_in_use(content: memoryview) -> list[int]:
    """Return which pages of a region are not all zero."""
    blank = bytes(PAGE_BYTES)
    places = range(0, len(content), PAGE_BYTES)
    return [at // PAGE_BYTES for at in places if content[at : at + PAGE_BYTES] != blank]
