"""A guest's disk: an image file that is memory to ftvm and a block device to QEMU.

The file is mapped, so it is a region of the guest like RAM: what the guest writes travels with the epoch in which it
was written, and is applied on the other host when that epoch is committed, together with the memory that knows of it.
QEMU reads and writes it through a small NBD server in a thread here, which notes each page that it writes; a stopped
QEMU has no request outstanding, so an epoch's set of pages is exact.

Promises: a request outside the disk, or malformed, is refused or ends the connection, and never the process; a flush
that was answered is on this host's disk. After a crash the image of the host where the guest ran is as a disk after a
power cut; that of a standby is of use only once it has joined again, which copies it afresh.

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
"""

import errno
import fcntl
import mmap
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Final

from ftvm.capture.trackers import StoreTracker
from ftvm.errors import ConfigError
from ftvm.units import PAGE_BYTES, bytes_to_pages

__all__ = ["DiskImage", "DiskServer"]

_GREETING: Final = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0b11)
"""Fixed newstyle, no zeroes."""
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_OPTION_BYTES_MAX: Final = 4_096
_OPTIONS_MAX: Final = 64
_OPT_ABORT, _OPT_GO = 2, 7
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, (1 << 31) + 1
_INFO_EXPORT: Final = struct.Struct(">HQH")
_FLAGS: Final = 0b1101101
"""Has flags, flush, FUA, trim, write zeroes."""

_REQUEST: Final = struct.Struct(">IHHQQI")
_REQUEST_MAGIC: Final = 0x25609513
_REPLY: Final = struct.Struct(">IIQ")
_REPLY_MAGIC: Final = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM, _WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_FLAG_FUA: Final = 1
_REQUEST_BYTES_MAX: Final = 32 << 20
"""QEMU sends no longer ones."""
_ZEROS: Final = bytes(1 << 20)


class DiskImage:
    """An image file, mapped and locked: `buffer` is its content, `tracker` knows which pages were written."""

    name = "disk"

    def __init__(self, path: str) -> None:
        """Raises ConfigError if there is no such file, its size is odd, or another process has it."""
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as wrong:
            raise ConfigError(
                f"the disk {path} cannot be opened: {wrong.strerror}; make one, equally large on both hosts, "
                f"e.g. with truncate -s 1G {path}"
            ) from wrong
        try:
            self.size_bytes = _locked_size(self.descriptor, path)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.page_count = bytes_to_pages(self.size_bytes)
        self.buffer = memoryview(mmap.mmap(self.descriptor, self.size_bytes, mmap.MAP_SHARED))
        self.tracker = StoreTracker([self.page_count])
        self.trouble: str | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Return what is there."""
        return bytes(self.buffer[offset : offset + length])

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write, and note the pages. Raises OSError, with the pages noted."""
        first, last = offset // PAGE_BYTES, (offset + len(content) - 1) // PAGE_BYTES
        self.tracker.flags[0][first : last + 1] = b"\x01" * (last + 1 - first)
        done = 0
        while done < len(content):
            done += os.pwrite(self.descriptor, content[done:], offset + done)

    def flush(self) -> None:
        """Put all that was written on this host's disk. Raises OSError."""
        os.fdatasync(self.descriptor)

    def close(self) -> None:
        """Close the file, which unlocks it. The mapping goes with the last view of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class DiskServer:
    """Serves an image to the one client at the other end of a socket, until that closes it."""

    def __init__(self, image: DiskImage, connection: socket.socket) -> None:
        """Begin to serve; the socket stays its owner's, who ends the server by closing the other end."""
        self._image = image
        self._connection = connection
        connection.setblocking(True)
        self._thread = threading.Thread(target=self._main, name="qemu-disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _main(self) -> None:
        try:
            if self._agree():
                while self._serve():
                    pass
        except (OSError, EOFError, struct.error) as wrong:
            if not isinstance(wrong, EOFError):
                self._image.trouble = f"the disk's server ended: {wrong}"
        finally:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    # --- before: what the client wants ---

    def _agree(self) -> bool:
        """Greet, and answer options until the client goes on; return whether it does."""
        self._connection.sendall(_GREETING)
        self._take(4)  # the client's flags: the two of the greeting
        for _ in range(_OPTIONS_MAX):
            magic, option, length = _OPTION.unpack(self._take(_OPTION.size))
            if magic != b"IHAVEOPT" or length > _OPTION_BYTES_MAX:
                return False
            self._take(length)  # an export's name: there is but one
            if option == _OPT_GO:
                self._answer(option, _REP_INFO, _INFO_EXPORT.pack(0, self._image.size_bytes, _FLAGS))
                self._answer(option, _REP_ACK)
                return True
            self._answer(option, _REP_ACK if option == _OPT_ABORT else _REP_UNSUPPORTED)
            if option == _OPT_ABORT:
                return False
        return False

    def _answer(self, option: int, kind: int, content: bytes = b"") -> None:
        head = _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(content))
        self._connection.sendall(head + content)

    # --- after: requests ---

    def _serve(self) -> bool:
        """Take one request and answer it; return whether there may be more."""
        magic, flags, command, handle, offset, length = _REQUEST.unpack(self._take(_REQUEST.size))
        if magic != _REQUEST_MAGIC or command == _DISCONNECT:
            return False
        if command == _WRITE and length > _REQUEST_BYTES_MAX:
            return False
        content = self._take(length) if command == _WRITE else b""
        error, answer = self._do(command, offset, length, content)
        if not error and flags & _FLAG_FUA and command in (_WRITE, _WRITE_ZEROES):
            error, _ = self._do(_FLUSH, 0, 0, b"")
        self._connection.sendall(_REPLY.pack(_REPLY_MAGIC, error, handle) + answer)
        return True

    def _do(self, command: int, offset: int, length: int, content: bytes) -> tuple[int, bytes]:
        """Carry a request out; return the error to answer with, 0 if none, and what was read."""
        if offset > self._image.size_bytes or length > self._image.size_bytes - offset:
            return errno.ENOSPC if command == _WRITE else errno.EINVAL, b""
        try:
            if command == _READ and length <= _REQUEST_BYTES_MAX:
                return 0, self._image.read(offset, length)
            if command == _WRITE:
                self._image.write(offset, content)
            elif command == _WRITE_ZEROES:
                self._write_zeroes(offset, length)
            elif command == _FLUSH:
                self._image.flush()
            elif command != _TRIM:  # a hint, which a disk may ignore
                return errno.EINVAL, b""
        except OSError as wrong:
            self._image.trouble = (  # the first one: what comes after may only follow from it
                self._image.trouble or f"the disk {self._image.path} cannot be written: {wrong.strerror}"
            )
            return errno.ENOSPC if wrong.errno in (errno.ENOSPC, errno.EDQUOT) else errno.EIO, b""
        return 0, b""

    def _write_zeroes(self, offset: int, length: int) -> None:
        for start in range(0, length, len(_ZEROS)):
            self._image.write(offset + start, memoryview(_ZEROS)[: min(len(_ZEROS), length - start)])

    def _take(self, size: int) -> bytes:
        """Return exactly so many bytes. Raises EOFError if the client has gone."""
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = self._connection.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(content)


def _locked_size(descriptor: int, path: str) -> int:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as wrong:
        raise ConfigError(f"the disk {path} is in use: each host of a guest needs an image of its own") from wrong
    size_bytes = os.fstat(descriptor).st_size
    if not size_bytes or size_bytes % PAGE_BYTES:
        raise ConfigError(f"the disk {path} has {size_bytes} bytes: it must be a multiple of {PAGE_BYTES}, not 0")
    return size_bytes
