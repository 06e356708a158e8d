"""The disk of a machine that has it as memory: a private mapping of its image, and the image kept close behind it.

The machine reads and writes memory, and flags what it writes. No request comes by here, so the machine does the same to
the last bit with an image and without one. Resident is what was written and is not in the image yet; the rest is the
system's cache (mapping.h).

Each time the flags are taken, the machine standing still, the pages are copied for the image's thread, which takes the
file from one such moment to the next (image.py). On a standby the commits are these moments; one that executes keeps
what it wrote until the other host's mark agrees with it.

Promises: whatever moment the host dies at, the image is the disk of one such moment, whole; after an orderly end, of
the last. Between two, nothing is written: a machine that nobody takes checkpoints of is kept when it ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ftvm._native.mapping import FileMapping
from ftvm._native.memory import bitmap_indices, take_flags
from ftvm.checkpoint import Bitmap, Footing
from ftvm.errors import ConfigError, GuestError, StateUnreadable
from ftvm.guests.disk.blocks import data_runs, runs_of
from ftvm.guests.disk.copied import CopiedDisk
from ftvm.guests.disk.image import Image
from ftvm.guests.flagged import FlaggedMemory
from ftvm.interfaces import Region
from ftvm.units import PAGE_BYTES, bytes_to_pages, pages_to_bytes

__all__ = ["KeptDisk", "open_disk", "regions_of"]


class KeptDisk(CopiedDisk):
    """A disk in memory with an image behind it; a `RegionStore` to the runtime.

    memory    for the machine: it reads and writes there, and sets the flags
    identity  the image's name
    """

    def __init__(self, path: str, *, boots: bool) -> None:
        """Open the image at `path`: with `boots` its content is the disk, else it waits for a first copy.

        Raises ConfigError if it is missing, of odd size, or in use by another process.
        """
        self.image = Image(Path(path), boots=boots)
        self.identity = self.image.label.image
        self.has_content = any(data_runs(self.image.descriptor))
        size_bytes = pages_to_bytes(self.image.page_count)
        try:
            self._mapping = FileMapping(size_bytes)
            if boots:
                self._mapping.show(self.image.descriptor)
        except GuestError as wrong:
            self.image.close()
            raise ConfigError(f"the disk {path} cannot be opened: {wrong}") from wrong
        self.memory = FlaggedMemory(size_bytes, self._mapping.memory)
        self._shown = self.image.descriptor if boots else None
        self._ours = bytearray(self.image.page_count)  # 1: the memory holds it, and the file perhaps does not
        self._unagreed: dict[int, bytes] = {}
        self._runs = self._is_whole = boots
        self._told: str | None = None
        if boots:  # the first time, all that is not zero counts as written
            _flag(self.memory.flags, data_runs(self.image.descriptor))

    def why_unreadable(self) -> str | None:
        """Return why the memory is not what the machine wrote, if pages of the image could not be read. Any thread."""
        lost = self._mapping.lost_pages
        return self._unreadable(lost) if lost else None

    def require_readable(self) -> None:
        """Raise StateUnreadable for `why_unreadable`."""
        if (why := self.why_unreadable()) is not None:
            raise StateUnreadable(why)

    def news(self) -> str | None:
        """Return, once, why the image is no longer written, or that it was deleted. The machine can go on: its disk is
        memory."""
        error, told = self.image.error, self._told
        self._told = self.why_nameless()
        if error is not None:
            self._told = (
                f"the disk {self.image.path} cannot be written: {error.strerror or error}; the guest goes on, and its "
                "image stays as it is"
            )
        return self._told if self._told != told else None

    def take(self) -> bytearray:
        """Get and clear the set of pages written since the last call, the machine standing still, and keep them.

        Raises StateUnreadable; nothing is taken then.
        """
        self.require_readable()
        words = self.memory.take_dirty()
        self._keep(bitmap_indices(Bitmap((self.memory.page_count,), (words,))), is_agreed=self._runs)
        return words

    def note_flush(self) -> None:
        """Note that the machine has flushed the disk, as its device in C does."""
        self.memory.flush[0] = 1

    # --- a region store ----------------------------------------------------------------------------------------------

    def stands(self, footing: Footing) -> None:
        """See interfaces.RegionStore."""
        self._runs = footing.runs
        self.image.put_copies(self._unagreed)
        self._unagreed = {}
        self.image.stand(footing)

    def take_flush(self) -> bool:
        """See interfaces.RegionStore."""
        if not self.memory.flush[0]:
            return False  # and nothing is cleared: the machine may flush in this moment
        self.memory.flush[0] = 0
        return True

    def cover(self, *, is_covered: bool) -> None:
        """See interfaces.RegionStore: a flush of this disk waits for nothing in any case."""

    def present(self) -> bytearray:
        """See interfaces.RegionStore."""
        flags = bytearray(self._ours)
        _flag(flags, _runs_of_flags(self.memory.flags))
        _flag(flags, self._shown_runs())
        return take_flags(flags)

    def committed(self, pages: Sequence[int]) -> None:
        """See interfaces.RegionStore. Raises GuestError once the image cannot be written, or read."""
        self.require_readable()
        self._keep(pages or self._flagged(), is_agreed=True)
        if (error := self.image.error) is not None:
            raise GuestError(f"the disk {self.image.path} cannot be written: {error.strerror or error}")

    def discarded(self) -> None:
        """See interfaces.RegionStore."""
        self._unagreed = {}
        self._begin_copy()
        self._ours = bytearray(self.memory.page_count)

    def close(self) -> None:
        """Put what was written on the device, and let go of the image. The memory shows zeros from then on."""
        is_good = self._is_whole and self._mapping.number >= 0 and self.why_unreadable() is None
        if is_good and self._runs:
            self._keep(self._flagged(), is_agreed=True)
        self.image.close(is_clean=is_good)
        self._mapping.close()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _show_under(self, descriptor: int) -> None:
        own = bytearray(self._ours)
        _flag(own, _runs_of_flags(self.memory.flags))
        self._mapping.show_under(descriptor, own)

    def _flagged(self) -> list[int]:
        return [page for first, end in _runs_of_flags(self.memory.flags) for page in range(first, end)]

    def _keep(self, pages: Sequence[int], *, is_agreed: bool) -> None:
        """Have the image take pages that were written, and let go of memory that it has by now.

        is_agreed  the other host has agreed to them, or they are this one's to say
        """
        _flag(self._ours, ((first, first + count) for first, count in runs_of(pages)))
        done = self._take_written()
        if self.image.error is None:  # what it failed to write is among them
            for first, count in runs_of(sorted(done.difference(pages, self._unagreed))):
                self._mapping.drop([(first, count)])
                self._ours[first : first + count] = bytes(count)
        buffer = self.memory.buffer
        copies = {page: bytes(buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in pages}
        if is_agreed:
            self.image.put_copies(copies)
        else:
            self._unagreed.update(copies)


def open_disk(disk: bytes | int | str | Path, *, boots: bool) -> tuple[int, KeptDisk | None]:
    """Return the size of a machine's disk, and the disk itself if it has an image, which is opened.

    disk  its content, its size (0: no disk), or the path of its image

    Raises ConfigError if that cannot be a disk.
    """
    if isinstance(disk, int):
        return disk, None
    if isinstance(disk, bytes):
        return len(disk), None
    kept = KeptDisk(str(disk), boots=boots)
    return len(kept.memory.buffer), kept


def regions_of(ram: memoryview, disk: FlaggedMemory | None, kept: KeptDisk | None) -> tuple[Region, ...]:
    """Return the memory of a machine that may have a disk as memory, too, which may have an image."""
    regions = [Region(name="ram", buffer=ram, page_count=bytes_to_pages(ram.nbytes))]
    if disk is not None:
        regions.append(Region(name="disk", buffer=disk.buffer, page_count=disk.page_count, store=kept))
    return tuple(regions)


def _flag(flags: bytearray, runs: Iterable[tuple[int, int]]) -> None:
    """Set the flags of runs of pages: first, end."""
    for first, end in runs:
        flags[first:end] = b"\1" * (end - first)


def _runs_of_flags(flags: bytearray) -> Iterator[tuple[int, int]]:
    """Yield the first page and the end of each run of pages that are flagged."""
    first = flags.find(b"\1")
    while first >= 0:
        end = flags.find(b"\0", first)
        end = len(flags) if end < 0 else end
        yield first, end
        first = flags.find(b"\1", end)
