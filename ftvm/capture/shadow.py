"""The shadow: what the backup will hold once all that was captured has been applied there.

A capture encodes each dirty page as its difference from the shadow's and brings the shadow up to date in the same
pass. It starts as all zero pages, as the backup does. It takes as much memory as the guest's (of what is not zero),
and 17 bytes a page for digests and history.

**A scrub** finds pages that tracking missed: it compares all of memory with the shadow, a little at a time, while the
guest runs. A page that was written but never reported stays different from its shadow for ever. A look finds the pages
that differ; those are suspects only, for the guest may just have written them. At the next cut, with the guest paused
and its dirty pages collected, a suspect that is not among them and still differs was missed. It costs no pause: a pause
looks only at the suspects.

Wraps `struct ftvm_shadow` of the native noun `capture` (capture.h is its manual).
"""

import mmap
from array import array
from collections.abc import Sequence
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.memory import DigestTable, NativeMemory, bitmap_indices, digest_to_int
from ftvm.checkpoint import PAGE_COUNT_MAX, PAGE_DIGEST_ROW, Bitmap
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.units import pages_to_bytes

__all__ = ["Scrub", "Shadow"]

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

    @property
    def content(self) -> memoryview:
        """Its pages, which change with each capture; not to be written."""
        return memoryview(self._pages)

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


class Scrub:
    """One guest's scrub. A round over all pages takes page_count / pages_per_look looks.

    `suspects` are the pages that the last look found different, until the next `judge`.
    """

    __slots__ = ("_found", "_memory", "_next", "_shadow", "pages_per_look", "rounds", "suspects")

    def __init__(self, memory: NativeMemory, shadow: Shadow, *, pages_per_look: int) -> None:
        """Compare `pages_per_look` pages a look: about 0.3 us each, of a core and of memory bandwidth."""
        if memory.page_count != shadow.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
        if pages_per_look <= 0:
            raise ConfigError("a scrub must look at one page or more")
        self._memory = memory
        self._shadow = shadow
        self.pages_per_look = min(pages_per_look, shadow.page_count)
        self.rounds = 0
        self._next = 0
        self._found = array("I", bytes(4 * self.pages_per_look))
        self.suspects: array[int] = array("I")

    def look(self) -> int:
        """Compare the next pages; the guest may run. Returns how many are suspects until the next `judge`.

        Between two calls of `judge` at most one look counts: a second one replaces the suspects of the first.
        """
        self.suspects = self._differing(self._next, self.pages_per_look)
        self._next += self.pages_per_look
        if self._next >= self._shadow.page_count:
            self._next = 0
            self.rounds += 1
        return len(self.suspects)

    def judge(self, dirty: Bitmap) -> "array[int]":
        """Return the suspects that tracking missed.

        Call with the guest paused, after `collect_dirty` gave `dirty` and before the capture brings the shadow up to
        date.
        """
        suspects, self.suspects = self.suspects, array("I")
        if not suspects:
            return suspects
        reported = set(bitmap_indices(dirty))
        return array("I", [page for page in suspects if page not in reported and self._differing(page, 1)])

    def _differing(self, first: int, count: int) -> "array[int]":
        cells = ffi.from_buffer("uint32_t[]", self._found)
        found = lib.ftvm_capture_differing(self._memory.native, self._shadow.native, first, count, cells)
        return self._found[:found]


def _anonymous(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
