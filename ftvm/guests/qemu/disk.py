"""A guest's disk: blocks in memory that are replicated like its RAM, an NBD server for QEMU, an image file.

The blocks are a region of the guest's memory (DESIGN.md: "a disk kept in memory is a region too"), so a checkpoint
carries what was written in its epoch, and a backup applies it only at the commit. The server notes each page that it
writes; `collect_dirty` is exact, and to be called while QEMU is stopped: `stop` waits for all requests under way.

The image follows: on a host where the guest runs, at each of the guest's flushes; on a backup, at each commit. Reads
are local on either side. What the image does not have yet is written with the next step, whoever takes it.
"""

import mmap
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ftvm._native.bitmap import put_flags, take_flags
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.qemu.image import Image
from ftvm.guests.qemu.nbd import serve
from ftvm.interfaces import Region
from ftvm.units import PAGE_BYTES, PageCount

__all__ = ["Disk"]

_JOIN_SECONDS: Final = 5.0


class Disk:
    """A disk of whole pages in memory, its image, and the socket that serves it."""

    def __init__(self, image_path: Path, size_bytes: int, socket_path: Path, *, name: str = "disk") -> None:
        """Serve at `socket_path`. An image that does not exist is made, empty. Raises ConfigError."""
        if size_bytes <= 0 or size_bytes % PAGE_BYTES:
            raise ConfigError(f"a disk of {size_bytes} bytes is not a whole number of {PAGE_BYTES}-byte pages")
        page_count = size_bytes // PAGE_BYTES
        self.size_bytes = size_bytes
        self._image = Image(image_path, page_count, is_new=True)
        self._blocks = memoryview(mmap.mmap(-1, size_bytes))
        self.region = Region(name=name, buffer=self._blocks, page_count=PageCount(page_count), store=self)
        self._lock = threading.Lock()
        self._dirty = bytearray(page_count)
        self._unsaved = bytearray(page_count)
        self._connection: socket.socket | None = None
        self._is_closed = False
        self._error: str | None = None
        self._socket_path = socket_path
        self._listener = _listen(socket_path)
        self._thread = threading.Thread(target=self._serve, name=f"ftvm-disk-{name}", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """What is wrong with the disk, or None."""
        return self._image.error or self._error

    def load(self) -> None:
        """Fill the disk from its image: for a guest that starts here. All its pages count as written."""
        self._image.load(self._blocks)
        with self._lock:
            self._dirty[:] = b"\1" * len(self._dirty)

    # --- dirty pages: while QEMU is stopped ------------------------------------------------------------------------

    def collect_dirty(self) -> bytearray:
        """Get and clear the set of pages written since the last call, as the words of a bitmap."""
        with self._lock:
            return take_flags(self._dirty)

    def restore_dirty(self, words: bytearray) -> None:
        """Put back what a failed capture had collected."""
        with self._lock:
            put_flags(words, self._dirty)

    # --- a region's store: on a backup -----------------------------------------------------------------------------

    def committed(self, pages: Sequence[int]) -> None:
        """Take note that a commit has changed these pages of the region: the image is to follow."""
        with self._lock:
            self._image.put({*pages, *self._take_unsaved()}, self._blocks)

    def replaced(self) -> None:
        """Take note that a first copy was committed: the image is to be made anew."""
        with self._lock:
            self._take_unsaved()
            self._image.put_whole(self._blocks)

    def discarded(self) -> None:
        """Take note that what was written last here is another history than the one that goes on."""
        with self._lock:
            self._take_unsaved()

    # --- a block store: for the server -----------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the disk."""
        return bytes(self._blocks[offset : offset + length])

    def write(self, offset: int, content: bytes) -> None:
        """Change bytes of the disk."""
        with self._lock:
            self._blocks[offset : offset + len(content)] = content
            self._note(offset, len(content))

    def zero(self, offset: int, length: int) -> None:
        """Make bytes of the disk zero."""
        for first in range(offset, offset + length, 1 << 20):
            self.write(first, bytes(min(1 << 20, offset + length - first)))

    def flush(self) -> None:
        """Return when what was written is in the image. Raises GuestError if it cannot be."""
        with self._lock:
            self._image.put(self._take_unsaved(), self._blocks)
        self._image.sync()

    # --- the server ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Hang up, save the image, give everything back. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        connection = self._connection
        for end in (self._listener, connection):
            if end is not None:
                _shut(end)
        self._thread.join(_JOIN_SECONDS)
        self._listener.close()
        self._socket_path.unlink(missing_ok=True)
        self._image.put(self._take_unsaved(), self._blocks)
        self._image.close()

    def _serve(self) -> None:
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed: nobody is to be served any more
            with connection:
                self._connection = connection
                try:
                    serve(connection, self)
                except (GuestError, OSError) as wrong:
                    self._error = None if self._is_closed else f"the disk's connection broke: {wrong}"
                self._connection = None

    def _note(self, offset: int, length: int) -> None:
        if length > 0:
            first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
            ones = b"\1" * (last + 1 - first)
            self._dirty[first : last + 1] = ones
            self._unsaved[first : last + 1] = ones

    def _take_unsaved(self) -> list[int]:
        """Return the pages that the image does not have; they count as saved from now on."""
        found = []
        page = self._unsaved.find(1)
        while page >= 0:
            found.append(page)
            page = self._unsaved.find(1, page + 1)
        for page in found:
            self._unsaved[page] = 0
        return found


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        os.chmod(path, 0o600)
        listener.listen(2)
    except OSError as wrong:
        listener.close()
        raise ConfigError(f"the disk cannot be served at {path}: {wrong.strerror or wrong}") from wrong
    return listener


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError as wrong:
        if wrong.errno is None:
            raise
