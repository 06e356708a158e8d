"""Files of records that only grow: append, sync, read back, and find the end after a crash.

    magic 8 | uuid 16                                                         24 bytes, at the start
    u32 length of the body | XXH3-128 of uuid, offset and body | body         each record

A record is whole if its digest says so. The digest takes in where the record stands, so that what an earlier file left
in the blocks is not taken for one. After a crash `scan` finds the whole records; what is behind the last of them was
never promised, and is cut off by whoever writes again.

Source: the log format of LevelDB for the idea; the digest by place is ours.
"""

import errno
import os
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ftvm._native.memory import bytes_digest
from ftvm.errors import HistoryError
from ftvm.store.crypt import PLAIN, Sealer

__all__ = ["HEADER_BYTES", "SegmentReader", "SegmentWriter", "scan"]

_MAGIC: Final = b"ftvmseg1"
HEADER_BYTES: Final = 24
_HEAD: Final = struct.Struct("<I16s")
_PLACE: Final = struct.Struct("<Q")
_BODY_BYTES_MAX: Final = 1 << 30


class SegmentWriter:
    """One segment that is written. A failure is final: what was synced before is safe, and nothing more is written."""

    def __init__(self, path: Path, *, sealer: Sealer = PLAIN) -> None:
        """Create the file, which must not exist. Raises HistoryError."""
        self.path = path
        self.uuid = uuid.uuid4().bytes
        self._sealer = sealer
        self._descriptor = -1
        self._end = 0
        self.synced = 0
        self._is_broken = False
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._write(_MAGIC + self.uuid)
        except OSError as wrong:
            raise broken(path, "created", wrong) from wrong

    @property
    def end(self) -> int:
        """How long the file is."""
        return self._end

    def append(self, content: bytes) -> tuple[int, int]:
        """Write a record; return where it is and how long: it is safe only after `sync`. Raises HistoryError."""
        offset = self._end
        body = self._sealer.seal(content, self.uuid + _PLACE.pack(offset))
        record = _HEAD.pack(len(body), _digest(self.uuid, offset, body)) + body
        try:
            self._write(record)
        except OSError as wrong:
            raise broken(self.path, "written", wrong) from wrong
        return offset, len(record)

    def sync(self) -> None:
        """Return when all that was appended survives a power cut. Raises HistoryError: then nothing is known of it."""
        if self._is_broken:
            raise HistoryError(f"{self.path} failed before: nothing more is written to it")
        try:
            os.fdatasync(self._descriptor)
        except OSError as wrong:
            self._is_broken = True
            raise broken(self.path, "synced", wrong) from wrong
        self.synced = self._end

    def close(self) -> None:
        """Give the file back. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, content: bytes) -> None:
        if self._is_broken:
            raise OSError(errno.EIO, "an earlier write failed")
        view = memoryview(content)
        try:
            while view:
                view = view[os.pwrite(self._descriptor, view, self._end + len(content) - len(view)) :]
        except OSError:
            self._is_broken = True
            raise
        self._end += len(content)


class SegmentReader:
    """Reads records of one segment by their place."""

    def __init__(self, path: Path, *, sealer: Sealer = PLAIN) -> None:
        """Open the file. Raises HistoryError if it is gone, or no segment."""
        self.path = path
        self._sealer = sealer
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as wrong:
            raise broken(path, "read", wrong) from wrong
        try:
            header = self._read(0, HEADER_BYTES)
            if len(header) < HEADER_BYTES or header[: len(_MAGIC)] != _MAGIC:
                raise HistoryError(f"{path} is no segment of a history of this version")
        except BaseException:
            self.close()
            raise
        self.uuid = header[len(_MAGIC) :]

    def body(self, offset: int) -> bytes | None:
        """Return what is stored at `offset`, still sealed; None if no whole record stands there."""
        head = self._read(offset, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, digest = _HEAD.unpack(head)
        if length > _BODY_BYTES_MAX:
            return None
        body = self._read(offset + _HEAD.size, length)
        if len(body) < length or _digest(self.uuid, offset, body) != digest:
            return None
        return body

    def record(self, offset: int) -> bytes:
        """Return the content of the record at `offset`. Raises HistoryError if it is damaged."""
        body = self.body(offset)
        if body is None:
            raise HistoryError(f"{self.path}: the record at byte {offset} is damaged or cut off")
        return self._sealer.open(body, self.uuid + _PLACE.pack(offset))

    def close(self) -> None:
        """Give the file back. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, offset: int, length: int) -> bytes:
        try:
            parts = []
            while length and (part := os.pread(self._descriptor, length, offset)):
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except OSError as wrong:
            raise broken(self.path, "read", wrong) from wrong
        return b"".join(parts)


def scan(reader: SegmentReader, start: int = HEADER_BYTES) -> Iterator[tuple[int, int]]:
    """Yield the place and the length of each whole record from `start` on, up to the first that is not whole."""
    offset = start
    while (body := reader.body(offset)) is not None:
        length = _HEAD.size + len(body)
        yield offset, length
        offset += length


def broken(path: Path, what: str, wrong: OSError) -> HistoryError:
    """Return the error that says why a file of a history could not be used, and what to do."""
    if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
        return HistoryError(f"the disk is full: {path} cannot be {what}; make room, or lower --history-keep")
    return HistoryError(f"{path} cannot be {what}: {wrong.strerror or wrong}")


def _digest(segment: bytes, offset: int, body: bytes) -> bytes:
    return bytes_digest(segment, _PLACE.pack(offset), body)
