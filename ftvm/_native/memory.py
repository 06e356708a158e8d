"""A guest's memory as the C core sees it: its pages, sets of them, and their hashes.

Wraps the native nouns `memory`, `bitmap` and `digest` (memory.h, bitmap.h and digest.h are their manuals). It knows
nothing about guests: it is given writable buffers of whole pages, in the order that defines the page numbering, and the
addresses stay valid for as long as the NativeMemory lives.

A memory digest is the sum over all pages of XXH3-128(page, seed = page index), modulo 2**128. It finds mistakes of
software and of hardware; it is no signature, and no protection against somebody who chooses the contents.
"""

from array import array
from collections.abc import Sequence
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, Final

import xxhash

from ftvm._native import ffi, lib
from ftvm.checkpoint import PAGE_COUNT_MAX, Bitmap, Buffer, bitmap_bytes
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.units import PAGE_BYTES, bytes_to_pages

__all__ = [
    "UNKNOWN_HASH",
    "DigestTable",
    "NativeMemory",
    "are_rising",
    "batch_digest",
    "bitmap_indices",
    "bytes_digest",
    "digest_to_int",
    "frame_digest",
    "int_to_digest",
    "is_unknown",
    "put_flags",
    "sparse_memory",
    "take_flags",
]

_CELL_BYTES: Final = 16
UNKNOWN_HASH: Final = b"\xff" * _CELL_BYTES
_NO_RESERVE: Final = 0x4000
"""MAP_NORESERVE."""


