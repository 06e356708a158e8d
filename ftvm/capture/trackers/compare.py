"""Every page compared with a copy: works anywhere, on any memory.

Wraps `ftvm_tracker_compare` of the native noun `tracker` (tracker.h is its manual).
"""

import mmap
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Bitmap
from ftvm.units import pages_to_bytes

__all__ = ["CompareTracker"]


class CompareTracker:
    """Finds what changed since the last look. The copy starts as zero pages, so the first look reports the others.

    Costs about 75 ms per GiB and look, and a second copy of the memory. It sees changes, not writes: a page written and
    put back between two looks is not reported, and need not be.
    """

    name = "compare"

    def __init__(self, memory: NativeMemory) -> None:
        """Track `memory`, whatever it is."""
        self._memory = memory
        self._copies: list[Any] = [
            ffi.from_buffer("uint8_t[]", mmap.mmap(-1, pages_to_bytes(count), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            for count in memory.page_counts
        ]
        self._restored: Bitmap | None = None

    def collect(self) -> Bitmap:
        """See Tracker."""
        found = Bitmap.empty(self._memory.page_counts)
        for number, (copy, words) in enumerate(zip(self._copies, found.words, strict=True)):
            region = self._memory.native.regions[number]
            lib.ftvm_tracker_compare(region.base, copy, region.page_count, ffi.from_buffer("uint64_t[]", words))
        restored, self._restored = self._restored, None
        return found if restored is None else found | restored

    def restore(self, bitmap: Bitmap) -> None:
        """See Tracker."""
        self._restored = bitmap if self._restored is None else self._restored | bitmap

    def close(self) -> None:
        """See Tracker."""
        self._copies.clear()
