"""Dirty pages to batches of deltas.

Two ways, one result. **Fused** encodes straight from guest memory and needs the guest to stand still; it touches each
page once. **Staged** copies the pages first (a shorter pause, or none at all) and encodes from the copy: each page is
read once, and payload, shadow and digest come from that one reading, so that a guest that writes meanwhile cannot
make them differ.

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
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.bitmap import bitmap_indices
from ftvm._native.digest import batch_digest
from ftvm._native.memory import NativeMemory, are_rising
from ftvm.capture.ring import BatchBuffer, BatchBuffers
from ftvm.capture.shadow import Shadow
from ftvm.checkpoint import Bitmap, PageBatch
from ftvm.config import Limits
from ftvm.errors import ConfigError, FtvmError, LimitExceeded, LocalProtocolError
from ftvm.units import pages_to_bytes

__all__ = ["Indices", "StagedCopy", "capture_fused", "encode_staged", "page_indices"]

Indices = array
"""Page indices, u32 each, strictly rising, counted over all regions: what `page_indices` returns."""


def page_indices(bitmap: Bitmap) -> "array[int]":
    """Return the pages of a set in rising order."""
    return bitmap_indices(bitmap)


def capture_fused(
    memory: NativeMemory, shadow: Shadow, indices: "array[int]", *, limits: Limits, buffers: BatchBuffers
) -> tuple[PageBatch, ...]:
    """Encode pages straight from guest memory, which must stand still until this returns.

    Raises LimitExceeded past limits.staging_bytes or when no batch buffer is free; the shadow is torn then.
    """
    if memory.page_count != shadow.page_count:
        raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
    cells = _checked(indices, shadow)

    def step(done: int, batch: Any) -> int:
        return int(lib.ftvm_capture_fused(memory.native, shadow.native, cells + done, len(indices) - done, batch))

    return _capture(step, len(indices), shadow, limits, buffers)


class StagedCopy:
    """Room for copies of pages: filled by `gather`, emptied by `encode_staged`, then free to be filled again."""

    __slots__ = ("_pages", "indices", "native", "page_capacity")

    native: Any

    def __init__(self, page_capacity: int) -> None:
        """Make room for so many pages. It takes memory only once pages were gathered into it."""
        if page_capacity <= 0:
            raise ConfigError("a staged copy needs room for at least one page")
        self.page_capacity = page_capacity
        self._pages = mmap.mmap(-1, pages_to_bytes(page_capacity), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.native = ffi.from_buffer("uint8_t[]", self._pages)
        self.indices = array("I")

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


def encode_staged(copy: StagedCopy, shadow: Shadow, *, limits: Limits, buffers: BatchBuffers) -> tuple[PageBatch, ...]:
    """Encode what was gathered; the guest may run. Raises as `capture_fused` does."""
    indices = copy.indices
    cells = _checked(indices, shadow)

    def step(done: int, batch: Any) -> int:
        pages = copy.native + pages_to_bytes(done)
        return int(lib.ftvm_capture_staged(pages, shadow.native, cells + done, len(indices) - done, batch))

    return _capture(step, len(indices), shadow, limits, buffers)


def _checked(indices: "array[int]", shadow: Shadow) -> Any:
    shadow.require_whole()
    if not are_rising(indices, shadow.page_count):
        raise LocalProtocolError("page indices must rise strictly and lie in the memory")
    return ffi.from_buffer("uint32_t[]", indices)


def _capture(
    step: Callable[[int, Any], int], count: int, shadow: Shadow, limits: Limits, buffers: BatchBuffers
) -> tuple[PageBatch, ...]:
    """Fill batches until all pages are done. On any error the batches made so far are given back and the shadow
    torn."""
    batches: list[PageBatch] = []
    done = staged_bytes = 0
    try:
        while done < count:
            buffer = buffers.lend()
            native = _native_batch(buffer)
            done += step(done, native)
            batch = _page_batch(buffer, native)
            batches.append(batch)
            staged_bytes += batch.size_bytes
            if staged_bytes > limits.staging_bytes:
                raise LimitExceeded("encoded bytes of one checkpoint", limit=limits.staging_bytes, wanted=staged_bytes)
    except FtvmError:
        if done:
            shadow.tear()
        for batch in batches:
            buffers.acknowledged(batch)
        raise
    if batches and batches[-1].count == 0:
        buffers.acknowledged(batches.pop())
    return tuple(batches)


def _native_batch(buffer: BatchBuffer) -> Any:
    native = ffi.new("struct ftvm_batch *")
    native.indices = ffi.from_buffer("uint32_t[]", buffer.indices)
    native.lengths = ffi.from_buffer("uint16_t[]", buffer.lengths)
    native.payload = ffi.from_buffer("uint8_t[]", buffer.payload)
    native.entry_capacity = len(buffer.indices)
    native.payload_capacity = len(buffer.payload)
    return native


def _page_batch(buffer: BatchBuffer, native: Any) -> PageBatch:
    count = int(native.entry_count)
    indices = memoryview(buffer.indices).cast("B")[: 4 * count].toreadonly()
    lengths = memoryview(buffer.lengths).cast("B")[: 2 * count].toreadonly()
    payload = memoryview(buffer.payload)[: native.payload_bytes].toreadonly()
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(
        count=count, indices=indices, lengths=lengths, payload=payload, digest=digest, buffer=buffer.number
    )