class NativeMemory:
    """Regions of whole pages under one numbering. The buffers stay exported: they cannot be resized or unmapped."""

    __slots__ = ("_regions", "_views", "native", "page_count", "page_counts")

    native: Any
    """`const struct ftvm_memory *`, for the modules that wrap other nouns."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        """Take writable buffers; raises ConfigError if one is read-only, empty or not a whole number of pages."""
        if not buffers:
            raise ConfigError("a guest needs at least one memory region")
        self._views = [_writable(buffer, number) for number, buffer in enumerate(buffers)]
        self.page_counts = tuple(bytes_to_pages(view.nbytes) for view in self._views)
        self.page_count = sum(self.page_counts)
        if self.page_count > PAGE_COUNT_MAX:
            raise ConfigError(f"{self.page_count} pages is more than the limit of {PAGE_COUNT_MAX}")
        self._regions = ffi.new("struct ftvm_region[]", len(self._views))
        first_page = 0
        for region, view, count in zip(self._regions, self._views, self.page_counts, strict=True):
            region.base, region.first_page, region.page_count = _address(view), first_page, count
            first_page += count
        self.native = ffi.new("struct ftvm_memory *", (self._regions, len(self._regions), self.page_count))

    def clear(self) -> None:
        """Make every page zero; pages that are zero already are not written."""
        lib.ftvm_memory_clear(self.native)

    def clear_region(self, number: int) -> None:
        """Make every page of one region zero, as `clear` does."""
        if not 0 <= number < len(self.page_counts):
            raise IndexError(f"region {number} of {len(self.page_counts)}")
        lib.ftvm_memory_clear_region(self.native, number)

    def clear_pages(self, indices: "array[int]") -> None:
        """Make pages zero; their indices must rise strictly and lie in the memory."""
        if not self.holds(indices):
            raise LocalProtocolError("page indices must rise strictly and lie in the memory")
        lib.ftvm_memory_clear_pages(self.native, ffi.from_buffer("uint32_t[]", indices), len(indices))

    def holds(self, indices: "array[int]") -> bool:
        """Tell whether the page indices rise strictly and all lie in this memory."""
        return are_rising(indices, self.page_count)


def are_rising(indices: "array[int]", page_count: int) -> bool:
    """Tell whether page indices rise strictly and all lie below `page_count`."""
    cells = ffi.from_buffer("uint32_t[]", indices)
    return bool(lib.ftvm_memory_indices_valid(cells, len(indices), 0, page_count))


def _writable(buffer: Buffer, number: int) -> memoryview:
    try:
        view = memoryview(buffer).cast("B")
    except TypeError as error:
        raise ConfigError(f"memory region {number} is not a buffer: {error}") from error
    if view.readonly:
        raise ConfigError(f"memory region {number} is not a writable buffer")
    if view.nbytes == 0 or view.nbytes % PAGE_BYTES:
        raise ConfigError(
            f"memory region {number} has {view.nbytes} bytes: it must be a whole number of {PAGE_BYTES}-byte pages"
        )
    return view


def _address(view: memoryview) -> Any:
    """Return where a view's bytes are; the view keeps them there.

    No cffi object may go on exporting the view itself: the collector clears views that are part of a cycle, and CPython
    crashes when it clears one that is exported.
    """
    with ffi.from_buffer("uint8_t[]", view, require_writable=True) as cells:
        return ffi.cast("uint8_t *", cells)


# --- sets of pages --------------------------------------------------------------------------------------------------


def bitmap_indices(bitmap: Bitmap) -> "array[int]":
    """Return the page indices in the set, rising, counted over all regions: u32 each."""
    indices, first = array("I"), 0
    for words, page_count in zip(bitmap.words, bitmap.page_counts, strict=True):
        region_words = ffi.from_buffer("uint64_t[]", words)
        found = array("I", bytes(4 * lib.ftvm_bitmap_indices(region_words, page_count, first, ffi.NULL, 0)))
        lib.ftvm_bitmap_indices(region_words, page_count, first, ffi.from_buffer("uint32_t[]", found), len(found))
        indices += found
        first += page_count
    return indices


def take_flags(flags: bytearray | mmap) -> bytearray:
    """Turn a byte per page into the words of a bitmap, and clear the bytes."""
    words = bytearray(bitmap_bytes(len(flags)))
    lib.ftvm_bitmap_take_flags(ffi.from_buffer("uint8_t[]", flags), len(flags), ffi.from_buffer("uint64_t[]", words))
    return words


def put_flags(words: bytearray, flags: bytearray | mmap) -> None:
    """Set the byte of each page in the bitmap; the others stay.

    Raises LocalProtocolError, having touched nothing, if the bitmap is not one of so many pages.
    """
    if len(words) != bitmap_bytes(len(flags)):
        raise LocalProtocolError(
            f"a bitmap of {len(flags)} pages has {bitmap_bytes(len(flags))} bytes, not {len(words)}"
        )
    lib.ftvm_bitmap_put_flags(ffi.from_buffer("uint64_t[]", words), len(flags), ffi.from_buffer("uint8_t[]", flags))


# --- hashes ---------------------------------------------------------------------------------------------------------


def batch_digest(indices: Buffer, lengths: Buffer, payload: Buffer) -> bytes:
    """Return XXH3-128 of a batch's three parts in order: what PageBatch.digest holds."""
    return bytes_digest(indices, lengths, payload)


frame_digest = xxhash.xxh3_128_digest
"""Return XXH3-128 of bytes that stand in one place: as `bytes_digest`, without a call of Python."""


