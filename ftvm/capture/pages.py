"""Dirty pages to batches of deltas: the shadow that they are compared with, the buffers that batches are encoded into.

Two ways, one result. **Fused** encodes straight from guest memory and needs the guest to stand still; it touches each
page once. **Staged** copies the pages first (a shorter pause, or none at all) and encodes from the copy: each page is
read once, and payload, shadow and digest come from that one reading, so that a guest that writes meanwhile cannot
make them differ. Fused costs least CPU, but all of it inside the pause, so a CapturePolicy picks it while it keeps the
pause within the target, and staged above; it is a pure value that learns from measurements (bench/capture.py).

Both promise: a page that equals its shadow makes no batch entry; afterwards the shadow's digest is the one that the
backup's memory must have. If a capture raises once it has begun, the shadow is torn (it holds pages that were never
sent) and the session must end; the caller puts the dirty pages back into the guest's tracker.

**A scrub** finds pages that tracking missed: it compares all of memory with the shadow, a little at a time, while the
guest runs. A page that was written but never reported stays different from its shadow for ever. A look finds the pages
that differ; those are suspects only, for the guest may just have written them. At the next cut, with the guest paused
and its dirty pages collected, a suspect that is not among them and still differs was missed. It costs no pause: a pause
looks only at the suspects.

**A batch buffer** is in use from its capture until the backup acknowledged what is in it (until then it may have to be
sent again), and the transport let go of every send that reads from it. None in use is handed out, and as few are kept
as the traffic needs: three in a steady state.

Nothing here knows how batches travel. Wraps the native nouns `capture` and `gather` (capture.h and gather.h are their
manuals). One native call makes one batch.
"""

import mmap
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm._native.memory import DigestTable, NativeMemory, are_rising, bitmap_indices, bytes_digest, sparse_memory
from ftvm.checkpoint import PAGE_COUNT_MAX, PAGE_DIGEST_ROW, Bitmap, Buffer, PageBatch
from ftvm.config import Limits
from ftvm.errors import ConfigError, InternalError, LimitExceeded, LocalProtocolError
from ftvm.units import Nanos, pages_to_bytes

__all__ = [
    "PAGES_MEASURED_MIN",
    "BatchBuffer",
    "BatchBuffers",
    "CapturePolicy",
    "Scrub",
    "Shadow",
    "StagedCopy",
    "Way",
    "capture_fused",
    "encode_staged",
    "entries_max",
]

_WEIGHT: Final = 0.2
"""How much one measurement moves an average."""

PAGES_MEASURED_MIN: Final = 32
"""Smaller captures measure the price of the call, not of a page."""


_BYTES_PER_ENTRY: Final = 64
"""A batch has room for one entry per so many payload bytes: most deltas are longer, and where they are not the batch is
simply cut earlier. It keeps the index arrays at a tenth of the payload."""

_SPARE_BUFFERS: Final = 3
"""What the ring may always hold beyond the limits: one being filled, one being sent, one waiting for its word."""


# --- the two ways -----------------------------------------------------------------------------------------------------


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
        if pages < PAGES_MEASURED_MIN:
            return self
        page_ns = pause_ns / pages
        if way is Way.FUSED:
            return replace(self, fused_page_ns=_moved(self.fused_page_ns, page_ns))
        return replace(self, staged_page_ns=_moved(self.staged_page_ns, page_ns))


def _moved(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average)


def capture_fused(
    memory: NativeMemory, shadow: "Shadow", indices: "array[int]", *, limits: Limits, buffers: "BatchBuffers"
) -> tuple[PageBatch, ...]:
    """Encode pages straight from guest memory, which must stand still until this returns.

    `indices` are strictly rising, counted over all regions. Raises LimitExceeded past limits.staging_bytes or when no
    batch buffer is free; the shadow is torn then.
    """
    if memory.page_count != shadow.page_count:
        raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
    encode = partial(lib.ftvm_capture_fused, memory.native, shadow.native)
    return _batches(encode, indices, shadow, limits, buffers)


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


