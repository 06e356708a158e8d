"""A guest's disk in C: what is not in the image yet, over the image. Wraps the native nouns `blockstore` and
`blockserver` (their headers are the manual). No thread of theirs calls Python.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm._native.flags import SparseFlags
from ftvm._native.mapping import FileMapping
from ftvm.errors import ClosedError, GuestError

__all__ = ["PAYLOAD_BYTES_MAX", "BlockStore", "birth_of", "make_zero"]

PAYLOAD_BYTES_MAX: Final = int(lib.FTVM_BLOCKSERVER_PAYLOAD_MAX)
"""The most that an NBD client may ask for at once."""

_ENDS: Final[dict[int, Callable[[int], str]]] = {
    int(lib.FTVM_BLOCKSERVER_BAD_MAGIC): lambda magic: f"an NBD client sent a request with magic {magic:#x}",
    int(lib.FTVM_BLOCKSERVER_TOO_LONG): lambda length: (
        f"an NBD client asked for {length} bytes at once: more than {PAYLOAD_BYTES_MAX}"
    ),
    int(lib.FTVM_BLOCKSERVER_BROKEN): os.strerror,
}


def birth_of(descriptor: int) -> int:
    """Return when a file was made, in nanoseconds since 1970; 0 where the file system does not keep that."""
    return int(lib.ftvm_blockfile_birth(descriptor))


def make_zero(descriptor: int, length: int, offset: int) -> None:
    """Make bytes of a file zero, by a hole where the file system has holes. Raises OSError."""
    wrong = -int(lib.ftvm_blockfile_zero(descriptor, -1, offset, length))
    if wrong:
        raise OSError(wrong, os.strerror(wrong))


class BlockStore:
    """One disk's store, held at first."""

    __slots__ = ("_native", "_parts")

    def __init__(
        self,
        mapping: FileMapping,
        *,
        written: SparseFlags,
        held: SparseFlags,
        high_water_blocks: int,
        patience_ms: int,
        behind_bytes: int,
        behind_ms: int,
        witnesses: tuple[int, int] = (-1, -1),
    ) -> None:
        """Make it, with the arrays of flags as the header says, which stay in use until it is closed."""
        buffers = (mapping.buffer, written.flags, held.flags, written.parts, held.parts)
        arrays = [ffi.from_buffer("uint8_t[]", buffer) for buffer in buffers]
        self._parts: Any = (mapping, *arrays)
        bounds = (high_water_blocks, patience_ms, behind_bytes, behind_ms)
        parts = (mapping.buffer.nbytes, mapping.number, *arrays, *bounds, *witnesses)
        native = lib.ftvm_blockstore_open(ffi.new("struct ftvm_blockstore_parts *", parts))
        if native == ffi.NULL:
            raise GuestError("there is no memory, or no thread, for a disk")
        self._native: Any = ffi.gc(native, lib.ftvm_blockstore_free)  # a thread in a call keeps it

    @property
    def error(self) -> OSError | None:
        """Why nothing is written any more; None while it is."""
        native = self._native
        failure = 0 if native is None else int(lib.ftvm_blockstore_failure(native))
        return OSError(-failure, os.strerror(-failure)) if failure else None

    def serve(self, connection: int) -> None:
        """Serve the NBD client at the other end of a socket until it leaves. Raises GuestError if it breaks the
        protocol."""
        detail = ffi.new("uint64_t *")
        end = lib.ftvm_blockserver_serve(self._open(), connection, detail)
        if end != lib.FTVM_BLOCKSERVER_LEFT:
            raise GuestError(_ENDS[end](int(detail[0])))

    def let_go(self) -> None:
        """Begin no write to the image from now on, and keep what is held; wait for no device."""
        lib.ftvm_blockstore_let_go(self._open())

    def hold(self) -> None:
        """Write nothing to the image from now on: wait until the device is done with what was begun."""
        lib.ftvm_blockstore_hold(self._open())

    def show(self, image: int) -> None:
        """Have the memory show a file of the same content, but for what is held. Raises GuestError."""
        wrong = -int(lib.ftvm_blockstore_show(self._open(), image))
        if wrong:
            raise GuestError(f"a disk's image cannot be mapped: {os.strerror(wrong)}")

    def release(self, image: int) -> None:
        """Write to the image from now on, and move there what was held."""
        lib.ftvm_blockstore_release(self._open(), image)

    def hurry(self, *, is_hurried: bool) -> None:
        """The guest is to stop, and waits for no device; or it goes on."""
        with suppress(ClosedError):
            lib.ftvm_blockstore_hurry(self._open(), is_hurried)

    def rest(self) -> None:
        """The guest that was to stop has: the device may have what was held back meanwhile."""
        with suppress(ClosedError):
            lib.ftvm_blockstore_rest(self._open())

    def mark(self) -> None:
        """The flags of written blocks were taken."""
        lib.ftvm_blockstore_mark(self._open())

    def fileno(self) -> int:
        """Return the descriptor that is readable when the store asks for a mark, until `is_asking` is asked."""
        return int(lib.ftvm_blockstore_asks(self._open()))

    def is_asking(self) -> bool:
        """Tell whether it asks for a mark, and has not been heard."""
        try:
            return bool(os.read(self.fileno(), 8))
        except BlockingIOError:
            return False

    def take_flushes(self) -> tuple[bool, bool]:
        """Tell whether a flush was asked for since the last call: while the guest ran; while it was being stopped."""
        native = self._native
        flushes = 0 if native is None else int(lib.ftvm_blockstore_take_flushes(native))
        return bool(flushes & lib.FTVM_BLOCKSTORE_FLUSHED), bool(flushes & lib.FTVM_BLOCKSTORE_FLUSHED_IN_HASTE)

    def cover(self, *, is_covered: bool) -> None:
        """Answer flushes before the device has them, or no longer."""
        with suppress(ClosedError):
            lib.ftvm_blockstore_cover(self._open(), is_covered)

    def asked(self) -> int:
        """Return the ticket of the last flush that was asked for."""
        return int(lib.ftvm_blockstore_asked(self._open()))

    def settle(self, ticket: int, timeout_ms: int) -> bool:
        """Have the flushes up to a ticket done, and wait until they are, or it is closed; tell whether they are. Raises
        OSError if the image cannot be written."""
        wrong = -int(lib.ftvm_blockstore_settle(self._open(), ticket, timeout_ms))
        if wrong not in (0, errno.ETIMEDOUT):
            raise OSError(wrong, os.strerror(wrong))
        return wrong == 0

    def fail(self, error: OSError) -> None:
        """The image is never to be written: every write and flush fails with this error from now on."""
        lib.ftvm_blockstore_fail(self._open(), -(error.errno or errno.EIO))

    def forgive(self) -> None:
        """Owe no flush from before the image was let go: the caller makes durable what they were for."""
        lib.ftvm_blockstore_forgive(self._open())

    def close(self) -> bool:
        """Put on the device what was released, and end; tell whether it is there. Idempotent."""
        if self._native is None:
            return False
        native, self._native = self._native, None
        return int(lib.ftvm_blockstore_close(native)) == 0

    def _open(self) -> Any:
        if self._native is None:
            raise ClosedError("the disk is closed")
        return self._native
