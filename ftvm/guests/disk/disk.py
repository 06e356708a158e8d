"""A guest's disk: a region of memory to ftvm, a block device to the guest's machine, and an image on this host.

What the guest writes travels with the epoch in which it was written, and is applied on the other host when that epoch
is committed, together with the memory that knows of it. A stopped machine has no request outstanding, so an epoch's set
of pages is exact. The region's memory is a private mapping of the image (mapping.h): resident is only what is on its
way to the file, the rest is the system's cache.

The image belongs to one of two in turn. While the guest runs here, its writes go straight to the file (blockstore.h);
while this host stands by, a thread takes the file from one committed epoch to the next (image.py). A guest that takes
over does not wait for that thread: until the file is its own, what it writes is held in memory.

A flush waits for the device. Beside a standby that has it on its own before anything follows from it the disk is
covered: a flush is answered at once, and the device gets it a little later. It has all of it again before this host
speaks alone, or hands the guest over (docs/protocol.md, "Flushes").

Promises, whatever moment the host dies at: the image of the host where the guest runs has all that the guest had
flushed, as after a power cut, unless it was covered; that of a standby is the disk of a committed epoch.
"""

import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ftvm._native.blockstore import BlockStore
from ftvm._native.flags import SparseFlags
from ftvm._native.mapping import FileMapping
from ftvm.checkpoint import Bitmap, Footing
from ftvm.errors import ClosedError, ConfigError, GuestError, StateUnreadable
from ftvm.guests.disk.blocks import data_runs, runs_of
from ftvm.guests.disk.copied import CopiedDisk
from ftvm.guests.disk.image import Image
from ftvm.units import PAGE_BYTES

__all__ = ["Disk"]

_HIGH_WATER_PAGES: Final = 16_384
"""A disk takes no more writes than this (64 MiB) between two cuts: an epoch has to fit what the standby stages. At half
of it the disk asks for the next."""
_PATIENCE_MS: Final = 1_000
"""A guest that waited for a cut so long goes on: nobody cuts, or so slowly that the guest matters more."""
_BEHIND_BYTES: Final = 64 << 20
_BEHIND_MS: Final = 1_000
"""The device of a covered disk is no further behind: to settle it after the standby's death takes not much longer."""

Settled = Callable[[str | None], None]
"""Called once nothing is owed: with why the disk cannot go on, if it cannot."""


