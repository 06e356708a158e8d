"""Memory with a flag a page that tells whether it was written: for machines and devices whose code sets the flags.

The flags are bytes, set by C with each store (riscv.h, virtio_block.h); taking them is for when nobody writes. Where
the memory is a disk, one byte more tells that the guest has flushed it.
"""

import mmap

from ftvm._native.memory import put_flags, take_flags
from ftvm.units import PAGE_BYTES, PageCount, bytes_to_pages

__all__ = ["FlaggedMemory"]


class FlaggedMemory:
    """Page-aligned memory with a flag per page that tells whether it was written."""

    def __init__(self, size_bytes: int, pages: mmap.mmap | None = None) -> None:
        """Take `pages`, which have that size; without any, fresh zeroed memory."""
        self.page_count: PageCount = bytes_to_pages(size_bytes)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.pages = mmap.mmap(-1, size_bytes, flags=private) if pages is None else pages
        self.buffer = memoryview(self.pages)
        self.flags = bytearray(self.page_count)
        self.flush = bytearray(1)
        self._clean = bytes(self.page_count)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write from outside, marking the pages; decoded code is the caller's business."""
        if not content:
            return
        self.buffer[offset : offset + len(content)] = content
        first, last = offset // PAGE_BYTES, (offset + len(content) - 1) // PAGE_BYTES
        self.flags[first : last + 1] = b"\1" * (last + 1 - first)

    def is_dirty(self) -> bool:
        """Tell whether a page was written since the last `take_dirty`; also while the machine runs."""
        return self.flags != self._clean

    def take_dirty(self) -> bytearray:
        """Return the set of pages written since the last call, as Bitmap words, and clear it."""
        return take_flags(self.flags)

    def put_dirty(self, words: bytearray) -> None:
        """Add a set of pages to those written; the caller flushes decoded code."""
        put_flags(words, self.flags)
