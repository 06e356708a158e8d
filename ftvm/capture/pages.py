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
from typing import Any, Final, Self

from ftvm._native import ffi, lib
from ftvm._native.bitmap import bitmap_indices
from ftvm._native.digest import batch_digest
from ftvm._native.memory import NativeMemory, are_rising
from ftvm.capture.ring import BatchBuffer, BatchBuffers
from ftvm.capture.shadow import Shadow
from ftvm.checkpoint import Bitmap, PageBatch
from ftvm.config import Limits
from ftvm.errors import ConfigError, LimitExceeded, LocalProtocolError
from ftvm.units import pages_to_bytes

__all__ = ["Indices", "StagedCopy", "capture_fused", "encode_staged", "page_indices"]

Indices = array
"""Page indices, u32 each, strictly rising, counted over all regions: what `page_indices` returns."""


SECOND_THREAD_PAGES: Final = 1000
"""Below this, starting a second thread costs more than it saves (bench/capture.py)."""


def page_indices(bitmap: Bitmap) -> "array[int]":
    """Return the pages of a set in rising order."""
    return bitmap_indices(bitmap)


def capture_fused(
    memory: NativeMemory,
    shadow: Shadow,
    indices: "array[int]",
    *,
    limits: Limits,
    buffers: BatchBuffers,
    has_second_thread: bool = False,
) -> tuple[PageBatch, ...]:
    """Encode pages straight from guest memory, which must stand still until this returns.

    With `has_second_thread`, sets of pages that are large enough for it are encoded by two threads; the batches say the
    same. Raises LimitExceeded past limits.staging_bytes or when no batch buffer is free; the shadow is torn then.
    """
    if memory.page_count != shadow.page_count:
        raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
    cells = _checked(indices, shadow)
    writer = _BatchWriter(shadow, limits, buffers)
    with writer:
        if has_second_thread and len(indices) >= SECOND_THREAD_PAGES:
            _capture_halves(memory, writer, cells, len(indices))
        else:
            _capture_list(memory, writer, cells, len(indices))
    return writer.batches()


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
    indices = copy.indices
    cells = _checked(indices, shadow)

    writer = _BatchWriter(shadow, limits, buffers)
    with writer:
        done = 0
        while done < len(indices):
            batch = writer.open()
            pages = copy.native + pages_to_bytes(done)
            done += lib.ftvm_capture_staged(pages, shadow.native, cells + done, len(indices) - done, batch.native)
            writer.close(batch)
    return writer.batches()


def _capture_list(memory: NativeMemory, writer: "_BatchWriter", cells: Any, count: int) -> None:
    done = 0
    while done < count:
        batch = writer.open()
        done += lib.ftvm_capture_fused(memory.native, writer.shadow.native, cells + done, count - done, batch.native)
        writer.close(batch)


def _capture_halves(memory: NativeMemory, writer: "_BatchWriter", cells: Any, count: int) -> None:
    """Two threads at a time while both halves have pages left, then one for the rest of the longer half."""
    middle = count // 2
    spans = [(0, middle), (middle, count)]
    while all(start < end for start, end in spans):
        batches = [writer.open(), writer.open()]
        halves = [
            ffi.new("struct ftvm_capture_half *", (cells + start, end - start, batch.native))
            for (start, end), batch in zip(spans, batches, strict=True)
        ]
        lib.ftvm_capture_fused_halves(memory.native, writer.shadow.native, *halves)
        for batch in batches:
            writer.close(batch)
        spans = [(start + half.done, end) for (start, end), half in zip(spans, halves, strict=True)]
    for start, end in spans:
        _capture_list(memory, writer, cells + start, end - start)


def _checked(indices: "array[int]", shadow: Shadow) -> Any:
    shadow.require_whole()
    if not are_rising(indices, shadow.page_count):
        raise LocalProtocolError("page indices must rise strictly and lie in the memory")
    return ffi.from_buffer("uint32_t[]", indices)


class _OpenBatch:
    """A batch that is being written."""

    __slots__ = ("buffer", "native")

    def __init__(self, buffer: BatchBuffer) -> None:
        self.buffer = buffer
        self.native: Any = ffi.new("struct ftvm_batch *")
        self.native.indices = ffi.from_buffer("uint32_t[]", buffer.indices)
        self.native.lengths = ffi.from_buffer("uint16_t[]", buffer.lengths)
        self.native.payload = ffi.from_buffer("uint8_t[]", buffer.payload)
        self.native.entry_capacity = len(buffer.indices)
        self.native.payload_capacity = len(buffer.payload)

    def finish(self) -> PageBatch:
        count = int(self.native.entry_count)
        indices = memoryview(self.buffer.indices).cast("B")[: 4 * count].toreadonly()
        lengths = memoryview(self.buffer.lengths).cast("B")[: 2 * count].toreadonly()
        payload = memoryview(self.buffer.payload)[: self.native.payload_bytes].toreadonly()
        digest = batch_digest(indices, lengths, payload)
        return PageBatch(
            count=count, indices=indices, lengths=lengths, payload=payload, digest=digest, buffer=self.buffer.number
        )


class _BatchWriter:
    """The batches of one capture. If it fails, all its buffers are given back, and the shadow is torn."""

    __slots__ = ("_batches", "_buffers", "_limits", "_opened", "_staged_bytes", "shadow")

    def __init__(self, shadow: Shadow, limits: Limits, buffers: BatchBuffers) -> None:
        self.shadow = shadow
        self._limits = limits
        self._buffers = buffers
        self._opened: list[_OpenBatch] = []
        self._batches: list[tuple[int, PageBatch]] = []
        self._staged_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if self._batches:
            self.shadow.tear()
        for batch in self._opened:
            self._buffers.give_back(batch.buffer)

    def open(self) -> _OpenBatch:
        batch = _OpenBatch(self._buffers.lend())
        self._opened.append(batch)
        return batch

    def close(self, open_batch: _OpenBatch) -> None:
        batch = open_batch.finish()
        first_index = int(open_batch.buffer.indices[0])
        self._batches.append((first_index, batch))
        self._staged_bytes += batch.size_bytes
        limit = self._limits.staging_bytes
        if self._staged_bytes > limit:
            raise LimitExceeded("encoded bytes of one checkpoint", limit=limit, wanted=self._staged_bytes)

    def batches(self) -> tuple[PageBatch, ...]:
        """Return what was captured, page indices rising over all; buffers that stayed empty go back."""
        for opened, (_, batch) in zip(self._opened, self._batches, strict=True):
            if batch.count == 0:
                self._buffers.give_back(opened.buffer)
        full = [(first_index, batch) for first_index, batch in self._batches if batch.count]
        return tuple(batch for _, batch in sorted(full, key=lambda pair: pair[0]))