class Disk(CopiedDisk):
    """A disk with an image behind it; a `RegionStore` to the runtime.

    name        of the region
    buffer      its content: memory to read, and on a standby to write
    page_count  its size
    """

    def __init__(self, path: str, *, boots: bool, name: str = "disk", witnesses: tuple[int, int] = (-1, -1)) -> None:
        """Open the image at `path`: with `boots` its content is the disk, else it waits for a first copy.


        `witnesses` are for tests: see blockstore.h.

        Raises ConfigError if there is no such file, its size is odd, or another process has it.
        """
        self.name = name
        self.image = Image(Path(path), boots=boots)
        self.identity = self.image.label.image
        self.has_content = any(data_runs(self.image.descriptor))
        self.page_count = self.image.page_count
        self.size_bytes = self.page_count * PAGE_BYTES
        self._written, self._held = SparseFlags(self.page_count), SparseFlags(self.page_count)
        self._shown = self.image.descriptor if boots else None
        self._is_whole = boots
        self._is_first, self._was_flushed, self._is_covered = boots, False, False
        self._trouble: str | None = None
        self._role = threading.Lock()
        self._is_guests = self._has_file = boots
        self._leaving, self._must_leave = threading.Lock(), False
        self._then: Settled | None = None
        try:
            self._mapping = FileMapping(self.size_bytes)
            self._store = BlockStore(
                self._mapping,
                written=self._written,
                held=self._held,
                high_water_blocks=_HIGH_WATER_PAGES,
                patience_ms=_PATIENCE_MS,
                behind_bytes=_BEHIND_BYTES,
                behind_ms=_BEHIND_MS,
                witnesses=witnesses,
            )
            if boots:
                self._mapping.show(self.image.descriptor)
                self._store.release(self.image.descriptor)
        except GuestError as wrong:
            self.image.close()
            raise ConfigError(f"the disk {path} cannot be opened: {wrong}") from wrong
        self.buffer = self._mapping.buffer

    @property
    def trouble(self) -> str | None:
        """Why its image, or its server, cannot go on; None while both can."""
        if (why := self._why_unwritten()) is not None:
            self.note_trouble(why)
        return self._trouble

    @property
    def is_guests(self) -> bool:
        """Whether a guest runs from it here."""
        return self._is_guests

    def why_shorter(self) -> str | None:
        """Return what became of the image's file, if it has no longer all of the disk."""
        status = self.image.status()
        if status is None or status.st_size >= self.size_bytes or not stat.S_ISREG(status.st_mode):
            return None
        return (
            f"the disk {self.image.path} cannot be read: its image was cut to {status.st_size} bytes, and has to have "
            f"{self.size_bytes}"
        )

    def _why_unwritten(self) -> str | None:
        error = self._store.error or self.image.error
        return None if error is None else f"the disk {self.image.path} cannot be written: {error.strerror or error}"

    def note_trouble(self, reason: str) -> None:
        """Keep the first reason why it cannot go on."""
        self._trouble = self._trouble or reason

    # --- for the guest's machine -----------------------------------------------------------------------------------

    def serve(self, connection: int) -> None:
        """Serve the NBD client at the other end of a socket until it leaves. Raises GuestError."""
        self._store.serve(connection)

    def hurry(self) -> None:
        """The guest is to stop: answer its flushes, and owe them; hold what it writes. Whoever was to be told of the
        end is not."""
        self._then = None
        self._store.hurry(is_hurried=True)

    def rest(self) -> None:
        """The guest has stopped: the image may have what was held meanwhile."""
        self._store.rest()

    def was_flushed_in_haste(self) -> bool:
        """Tell, once, whether a flush came since `hurry`: perhaps the guest's, which `note_flush` is to say, perhaps of
        whoever has stopped it."""
        calmly, in_haste = self._store.take_flushes()
        self._was_flushed |= calmly
        return in_haste

    def note_flush(self) -> None:
        """The guest has flushed what it wrote."""
        self._was_flushed = True

    def when_settled(self, then: Settled) -> None:
        """Call `then` once the device has all that the guest was told it has: here and now, or in a thread. While
        covered it waits for nothing.

        The image is the guest's from now on. What it flushes waits for the device again, or is covered.
        """
        if not self._is_whole:
            then(f"the disk {self.image.path} was not copied completely: no guest can run from it")
            return
        self._store.hurry(is_hurried=False)
        self._then = then
        with self._role:
            is_new = not self._is_guests
            self._is_guests = True
        if is_new:
            self.image.give(self._take_file)
        if self._is_covered or self._is_settled(0):
            self._tell_settled(then)
        else:
            threading.Thread(target=self._settle_for, args=(then,), name="ftvm-disk-settle", daemon=True).start()

    # --- for the capture -------------------------------------------------------------------------------------------

    def require_readable(self) -> None:
        """Raise StateUnreadable if the image is shorter than the disk, or pages of it could not be read since the last
        call: they were taken for zeros."""
        lost, shorter = self._mapping.lost_pages, self.why_shorter()
        if not lost and shorter is None:
            return
        why = shorter or self._unreadable(lost)
        with self._role:
            if self._has_file and self._is_settled(0):
                self._store.hold()
                if not any(self._held.runs()):
                    self._mapping.show(self.image.descriptor)  # the device may do better the next time
                self._store.release(self.image.descriptor)
        raise StateUnreadable(why)

    def fileno(self) -> int:
        """Return the descriptor that is readable when the disk asks for a cut, until `is_asking` is asked."""
        return self._store.fileno()

    def is_asking(self) -> bool:
        """Tell whether it asks for a cut, so that the guest need not wait for one, and has not been heard."""
        return self._store.is_asking()

    def collect(self) -> Bitmap:
        """Get and clear the set of pages that the guest has written; the first time, with those that it booted from."""
        if self._is_first:
            self._is_first = False
            self._flag_data(self._written)
        written = Bitmap((self.page_count,), (self._written.take(),))
        self._store.mark()
        return written

    def take_flush(self) -> bool:
        """See interfaces.RegionStore."""
        in_haste = self.was_flushed_in_haste()
        was_flushed, self._was_flushed = self._was_flushed or in_haste, False
        return was_flushed

    def cover(self, *, is_covered: bool) -> None:
        """See interfaces.RegionStore."""
        self._is_covered = is_covered
        self._store.cover(is_covered=is_covered)

    def persist(self, then: Callable[[str | None], None]) -> None:
        """See interfaces.RegionStore. If the guest runs here, also what it has flushed so far."""
        super().persist(lambda wrong: self._persist_flushes(then) if wrong is None else then(wrong))

    def present(self) -> bytearray:
        """See interfaces.RegionStore."""
        flags = SparseFlags(self.page_count)
        self._flag_data(flags)
        return flags.take()

    def _flag_data(self, flags: SparseFlags) -> None:
        """Flag all pages that may not be zero: the rest of a sparse image is not worth a look.

        A page is held until the file that is shown has it: so the two together have all.
        """
        flags.set(self._held.runs())
        flags.set(self._shown_runs())

    def restore(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._written.put(bitmap.words[0])

    # --- for the backup: a region store ----------------------------------------------------------------------------

    def stands(self, footing: Footing) -> None:
        """See interfaces.RegionStore."""
        self.image.stand(footing)

    def committed(self, pages: Sequence[int]) -> None:
        """See interfaces.RegionStore. Raises GuestError once the image cannot be written, or read."""
        self._take_back()
        self._held.set((first, first + count) for first, count in runs_of(sorted(pages)))
        dropped = sorted(self._take_written().difference(pages))
        for first, count in runs_of(dropped):
            self._mapping.drop([(first, count)])
            self._held.clear(first, first + count)
        self.image.put(pages, self.buffer)
        if self.trouble is not None:
            raise GuestError(self.trouble)
        self.require_readable()

    def discarded(self) -> None:
        """See interfaces.RegionStore."""
        self._take_back()
        self._begin_copy()
        self._held.reset()

    def close(self) -> None:
        """Put what was written on the device, and let go of the image. The memory goes with the last view of it."""
        with self._role:
            is_waiting = self._is_guests and not self._has_file
            self._is_guests = self._has_file = False
        self._then = None
        with suppress(OSError):
            self._leave()
        is_clean = self._store.close()
        if is_waiting:
            self._put_held()
        self.image.close(is_clean=is_clean)
        self._mapping.close()

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _take_file(self, error: OSError | None) -> None:
        """Have the guest's writes go to the file, which is at the last committed epoch now; or fail, if it never will
        be. In the image's thread."""
        with self._role:
            if self._is_guests and error is not None:
                self._store.fail(error)
            self._has_file = self._is_guests and error is None
            if self._has_file:
                try:
                    self._show_moved()
                except GuestError as wrong:
                    self.note_trouble(str(wrong))
                    return
                self._store.release(self.image.descriptor)

    def _take_back(self) -> None:
        """Have the image be this host's again: the guest has just left; on a host that stands by, nothing is to do.

        Waits for no device, as it is the loop that asks: the image's thread does, before it writes.
        """
        with self._role:
            is_guests, self._is_guests = self._is_guests, False
            self._has_file = False
            self._must_leave |= is_guests
        if not is_guests:
            return
        self._store.let_go()
        self.image.take_back(self._leave)
        self._put_held()

    def _leave(self) -> None:
        """Wait, once, until the guest's last write and sync are done; the flushes that it is owed are the image's.

        Raises OSError if they failed: a system tells that once, and the image's own sync would be believed.
        """
        with self._leaving:
            with self._role:
                must_leave, self._must_leave = self._must_leave, False
            if not must_leave:
                return
            self._store.hold()
            if (error := self._store.error) is not None:
                raise error
            self._store.forgive()

    def _show_under(self, descriptor: int) -> None:
        self._store.show(descriptor)

    def _put_held(self) -> None:
        """Have the image take what the guest wrote before it was its own, or had not moved to it."""
        pages = [page for first, end in self._held.runs() for page in range(first, end)]
        if pages:
            self.image.put(pages, self.buffer)

    def _persist_flushes(self, then: Callable[[str | None], None]) -> None:
        """Call `then` once the flushes that the guest has asked for are done, if it runs here; at once, or in a
        thread."""
        ticket = 0
        with suppress(ClosedError):
            ticket = self._store.asked() if self._is_guests else 0
        if self._is_settled(0, ticket):
            then(self._why_unwritten())
            return
        waits = threading.Thread(target=self._settle_flushes, args=(ticket, then), daemon=True)
        waits.name = "ftvm-disk-persist"
        waits.start()

    def _settle_flushes(self, ticket: int, then: Callable[[str | None], None]) -> None:
        while not self._is_settled(_PATIENCE_MS, ticket):
            if not self._is_guests:  # what it had flushed is the image's to make durable
                super().persist(then)
                return
        then(self._why_unwritten())

    def _is_settled(self, timeout_ms: int, ticket: int | None = None) -> bool:
        """Tell whether nothing is owed up to a ticket, if not up to now, or nothing can be written any more."""
        try:
            return self._store.settle(self._store.asked() if ticket is None else ticket, timeout_ms)
        except (OSError, ClosedError):
            return True

    def _settle_for(self, then: Settled) -> None:
        while not self._is_settled(_PATIENCE_MS):
            if self._then is not then:
                return
        self._tell_settled(then)

    def _tell_settled(self, then: Settled) -> None:
        if self._then is then:
            self._then = None
            then(self.trouble)
