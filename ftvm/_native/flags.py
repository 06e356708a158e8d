"""A flag a page, of which few are set: for disks so large that nobody can look at all of them at each checkpoint.

Beside the flags stands a byte for each part of 4096 pages that tells whether a flag in it may be set (bitmap.h); C and
Python set both. Memory is taken for parts that were written, and a look costs what is written, not what there is.
"""

import mmap
from collections.abc import Iterable, Iterator

from ftvm._native import ffi, lib
from ftvm._native.memory import put_flags
from ftvm.checkpoint import bitmap_bytes

__all__ = ["PART_PAGES", "SparseFlags"]

PART_PAGES = int(lib.FTVM_BITMAP_PART_PAGES)


class SparseFlags:
    """Flags of so many pages, none set.

    flags  a byte a page
    parts  a byte a part: not 0 if a flag of it may be set
    """

    __slots__ = ("flags", "parts")

    def __init__(self, page_count: int) -> None:
        self.flags = mmap.mmap(-1, page_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.parts = bytearray(-(-page_count // PART_PAGES))

    def set(self, runs: Iterable[tuple[int, int]]) -> None:
        """Set the flags of runs of pages: first, end."""
        for first, end in runs:
            self.flags[first:end] = b"\1" * (end - first)
            last = (end - 1) // PART_PAGES
            self.parts[first // PART_PAGES : last + 1] = b"\1" * (last + 1 - first // PART_PAGES)

    def clear(self, first: int, end: int) -> None:
        """Clear the flags of pages from `first` on."""
        self.flags[first:end] = bytes(end - first)

    def reset(self) -> None:
        """Clear all of them; their memory goes back to the system."""
        self.flags.madvise(mmap.MADV_DONTNEED)
        self.parts[:] = bytes(len(self.parts))

    def take(self) -> bytearray:
        """Turn them into the words of a bitmap, and clear them."""
        count = len(self.flags)
        words = bytearray(bitmap_bytes(count))
        flags, parts = (ffi.from_buffer("uint8_t[]", part) for part in (self.flags, self.parts))
        lib.ftvm_bitmap_take_parts(flags, parts, count, ffi.from_buffer("uint64_t[]", words))
        return words

    def put(self, words: bytearray) -> None:
        """Set the flag of each page in a bitmap; the others stay. Raises as `put_flags`."""
        put_flags(words, self.flags)
        for part in range(len(self.parts)):
            piece = words[part * PART_PAGES // 8 : (part + 1) * PART_PAGES // 8]
            self.parts[part] |= piece.count(0) != len(piece)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the first page and the end of runs of flags that are set; one that crosses parts comes in pieces."""
        part = self.parts.find(b"\1")
        while part >= 0:
            limit = min((part + 1) * PART_PAGES, len(self.flags))
            first = self.flags.find(b"\1", part * PART_PAGES, limit)
            while first >= 0:
                end = self.flags.find(b"\0", first, limit)
                end = limit if end < 0 else end
                yield first, end
                first = self.flags.find(b"\1", end, limit)
            part = self.parts.find(b"\1", part + 1)