def encode_staged(
    copy: StagedCopy, shadow: "Shadow", *, limits: Limits, buffers: "BatchBuffers"
) -> tuple[PageBatch, ...]:
    """Encode what was gathered; the guest may run. Raises as `capture_fused` does."""

    def encode(cells: Any, left: int, batch: Any) -> int:
        pages = copy.native + pages_to_bytes(len(copy.indices) - left)
        return int(lib.ftvm_capture_staged(pages, shadow.native, cells, left, batch))

    return _batches(encode, copy.indices, shadow, limits, buffers)


def _batches(
    encode: Callable[[Any, int, Any], int],
    indices: "array[int]",
    shadow: "Shadow",
    limits: Limits,
    buffers: "BatchBuffers",
) -> tuple[PageBatch, ...]:
    """Return the batches of one capture, page indices rising over all. If it fails, all its buffers are given back, and
    the shadow is torn.

    encode  fills a native batch with the first of so many pages; returns how many it took
    """
    if shadow.is_torn:
        raise LocalProtocolError("the last capture failed halfway: start a new session and clear the shadow first")
    if not are_rising(indices, shadow.page_count):
        raise LocalProtocolError("page indices must rise strictly and lie in the memory")
    cells, count = ffi.from_buffer("uint32_t[]", indices), len(indices)
    batches: list[PageBatch] = []
    lent: list[BatchBuffer] = []
    done, staged_bytes = 0, 0
    try:
        while done < count:
            buffer = buffers.lend()
            lent.append(buffer)
            done += encode(cells + done, count - done, buffer.native)
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


# --- the shadow ------------------------------------------------------------------------------------------------------


class Shadow:
    """The primary's copy of the backup's memory, with its digest kept up to date.

    It starts as all zero pages, as the backup does. A capture encodes each dirty page as its difference from the
    shadow's and brings the shadow up to date in the same pass. It takes as much memory as the guest's (of what is not
    zero), and 17 bytes a page for digests and history. After a capture that failed halfway it `is_torn`.
    """

    __slots__ = ("_digests", "_pages", "_runs", "is_torn", "native", "page_count")

    native: Any
    """`struct ftvm_shadow *`."""

    def __init__(self, page_counts: Sequence[int]) -> None:
        """Make a shadow of zero pages for regions of so many pages."""
        self.page_count = sum(page_counts)
        if not 0 < self.page_count <= PAGE_COUNT_MAX:
            raise ConfigError(f"a shadow must have 1 to {PAGE_COUNT_MAX} pages, not {self.page_count}")
        self._pages = sparse_memory(pages_to_bytes(self.page_count))
        self._digests = DigestTable(self.page_count)
        self._runs = sparse_memory(self.page_count)
        self.is_torn = False
        self.native = ffi.new("struct ftvm_shadow *")
        self.native.pages = ffi.from_buffer("uint8_t[]", self._pages)
        self.native.digests, self.native.sum = self._digests.native[0], self._digests.sum[0]
        self.native.raw_runs = ffi.from_buffer("uint8_t[]", self._runs)
        self.native.page_count = self.page_count

    @property
    def memory_digest(self) -> int:
        """The digest of its content: what the backup's memory must have once all that was captured is applied."""
        digest = self.native.sum
        return int(digest.high) << 64 | int(digest.low)

    @property
    def content(self) -> memoryview:
        """Its pages, which change with each capture; not to be written. One known by its digest alone shows zeros."""
        return memoryview(self._pages)

    def clear(self) -> None:
        """Become all zero pages again, for a new session; the memory goes back to the system."""
        self._digests.reset()
        self._become_zero()

    def part_with(self) -> DigestTable:
        """As `clear`; the hashes of what it held are the caller's."""
        digests, self._digests = self._digests, DigestTable(self.page_count)
        self._become_zero()
        return digests

    def _become_zero(self) -> None:
        self._pages.madvise(mmap.MADV_DONTNEED)
        self._runs.madvise(mmap.MADV_DONTNEED)
        self.native.digests, self.native.sum = self._digests.native[0], self._digests.sum[0]
        self.is_torn = False

    def adopt(self, memory: NativeMemory, digests: DigestTable, first: int, limit: int) -> int:
        """Take over pages of `memory`, which stands still, from `first` on, at most `limit` that differ by their hash.

        Returns the page to go on from, the page count when all were looked at; if `digests` is up to date and nothing
        was written meanwhile, the shadow then is what `memory` holds.
        """
        if not memory.page_count == digests.page_count == self.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {self.page_count}")
        return int(lib.ftvm_capture_adopt(memory.native, digests.native, self.native, first, limit))

    def match(self, memory: NativeMemory, first: int, digests: Buffer, known: DigestTable | None = None) -> bytearray:
        """Compare pages of `memory`, which may be written meanwhile, with hashes of what the backup still has of them.

        Returns a byte a page: 1 where it is the same, and the shadow knows it by its digest from now on, and takes no
        memory for it before it is written; elsewhere the shadow's page stays zero, as it must be before.

        digests  as DigestTable.pages gives them, for pages from `first` on
        known    hashes of the memory (known.py): a page that has one is not read
        """
        count = len(digests) // 16
        if memory.page_count != self.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {self.page_count}")
        if not 0 <= first <= first + count <= self.page_count:
            raise IndexError(f"{count} pages from {first} on, of {self.page_count}")
        flags = bytearray(count)
        table = ffi.NULL if known is None else known.native
        offered, cells = ffi.from_buffer("uint8_t[]", digests), ffi.from_buffer("uint8_t[]", flags)
        lib.ftvm_capture_match(memory.native, table, self.native, first, count, offered, cells)
        return flags

    def page_digests(self, indices: "array[int]") -> bytes:
        """Return the hashes of some pages, a row of Checkpoint.page_digests each."""
        rows = (PAGE_DIGEST_ROW.pack(i, self._digests.page(i)) for i in indices)
        return b"".join(rows)

    def tear(self) -> None:
        """Note that a capture failed halfway: pages went in that will never be sent. Only `clear` repairs it."""
        self.is_torn = True


