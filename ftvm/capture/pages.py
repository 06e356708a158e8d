"""Dirty pages to batches of deltas.

Two ways, one result. **Fused** encodes straight from guest memory and needs the guest to stand still; it touches each
page once. **Staged** copies the pages first (a shorter pause, or none at all) and encodes from the copy: each page is
read once, and payload, shadow and digest come from that one reading, so that a guest that writes meanwhile cannot
make them differ. Fused costs least CPU, but all of it inside the pause, so a CapturePolicy picks it while it keeps the
pause within the target, and staged above; it is a pure value that learns from measurements (bench/capture.py).

Both promise: a page that equals its shadow makes no batch entry; afterwards the shadow's digest is the one that the
backup's memory must have. If a capture raises once it has begun, the shadow is torn (it holds pages that were never
sent) and the session must end; the caller puts the dirty pages back into the guest's tracker. Nothing here knows how
batches travel.

Wraps the native nouns `capture` and `gather` (capture.h and gather.h are their manuals). One native call makes one
batch.
"""

import mmap
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm._native.memory import NativeMemory, are_rising
from ftvm.capture.ring import BatchBuffer, BatchBuffers
from ftvm.capture.shadow import Shadow
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.errors import ConfigError, LimitExceeded, LocalProtocolError
from ftvm.units import Nanos, pages_to_bytes

__all__ = ["CapturePolicy", "StagedCopy", "Way", "capture_fused", "encode_staged"]

_WEIGHT: Final = 0.2
"""How much one measurement moves an average."""

_PAGES_MIN: Final = 32
"""Smaller captures measure the price of the call, not of a page."""


class Way(Enum):
    """How to capture."""

    FUSED = "fused"
    STAGED = "staged"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePolicy:
    """What a page costs each way, in nanoseconds of pause, and the pause that is wanted at most."""

    pause_target_ns: Nanos = Nanos(2_000_000)
    fused_page_ns: float = 600.0
    staged_page_ns: float = 350.0
    staged_pages_max: int = 1 << 16
    """What the staging copy has room for: above it, only fused capture is possible."""

    def choose(self, dirty_pages: int) -> Way:
        """Return how to capture so many pages."""
        if dirty_pages > self.staged_pages_max or dirty_pages * self.fused_page_ns <= self.pause_target_ns:
            return Way.FUSED
        return Way.STAGED

    def measured(self, way: Way, *, pages: int, pause_ns: Nanos) -> "CapturePolicy":
        """Note how long the guest stood still for a capture of so many pages."""
        if pages < _PAGES_MIN:
            return self
        page_ns = pause_ns / pages
        if way is Way.FUSED:
            return replace(self, fused_page_ns=_moved(self.fused_page_ns, page_ns))
        return replace(self, staged_page_ns=_moved(self.staged_page_ns, page_ns))


def _moved(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average)


def capture_fused(
    memory: NativeMemory, shadow: Shadow, indices: "array[int]", *, limits: Limits, buffers: BatchBuffers
) -> tuple[PageBatch, ...]:
    """Encode pages straight from guest memory, which must stand still until this returns.

    `indices` are strictly rising, counted over all regions. Raises LimitExceeded past limits.staging_bytes or when no
    batch buffer is free; the shadow is torn then.
    """
    if memory.page_count != shadow.page_count:
        raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
    cells, count = _checked(indices, shadow), len(indices)

    def encode(done: int, batch: Any) -> int:
        return int(lib.ftvm_capture_fused(memory.native, shadow.native, cells + done, count - done, batch))

    return _batches(encode, count, shadow, limits, buffers)


class StagedCopy:
    """Room for copies of pages: filled by `gather`, emptied by `encode_staged`, then free to be filled again."""

    __slots__ = ("_pages", "indices", "native", "page_capacity", "taken_bytes")

    native: Any

    def __init__(self, page_capacity: int) -> None:
        """Make room for so many pages. It takes memory only once pages were gathered into it."""
        if page_capacity <= 0:
            raise ConfigError("a staged copy needs room for at least one page")
        self.page_capacity = page_capacity
        self._pages = mmap.mmap(-1, pages_to_bytes(page_capacity), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.native = ffi.from_buffer("uint8_t[]", self._pages)
        self.indices = array("I")
        self.taken_bytes = 0
        """What it takes: as much as was gathered at most."""

    @property
    def content(self) -> memoryview:
        """The copied pages, one after the other; the next `gather` overwrites them."""
        return memoryview(self._pages)[: pages_to_bytes(len(self.indices))].toreadonly()

    def gather(self, memory: NativeMemory, indices: "array[int]") -> None:
        """Copy pages out of guest memory, each read once. Replaces what was gathered before.

        The guest may run: a page written meanwhile may come out torn, is dirty again, and must be captured again later.
        Raises LimitExceeded if there are more pages than room.
        """
        if len(indices) > self.page_capacity:
            raise LimitExceeded("pages in a staged copy", limit=self.page_capacity, wanted=len(indices))
        if not memory.holds(indices):
            raise LocalProtocolError("page indices must rise strictly and lie in the memory")
        lib.ftvm_gather_pages(memory.native, ffi.from_buffer("uint32_t[]", indices), len(indices), self.native)
        self.indices = indices[:]
        self.taken_bytes = max(self.taken_bytes, pages_to_bytes(len(indices)))


def encode_staged(copy: StagedCopy, shadow: Shadow, *, limits: Limits, buffers: BatchBuffers) -> tuple[PageBatch, ...]:
    """Encode what was gathered; the guest may run. Raises as `capture_fused` does."""
    cells, count = _checked(copy.indices, shadow), len(copy.indices)

    def encode(done: int, batch: Any) -> int:
        pages = copy.native + pages_to_bytes(done)
        return int(lib.ftvm_capture_staged(pages, shadow.native, cells + done, count - done, batch))

    return _batches(encode, count, shadow, limits, buffers)


def _batches(
    encode: Callable[[int, Any], int], count: int, shadow: Shadow, limits: Limits, buffers: BatchBuffers
) -> tuple[PageBatch, ...]:
    """Return the batches of one capture, page indices rising over all. If it fails, all its buffers are given back, and
    the shadow is torn.

    encode  fills a native batch with pages from the first on that it is told; returns how many it took
    """
    batches: list[PageBatch] = []
    lent: list[BatchBuffer] = []
    done, staged_bytes = 0, 0
    try:
        while done < count:
            buffer = buffers.lend()
            lent.append(buffer)
            done += encode(done, buffer.native)
            batch = buffer.batch()
            batches.append(batch)
            staged_bytes += batch.size_bytes
            if staged_bytes > limits.staging_bytes:
                raise LimitExceeded("encoded bytes of one checkpoint", limit=limits.staging_bytes, wanted=staged_bytes)
    except BaseException:
        if batches:
            shadow.tear()
        for buffer in lent:
            buffers.give_back(buffer)
        raise
    for buffer, batch in zip(lent, batches, strict=True):
        if not batch.count:  # each page equalled its shadow
            buffers.give_back(buffer)
    return tuple([batch for batch in batches if batch.count])


def _checked(indices: "array[int]", shadow: Shadow) -> Any:
    shadow.require_whole()
    if not are_rising(indices, shadow.page_count):
        raise LocalProtocolError("page indices must rise strictly and lie in the memory")
    return ffi.from_buffer("uint32_t[]", indices)
