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

    __slots__ = ("_buffers", "_regions", "native", "page_count", "page_counts")

    native: Any
    """`const struct ftvm_memory *`, for the modules that wrap other nouns."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        """Take writable buffers; raises ConfigError if one is read-only, empty or not a whole number of pages."""
        if not buffers:
            raise ConfigError("a guest needs at least one memory region")
        self._buffers = [_exported(buffer, number) for number, buffer in enumerate(buffers)]
        self.page_counts = tuple(bytes_to_pages(len(buffer)) for buffer in self._buffers)
        self.page_count = sum(self.page_counts)
        if self.page_count > PAGE_COUNT_MAX:
            raise ConfigError(f"{self.page_count} pages is more than the limit of {PAGE_COUNT_MAX}")
        self._regions = ffi.new("struct ftvm_region[]", len(self._buffers))
        first_page = 0
        for region, buffer, count in zip(self._regions, self._buffers, self.page_counts, strict=True):
            region.base, region.first_page, region.page_count = buffer, first_page, count
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


def _exported(buffer: Buffer, number: int) -> Any:
    try:
        exported = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
    except (BufferError, TypeError) as error:
        raise ConfigError(f"memory region {number} is not a writable buffer: {error}") from error
    if len(exported) == 0 or len(exported) % PAGE_BYTES:
        raise ConfigError(
            f"memory region {number} has {len(exported)} bytes: it must be a whole number of {PAGE_BYTES}-byte pages"
        )
    return exported