class Scrub:
    """One guest's scrub. A round over all pages takes page_count / pages_per_look looks.

    `suspects` are the pages that the last look found different, until the next `judge`.
    """

    __slots__ = ("_found", "_memory", "_next", "_shadow", "pages_per_look", "rounds", "suspects")

    def __init__(self, memory: NativeMemory, shadow: Shadow, *, pages_per_look: int) -> None:
        """Compare `pages_per_look` pages a look: about 0.3 us each, of a core and of memory bandwidth."""
        if memory.page_count != shadow.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
        if pages_per_look <= 0:
            raise ConfigError("a scrub must look at one page or more")
        self._memory = memory
        self._shadow = shadow
        self.pages_per_look = min(pages_per_look, shadow.page_count)
        self.rounds = 0
        self._next = 0
        self._found = array("I", bytes(4 * self.pages_per_look))
        self.suspects: array[int] = array("I")

    def look(self) -> int:
        """Compare the next pages; the guest may run. Returns how many are suspects until the next `judge`.

        Between two calls of `judge` at most one look counts: a second one replaces the suspects of the first.
        """
        shadow, cells = self._shadow.native, ffi.from_buffer("uint32_t[]", self._found)
        found = lib.ftvm_capture_differing(self._memory.native, shadow, self._next, self.pages_per_look, cells)
        self.suspects = self._found[:found]
        self._next += self.pages_per_look
        if self._next >= self._shadow.page_count:
            self._next = 0
            self.rounds += 1
        return len(self.suspects)

    def judge(self, dirty: Bitmap) -> "array[int]":
        """Return the suspects that tracking missed.

        Call with the guest paused, after `collect_dirty` gave `dirty` and before the capture brings the shadow up to
        date.
        """
        suspects, self.suspects = self.suspects, array("I")
        if not suspects:
            return suspects
        reported = set(bitmap_indices(dirty))
        memory, shadow, cells = self._memory.native, self._shadow.native, ffi.from_buffer("uint32_t[]", self._found)
        unreported = [page for page in suspects if page not in reported]
        return array("I", [page for page in unreported if lib.ftvm_capture_differing(memory, shadow, page, 1, cells)])


# --- buffers ----------------------------------------------------------------------------------------------------------


def entries_max(limits: Limits) -> int:
    """Return how many pages one batch can hold at most."""
    return limits.batch_bytes // _BYTES_PER_ENTRY


