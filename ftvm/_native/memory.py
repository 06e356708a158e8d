"""A guest's memory as the C core sees it: the regions' addresses, kept valid for as long as this object lives.

Wraps the native noun `memory` (memory.h is its manual). It knows nothing about guests: it is given writable buffers of
whole pages, in the order that defines the page numbering.
"""

from array import array
from collections.abc import Sequence
from typing import Any

from ftvm._native import ffi, lib
from ftvm.checkpoint import PAGE_COUNT_MAX, Buffer
from ftvm.errors import ConfigError
from ftvm.units import PAGE_BYTES, bytes_to_pages

__all__ = ["NativeMemory"]


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
