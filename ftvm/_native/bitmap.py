"""Sets of pages as the C core handles them. Wraps the native noun `bitmap` (bitmap.h is its manual)."""

from array import array
from mmap import mmap

from ftvm._native import ffi, lib
from ftvm.checkpoint import Bitmap, bitmap_bytes
from ftvm.errors import LocalProtocolError

__all__ = ["bitmap_indices", "put_flags", "take_flags"]


def bitmap_indices(bitmap: Bitmap) -> "array[int]":
    """Return the page indices in the set, rising, counted over all regions: u32 each."""
    indices = array("I", bytes(4 * bitmap.count()))
    cells = ffi.from_buffer("uint32_t[]", indices)
    found = first_index = 0
    for words, page_count in zip(bitmap.words, bitmap.page_counts, strict=True):
        region_words = ffi.from_buffer("uint64_t[]", words)
        found += lib.ftvm_bitmap_indices(region_words, page_count, first_index, cells + found, len(indices) - found)
        first_index += page_count
    return indices[:found]


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