class BatchBuffer:
    """Room for one batch: page indices, lengths, payload; and `native`, a `struct ftvm_batch *` to fill it by."""

    __slots__ = (
        "_indices",
        "_lengths",
        "_payload",
        "indices",
        "is_unacknowledged",
        "lengths",
        "native",
        "number",
        "payload",
        "sends",
    )

    native: Any

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.indices = array("I", bytes(4 * entries_max(limits)))
        self.lengths = array("H", bytes(2 * entries_max(limits)))
        self.payload = bytearray(limits.batch_bytes)
        self._indices = memoryview(self.indices).cast("B").toreadonly()
        self._lengths = memoryview(self.lengths).cast("B").toreadonly()
        self._payload = memoryview(self.payload).toreadonly()
        self.native = ffi.new("struct ftvm_batch *")
        self.native.indices = ffi.from_buffer("uint32_t[]", self.indices)
        self.native.lengths = ffi.from_buffer("uint16_t[]", self.lengths)
        self.native.payload = ffi.from_buffer("uint8_t[]", self.payload)
        self.native.entry_capacity = len(self.indices)
        self.native.payload_capacity = len(self.payload)
        self.is_unacknowledged = False
        self.sends = 0

    def batch(self) -> PageBatch:
        """Return what was written into it by `native`, as views of its memory."""
        count = int(self.native.entry_count)
        indices, lengths = self._indices[: 4 * count], self._lengths[: 2 * count]
        payload = self._payload[: self.native.payload_bytes]
        digest = bytes_digest(indices, lengths, payload)
        return PageBatch(
            count=count, indices=indices, lengths=lengths, payload=payload, digest=digest, buffer=self.number
        )


class BatchBuffers:
    """A ring of batch buffers that grows with what is in flight, up to a limit."""

    __slots__ = ("_buffers", "_free", "_limits", "capacity")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffers: list[BatchBuffer] = []
        self._free: list[BatchBuffer] = []
        self.capacity = limits.epochs_in_flight * limits.staging_bytes // limits.batch_bytes + _SPARE_BUFFERS

    @property
    def in_use(self) -> int:
        """How many buffers somebody still needs."""
        return len(self._buffers) - len(self._free)

    @property
    def allocated_bytes(self) -> int:
        """What all payload buffers take, in use or not."""
        return len(self._buffers) * self._limits.batch_bytes

    def lend(self) -> BatchBuffer:
        """Return a buffer that nobody needs; it is in use, unacknowledged, from now on. Raises LimitExceeded."""
        if self._free:
            buffer = self._free.pop()
        elif len(self._buffers) < self.capacity:
            buffer = BatchBuffer(len(self._buffers), self._limits)
            self._buffers.append(buffer)
        else:
            raise LimitExceeded("batch buffers in use", limit=self.capacity, wanted=self.capacity + 1)
        if buffer.is_unacknowledged or buffer.sends:
            raise InternalError(f"batch buffer {buffer.number} was free and in use at once")
        buffer.is_unacknowledged = True
        buffer.native.entry_count = buffer.native.payload_bytes = 0
        return buffer

    def give_back(self, buffer: BatchBuffer) -> None:
        """Take back a buffer that was lent and that no batch came out of."""
        buffer.is_unacknowledged = False
        if not buffer.sends:
            self._free.append(buffer)

    def sent(self, batch: PageBatch) -> None:
        """Note that the transport reads from this batch until it lets go; once per send."""
        self._of(batch).sends += 1

    def let_go(self, batch: PageBatch) -> None:
        """Note that the transport finished one send of this batch."""
        buffer = self._of(batch)
        if buffer.sends == 0:
            raise LocalProtocolError(f"batch buffer {buffer.number} was let go of more often than it was sent")
        buffer.sends -= 1
        if not buffer.sends and not buffer.is_unacknowledged:
            self._free.append(buffer)

    def acknowledged(self, *batches: PageBatch) -> None:
        """Note that these batches need not be sent again: the backup has them, or their session is over."""
        for batch in batches:
            buffer = self._of(batch)
            if not buffer.is_unacknowledged:
                raise LocalProtocolError(f"batch buffer {buffer.number} was acknowledged twice")
            buffer.is_unacknowledged = False
            if not buffer.sends:
                self._free.append(buffer)

    def _of(self, batch: PageBatch) -> BatchBuffer:
        if batch.buffer is None or not 0 <= batch.buffer < len(self._buffers):
            raise LocalProtocolError("this batch was not captured into this ring")
        return self._buffers[batch.buffer]
