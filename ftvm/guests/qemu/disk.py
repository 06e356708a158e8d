"""A guest's disk: memory to ftvm, a block device to QEMU, and an image on this host.

It is a region of the guest like RAM: what the guest writes travels with the epoch in which it was written, and is
applied on the other host when that epoch is committed, together with the memory that knows of it. QEMU reads and writes
it through NBD, served by a thread here, which notes each page that is written; a stopped QEMU has no request
outstanding, so an epoch's set of pages is exact.

Promises, whatever moment the host dies at: the image of the host where the guest runs has all that the guest had
flushed, as after a power cut; that of a standby is the disk of a committed epoch (see image.py).
"""

import mmap
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ftvm.capture.trackers import StoreTracker
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.qemu.flushing import Flusher
from ftvm.guests.qemu.image import Image
from ftvm.guests.qemu.nbd import serve
from ftvm.units import PAGE_BYTES

__all__ = ["Disk", "DiskServer"]


class Disk:
    """A disk in memory with an image behind it: a `BlockStore` to nbd.py, a `RegionStore` to the runtime.

    buffer   its content
    tracker  knows which pages were written since they were asked for
    flusher  puts on the device what the guest flushes
    trouble  why its image, or its server, cannot go on; None while both can
    """

    name = "disk"

    def __init__(self, path: str, *, boots: bool) -> None:
        """Open the image at `path`: with `boots` its content is the disk, else it waits for a first copy.

        Raises ConfigError if there is no such file, its size is odd, it cannot be read, or another process has it.
        """
        self.image = Image(Path(path))
        self.page_count = self.image.page_count
        self.size_bytes = self.page_count * PAGE_BYTES
        self.buffer = memoryview(mmap.mmap(-1, self.size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if boots:
            self._load()
        self.tracker = StoreTracker([self.page_count])
        self.trouble: str | None = None
        self._unsaved: set[int] = set()
        self.flusher = Flusher(lambda pages: self.image.save(pages, self.buffer), f"ftvm-flush-{self.image.path.name}")

    def _load(self) -> None:
        """Read what is in the image; its holes stay untouched, and take no memory. A mapped file would do it unasked,
        and end this process at what cannot be read."""
        try:
            self.image.load(self.buffer)
        except OSError as wrong:
            self.image.close()
            raise ConfigError(f"the disk {self.image.path} cannot be read: {wrong.strerror}") from wrong

    # --- for the guest: a block store ---

    def read(self, offset: int, length: int) -> memoryview:
        """Return what is there."""
        return self.buffer[offset : offset + length]

    def write(self, offset: int, content: bytes | bytearray) -> None:
        """Write, and note the pages."""
        if content:
            self.buffer[offset : offset + len(content)] = content
            self._note(offset // PAGE_BYTES, (offset + len(content) - 1) // PAGE_BYTES)

    def flush(self) -> None:
        """Put all that was written on this host's device; see Flusher.flush. Raises OSError."""
        try:
            self.flusher.flush(self._take_unsaved())
        except OSError as wrong:
            self._fail(wrong)
            raise

    # --- for the backup: a region store ---

    def committed(self, pages: Sequence[int]) -> None:
        """See interfaces.RegionStore. Raises GuestError once the image cannot be written."""
        self.flusher.settle()  # the guest has just left; a host that has been standby for longer owes nothing
        self._unsaved.update(pages)
        self.image.put(self._take_unsaved(), self.buffer)
        if self.image.error is not None:
            raise GuestError(self._fail(self.image.error))

    def discarded(self) -> None:
        """See interfaces.RegionStore."""
        self.flusher.settle()
        self.image.restart()

    def completed(self) -> None:
        """See interfaces.RegionStore."""
        self.image.complete()

    def close(self) -> None:
        """Put what was written on the device, and let go of the image. The memory goes with the last view of it."""
        self.flusher.close()
        self.image.put(self._take_unsaved(), self.buffer)
        self.image.close()

    def _note(self, first: int, last: int) -> None:
        self.tracker.flags[0][first : last + 1] = b"\x01" * (last + 1 - first)
        self._unsaved.update(range(first, last + 1))

    def _take_unsaved(self) -> set[int]:
        pages, self._unsaved = self._unsaved, set()
        return pages

    def when_settled(self, then: Callable[[str | None], None]) -> None:
        """Call `then` once the device has all that the guest was told it has; with why not, if it cannot."""
        self.flusher.when_settled(lambda wrong: then(None if wrong is None else self._fail(wrong)))

    def _fail(self, wrong: OSError) -> str:
        self.trouble = self.trouble or f"the disk {self.image.path} cannot be written: {wrong.strerror or wrong}"
        return self.trouble


class DiskServer:
    """Serves a disk to the one client at the other end of a socket, until that closes it."""

    def __init__(self, disk: Disk, connection: socket.socket) -> None:
        """Begin to serve; the socket stays its owner's, who ends the server by closing the other end."""
        self._disk = disk
        self._connection = connection
        connection.setblocking(True)
        self._thread = threading.Thread(target=self._main, name="qemu-disk", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int | None:
        """The kernel's number of its thread."""
        return self._thread.native_id

    def close(self) -> None:
        """End the thread. Idempotent."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _main(self) -> None:
        try:
            serve(self._connection, self._disk)
        except GuestError as wrong:
            self._disk.trouble = self._disk.trouble or f"the disk's server ended: {wrong}"
        finally:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