def bytes_digest(*parts: Buffer) -> bytes:
    """Return XXH3-128 of bytes that stand in several places."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()


def digest_to_int(digest: Any) -> int:
    """Return a `struct ftvm_digest` as a number."""
    return int(digest.high) << 64 | int(digest.low)


def int_to_digest(value: int, digest: Any) -> None:
    """Store a number below 2**128 into a `struct ftvm_digest`."""
    digest.low, digest.high = value & ((1 << 64) - 1), value >> 64


def sparse_memory(size_bytes: int) -> mmap:
    """Return zeroed memory, which may be larger than the system would promise, and takes room where it is written to.

    MADV_DONTNEED makes it so again.
    """
    return mmap(-1, size_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS | _NO_RESERVE)


def is_unknown(hashes: bytes, number: int) -> bool:
    """Tell whether the hash of that number, of 16 bytes each, is the one that is never known: all ones."""
    return hashes.startswith(UNKNOWN_HASH, _CELL_BYTES * number)


class DigestTable:
    """One hash a page (16 bytes), and their sum. Takes memory for pages that are not zero, or were not."""

    __slots__ = ("_cells", "_parts", "native", "page_count", "sum")

    native: Any
    """`struct ftvm_digest_table *`."""
    sum: Any
    """`struct ftvm_digest *`: the memory digest."""

    def __init__(self, page_count: int) -> None:
        """Make the table of a memory of zero pages."""
        self.page_count = page_count
        self._cells = sparse_memory(_CELL_BYTES * page_count)
        self._parts = bytearray(-(-page_count // int(lib.FTVM_DIGEST_PART_PAGES)))
        self.native = ffi.new("struct ftvm_digest_table *")
        self.native.cells = ffi.cast("struct ftvm_digest *", ffi.from_buffer("uint8_t[]", self._cells))
        self.native.parts = ffi.from_buffer("uint8_t[]", self._parts)
        self.native.page_count = page_count
        self.sum = ffi.new("struct ftvm_digest *")
        self.reset()

    def reset(self) -> None:
        """Become the table of a memory of zero pages."""
        self._cells.madvise(MADV_DONTNEED)
        self._parts[:] = bytes(len(self._parts))
        self.sum[0] = lib.ftvm_digest_zeros(self.page_count)

    def measure(self, memory: NativeMemory, present: "array[int] | None" = None) -> None:
        """Become the table of `memory` as it is; raises LocalProtocolError if it has not as many pages as the table.

        present  rising indices of all pages that may not be zero, if that is known: no other is looked at
        """
        self._require_fits(memory)
        if present is None:
            lib.ftvm_digest_memory(memory.native, self.native, self.sum)
        else:
            self.reset()
            self.refresh(memory, present)

    def refresh(self, memory: NativeMemory, indices: "array[int]") -> None:
        """Note that the pages of `indices` were written; they must rise strictly and lie in the memory.

        Raises LocalProtocolError if the memory has not as many pages as the table.
        """
        self._require_fits(memory)
        if not memory.holds(indices):
            raise ValueError("page indices must rise strictly and lie in the memory")
        cells = ffi.from_buffer("uint32_t[]", indices)
        lib.ftvm_digest_refresh(memory.native, cells, len(indices), self.native, self.sum)

    def zero(self, first: int, count: int) -> None:
        """Note that pages are zero, without a look at them."""
        self._require_holds(first, count)
        lib.ftvm_digest_zero_pages(first, count, self.native, self.sum)

    def forget(self, indices: "array[int]") -> None:
        """Have the hashes of pages not be known, and the sum be nobody's, until they are refreshed.

        The indices must rise strictly, and lie in the table.
        """
        if not are_rising(indices, self.page_count):
            raise ValueError("page indices must rise strictly and lie in the table")
        lib.ftvm_digest_forget(ffi.from_buffer("uint32_t[]", indices), len(indices), self.native, self.sum)

    def take(self, first: int, hashes: Buffer) -> None:
        """Take hashes for those of pages from `first` on, 16 bytes each, but for those that are all ones."""
        count = len(hashes) // _CELL_BYTES
        self._require_holds(first, count)
        lib.ftvm_digest_take(first, count, ffi.from_buffer("uint8_t[]", hashes), self.native, self.sum)

    def pages(self, first: int, count: int) -> bytes:
        """Return the hashes of pages that follow each other and were refreshed, 16 bytes each, the low half first."""
        self._require_holds(first, count)
        return self._cells[_CELL_BYTES * first : _CELL_BYTES * (first + count)]

    def _require_holds(self, first: int, count: int) -> None:
        if not 0 <= first <= first + count <= self.page_count:
            raise IndexError(f"{count} pages from {first} on, in a table of {self.page_count}")

    def _require_fits(self, memory: NativeMemory) -> None:
        if memory.page_count != self.page_count:
            raise LocalProtocolError(f"a table of {self.page_count} pages, a memory of {memory.page_count}")

    def page(self, index: int) -> bytes:
        """Return the hash of one page, 16 bytes."""
        if not 0 <= index < self.page_count:
            raise IndexError(f"page {index} of {self.page_count}")
        return digest_to_int(lib.ftvm_digest_get(self.native, index)).to_bytes(_CELL_BYTES, "little")
