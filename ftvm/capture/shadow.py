"""The shadow: what the backup will hold once all that was captured has been applied there.

A capture encodes each dirty page as its difference from the shadow's and brings the shadow up to date in the same
pass. It starts as all zero pages, as the backup does. It takes as much memory as the guest's (of what is not zero),
and 17 bytes a page for digests and history.

Wraps `struct ftvm_shadow` of the native noun `capture` (capture.h is its manual).
"""

import mmap
from array import array
from collections.abc import Sequence
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.digest import DigestTable, digest_to_int
from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import PAGE_COUNT_MAX, PAGE_DIGEST_ROW
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.units import pages_to_bytes

__all__ = ["Shadow"]

_DIGEST_BYTES = 16


class Shadow:
    """The primary's copy of the backup's memory, with its digest kept up to date."""

    __slots__ = ("_digests", "_is_torn", "_pages", "_runs", "native", "page_count")

    native: Any
    """`struct ftvm_shadow *`, for capture/pages.py."""

    def __init__(self, page_counts: Sequence[int]) -> None:
        """Make a shadow of zero pages for regions of so many pages."""
        self.page_count = sum(page_counts)
        if not 0 < self.page_count <= PAGE_COUNT_MAX:
            raise ConfigError(f"a shadow must have 1 to {PAGE_COUNT_MAX} pages, not {self.page_count}")
        # Private anonymous memory: a page that nobody has written costs nothing, and MADV_DONTNEED makes it so again.
        self._pages = _anonymous(pages_to_bytes(self.page_count))
        self._digests = _anonymous(_DIGEST_BYTES * self.page_count)
        self._runs = _anonymous(self.page_count)
        self._is_torn = False
        self.native = ffi.new("struct ftvm_shadow *")
        self.native.pages = ffi.from_buffer("uint8_t[]", self._pages)
        self.native.digests = ffi.cast("struct ftvm_digest *", ffi.from_buffer("uint8_t[]", self._digests))
        self.native.raw_runs = ffi.from_buffer("uint8_t[]", self._runs)
        self.native.page_count = self.page_count
        lib.ftvm_capture_reset(self.native)

    @property
    def memory_digest(self) -> int:
        """The digest of its content: what the backup's memory must have once all that was captured is applied."""
        return digest_to_int(self.native.sum)

    def clear(self) -> None:
        """Become all zero pages again, for a new session; the memory goes back to the system."""
        self._pages.madvise(mmap.MADV_DONTNEED)
        lib.ftvm_capture_reset(self.native)
        self._is_torn = False

    def adopt(self, memory: NativeMemory, digests: DigestTable, first: int, limit: int) -> int:
        """Take over pages of `memory`, which stands still, from `first` on, at most `limit` that differ by their hash.

        Returns the page to go on from, the page count when all were looked at; if `digests` is up to date and nothing
        was written meanwhile, the shadow then is what `memory` holds.
        """
        if not memory.page_count == digests.page_count == self.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {self.page_count}")
        return int(lib.ftvm_capture_adopt(memory.native, digests.native, self.native, first, limit))

    def page(self, index: int) -> bytes:
        """Return a copy of one page."""
        if not 0 <= index < self.page_count:
            raise IndexError(f"page {index} of {self.page_count}")
        return self._pages[pages_to_bytes(index) : pages_to_bytes(index + 1)]

    def page_digests(self, indices: "array[int]") -> bytes:
        """Return the hashes of some pages, a row of Checkpoint.page_digests each."""
        rows = (PAGE_DIGEST_ROW.pack(i, self._digests[16 * i : 16 * i + 16]) for i in indices)
        return b"".join(rows)

    def tear(self) -> None:
        """Note that a capture failed halfway: pages went in that will never be sent. Only `clear` repairs it."""
        self._is_torn = True

    def require_whole(self) -> None:
        """Raise LocalProtocolError after a capture that failed halfway."""
        if self._is_torn:
            raise LocalProtocolError("the last capture failed halfway: start a new session and clear the shadow first")


def _anonymous(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
