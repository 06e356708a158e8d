"""A disk image in a raw file that is always whole: a crash at any moment leaves it as one of the states it was given.

A host keeps its guest's disk in memory (a region, replicated like the rest); the image is what is left of it when the
host is gone. `put` takes the pages that make up the step from one state to the next, all of them or nothing: they are
written to a journal beside the image first, and only then to their places. Whoever opens the image next finishes a
journal that is whole and drops one that is torn.

A thread writes. Steps that come faster than the device takes them are merged, so what waits is never more than the
disk itself. Knows nothing of epochs, guests or NBD.

The journal: magic (8 bytes), page count (u64), page indices (u64 each), pages (4096 bytes each), XXH3-128 of all that.
"""

import fcntl
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import xxhash

from ftvm.errors import ConfigError, GuestError
from ftvm.units import PAGE_BYTES

__all__ = ["Image"]

_MAGIC: Final = b"ftvmdsk1"
_HEAD: Final = struct.Struct("<8sQ")
_DIGEST_BYTES: Final = 16
_ZERO_PAGE: Final = bytes(PAGE_BYTES)
_CLOSE_SECONDS: Final = 30.0


class Image:
    """A raw image file of whole pages, held by one process at a time."""

    def __init__(self, path: Path, page_count: int, *, is_new: bool = False) -> None:
        """Open the image and finish what a crash has left; `is_new` makes an empty one if there is none.

        Raises ConfigError if it is missing, of another size, or in use by another process.
        """
        self.path = path
        self.page_count = page_count
        self._journal_path = path.with_name(path.name + ".journal")
        self._fd = _open(path, page_count * PAGE_BYTES, is_new=is_new)
        self._changed = threading.Condition()
        self._waiting: dict[int, bytes] = {}
        self._is_whole_next = False
        self._is_writing = False
        self._is_closed = False
        self._error: OSError | None = None
        _finish(self._journal_path, self._fd, page_count)
        self._thread = threading.Thread(target=self._work, name=f"ftvm-image-{path.name}", daemon=True)
        self._thread.start()

    @property
    def error(self) -> str | None:
        """Why the image is no longer written, or None while it is."""
        return None if self._error is None else f"the disk image {self.path} cannot be written: {self._error}"

    def load(self, disk: memoryview) -> None:
        """Copy the image into `disk`, which must be all zeros."""
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            for first in range(0, len(disk), 1 << 20):
                part = file.read(min(1 << 20, len(disk) - first))
                if part.count(0) != len(part):
                    disk[first : first + len(part)] = part

    def put(self, pages: Iterable[int], disk: memoryview) -> None:
        """Take the step to the state that `disk` is in now, of which only `pages` are new. Does not wait."""
        step = {page: bytes(disk[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in pages}
        with self._changed:
            self._waiting.update(step)
            self._changed.notify_all()

    def put_whole(self, disk: memoryview) -> None:
        """Take the step to the state that `disk` is in now, whatever the image was before. Does not wait."""
        occupied = [page for page in range(self.page_count) if not _is_zero(disk, page)]
        step = {page: bytes(disk[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in occupied}
        with self._changed:
            self._waiting = step
            self._is_whole_next = True
            self._changed.notify_all()

    def sync(self, timeout: float = _CLOSE_SECONDS) -> None:
        """Wait until all that was put is on the device. Raises GuestError if it does not get there."""
        with self._changed:
            is_done = self._changed.wait_for(self._is_at_rest, timeout)
        if self._error is not None:
            raise GuestError(str(self.error))
        if not is_done:
            raise GuestError(f"the disk image {self.path} has not been written for {timeout:.0f} s")

    def close(self) -> None:
        """Write what waits, then let go of the file. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)
        if self._fd >= 0 and not self._thread.is_alive():
            os.close(self._fd)
            self._fd = -1

    # --- the thread ------------------------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._is_whole_next

    def _is_at_rest(self) -> bool:
        return self._error is not None or not (self._has_work() or self._is_writing)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._has_work() or self._is_closed)
                if not self._has_work():
                    return
                step, self._waiting = self._waiting, {}
                is_whole, self._is_whole_next = self._is_whole_next, False
                self._is_writing = True
            try:
                if is_whole:
                    self._replace(step)
                else:
                    self._apply(step)
            except OSError as wrong:
                with self._changed:
                    self._error = wrong
                    self._changed.notify_all()
                return

    def _apply(self, step: dict[int, bytes]) -> None:
        pages = sorted(step)
        journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_journal(journal, pages, step)
            os.fdatasync(journal)
            for page in pages:
                _write_at(self._fd, step[page], page * PAGE_BYTES)
            os.fdatasync(self._fd)
            os.ftruncate(journal, 0)
        finally:
            os.close(journal)

    def _replace(self, step: dict[int, bytes]) -> None:
        """Write a new file and put it in the place of the old one."""
        fresh_path = self.path.with_name(self.path.name + ".new")
        fresh = os.open(fresh_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fresh, self.page_count * PAGE_BYTES)
            for page in sorted(step):
                _write_at(fresh, step[page], page * PAGE_BYTES)
            os.fsync(fresh)
            os.replace(fresh_path, self.path)
            _sync_directory(self.path.parent)
        except OSError:
            os.close(fresh)
            raise
        os.close(self._fd)
        self._fd = fresh


def _open(path: Path, size_bytes: int, *, is_new: bool) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_new else 0), 0o600)
    except OSError as wrong:
        raise ConfigError(f"the disk image {path} cannot be opened: {wrong.strerror}") from wrong
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found_bytes = os.fstat(fd).st_size
        if is_new and found_bytes == 0:
            os.ftruncate(fd, size_bytes)
        elif found_bytes != size_bytes:
            raise ConfigError(f"the disk image {path} has {found_bytes} bytes, but the disk has {size_bytes}")
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(f"the disk image {path} is in use by another process") from None
    except (ConfigError, OSError):
        os.close(fd)
        raise
    return fd


def _finish(journal_path: Path, fd: int, page_count: int) -> None:
    """Apply the journal that a crash has left, if it is whole."""
    try:
        found = journal_path.read_bytes()
    except FileNotFoundError:
        return
    for page, content in _read_journal(found, page_count):
        _write_at(fd, content, page * PAGE_BYTES)
    os.fdatasync(fd)
    journal_path.unlink()


def _write_journal(fd: int, pages: list[int], step: dict[int, bytes]) -> None:
    head = _HEAD.pack(_MAGIC, len(pages)) + struct.pack(f"<{len(pages)}Q", *pages)
    digest = xxhash.xxh3_128(head)
    _write_at(fd, head, 0)
    offset = len(head)
    for page in pages:
        digest.update(step[page])
        _write_at(fd, step[page], offset)
        offset += PAGE_BYTES
    _write_at(fd, digest.digest(), offset)


def _read_journal(found: bytes, page_count: int) -> list[tuple[int, bytes]]:
    """Return the pages of a whole journal; nothing of one that is torn."""
    if len(found) < _HEAD.size + _DIGEST_BYTES:
        return []
    magic, count = _HEAD.unpack_from(found)
    first = _HEAD.size + 8 * count
    if magic != _MAGIC or len(found) < first + count * PAGE_BYTES + _DIGEST_BYTES:
        return []
    end = first + count * PAGE_BYTES
    if xxhash.xxh3_128(found[:end]).digest() != found[end : end + _DIGEST_BYTES]:
        return []
    pages = struct.unpack_from(f"<{count}Q", found, _HEAD.size)
    if any(page >= page_count for page in pages):
        return []
    return [(page, found[first + n * PAGE_BYTES : first + (n + 1) * PAGE_BYTES]) for n, page in enumerate(pages)]


def _write_at(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_zero(disk: memoryview, page: int) -> bool:
    return disk[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] == _ZERO_PAGE
