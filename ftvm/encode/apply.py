"""The backup's memory, and how a checkpoint gets into it: verify everything, then commit it, all of it or nothing.

Verifying decodes every page into a scratch page and computes what the memory digest would become; memory is only read.
Committing decodes again, in place. It promises that a batch that is not what the primary captured never reaches
memory. It knows nothing about epochs or frames, and does not bound what it is given: staging does.

Wraps the native noun `apply` (apply.h is its manual).
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.memory import (
    DigestTable,
    NativeMemory,
    bitmap_indices,
    bytes_digest,
    digest_to_int,
    int_to_digest,
    is_unknown,
    put_flags,
)
from ftvm.checkpoint import Bitmap, Buffer, PageBatch
from ftvm.errors import BadFrame, DigestMismatch, InternalError, LocalProtocolError

__all__ = ["CommittedMemory"]

_VERDICTS = {
    lib.FTVM_APPLY_BAD_INDEX: "its page index is outside the guest's memory or not above the one before it",
    lib.FTVM_APPLY_BAD_LENGTH: "its length does not fit the payload",
    lib.FTVM_APPLY_BAD_DELTA: "its bytes are no page delta",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """A batch that was found good, and the hashes of its pages as they will be; committing it allocates nothing."""

    batch: PageBatch
    received: "_Received"
    fresh: Any


def _all_pages() -> Bitmap | None:
    return None


class CommittedMemory:
    """Guest memory that changes by whole, verified checkpoints only."""

    __slots__ = ("_digests", "_memory", "_present", "_sum_after", "_verified")

    def __init__(self, memory: NativeMemory, present: Callable[[], Bitmap | None] = _all_pages) -> None:
        """Take the memory as it is; its digest is computed from its content (about 0.1 us a page).

        present  returns all pages that may not be zero now, None if all may
        """
        self._memory = memory
        self._present = present
        self._digests = DigestTable(memory.page_count)
        self._verified: tuple[_Verified, ...] = ()
        self._sum_after = 0
        self.measure()

    @property
    def memory_digest(self) -> int:
        """The digest of the memory as it is."""
        return digest_to_int(self._digests.sum)

    def clear(self) -> None:
        """Zero all memory: what a new session starts from."""
        self._verified = ()
        self._memory.clear()
        self._digests.reset()

    def measure(self) -> None:
        """Take the memory as it is (about 0.1 us a page): the guest ran here, and nobody noted what it wrote."""
        self._verified = ()
        present = self._present()
        self._digests.measure(self._memory, None if present is None else bitmap_indices(present))

    def hold(self, cleared: Sequence[int] = ()) -> tuple[tuple[int, int], ...]:
        """Begin a new session with what is here as a cache, but for the regions of these numbers, which become zero.

        Returns what may be offered: the first page of each of the other regions, and how many it has.
        """
        self._verified = ()
        kept, first = [], 0
        for number, count in enumerate(self._memory.page_counts):
            if number in cleared:
                self._memory.clear_region(number)
                self._digests.zero(first, count)
            else:
                kept.append((first, count))
            first += count
        return tuple(kept)

    def offer(self, first: int, count: int, known: bytes | None = None) -> bytes:
        """Return the hashes of pages as they are now, 16 bytes each (about 0.5 us a page).

        known  those that need no look at the page, all ones for one that does; None if all do
        """
        pages = array("I", range(first, first + count))
        if known is not None:
            self._digests.take(first, known)
            pages = array("I", [page for page in pages if is_unknown(known, page - first)])
        self.look(pages)  # rule: digests_of_now
        return self._digests.pages(first, count)

    def look(self, pages: "array[int]") -> None:
        """Bring the digests of pages, which rise, up to date with what they are now."""
        self._digests.refresh(self._memory, pages)

    def keep(self, first: int, count: int, kept: Buffer) -> int:
        """Keep those of the pages that are set in a bitmap, and make the others zero. Returns how many were kept."""
        flags = bytearray(count)
        put_flags(bytearray(kept), flags)
        others = array("I", compress(range(first, first + count), map(not_, flags)))
        self._memory.clear_pages(others)
        self._digests.refresh(self._memory, others)
        return count - len(others)

    def refresh(self, dirty: Bitmap) -> "array[int]":
        """Note that the guest itself has written pages: a backup that executes. Returns which, in rising order."""
        indices = bitmap_indices(dirty)
        self._digests.refresh(self._memory, indices)
        return indices

    @property
    def digests(self) -> DigestTable:
        """The hash of each page, as of the last commit, `refresh` or `measure`."""
        return self._digests

    def page_digest(self, index: int) -> bytes:
        """Return the 16-byte hash of one page, as the running digest has it."""
        return self._digests.page(index)

    def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
        """Check batches that are to be committed together; memory stays as it is.

        Page indices must rise strictly over all of them. With `expected_digest`, the memory digest after the commit
        must be that. Raises BadFrame or DigestMismatch (the peer's fault); nothing can be committed then.
        """
        self._verified = ()
        progress = ffi.new("struct ftvm_apply_progress *")
        progress.sum = self._digests.sum[0]
        verified = tuple(self._verify_batch(number, batch, progress) for number, batch in enumerate(batches))
        sum_after = digest_to_int(progress.sum)
        if expected_digest is not None and sum_after != expected_digest:
            raise DigestMismatch(
                f"the memory digest would become {sum_after:032x}, but the sender's is {expected_digest:032x}: "
                "the two sides' memories differ"
            )
        self._verified, self._sum_after = verified, sum_after

    def commit(self, batches: Sequence[PageBatch]) -> None:
        """Apply exactly the batches that the last `verify` accepted. Raises LocalProtocolError for any others."""
        verified, self._verified = self._verified, ()
        if len(verified) != len(batches) or any(a.batch is not b for a, b in zip(verified, batches, strict=True)):
            raise LocalProtocolError("only the batches that verify accepted last can be committed")
        for entry in verified:
            native = entry.received.native
            applied = lib.ftvm_apply_commit(self._memory.native, self._digests.native, native, entry.fresh)
            if applied != entry.batch.count:
                raise InternalError("a verified batch changed before it was committed: its buffer was written to")
        if verified:
            int_to_digest(self._sum_after, self._digests.sum)

    def replay(self, batch: PageBatch) -> None:
        """Apply a batch that was verified when it was made; the digests are wrong until `measure`.

        Raises BadFrame if it does not apply: pages before the bad one are changed then.
        """
        _check_shape(0, batch)
        fresh = ffi.from_buffer("struct ftvm_digest[]", array("Q", bytes(16 * batch.count)))
        native = _received(batch)
        applied = lib.ftvm_apply_commit(self._memory.native, self._digests.native, native.native, fresh)
        if applied != batch.count:
            raise BadFrame(f"entry {applied} of a batch of {batch.count} does not apply to this memory")

    def _verify_batch(self, number: int, batch: PageBatch, progress: Any) -> _Verified:
        _check_shape(number, batch)
        if bytes_digest(batch.indices, batch.lengths, batch.payload) != batch.digest:
            raise DigestMismatch(f"batch {number} is not what was sent: its digest differs")
        fresh = ffi.from_buffer("struct ftvm_digest[]", array("Q", bytes(16 * batch.count)))
        received = _received(batch)
        verdict = lib.ftvm_apply_verify(
            self._memory.native,
            self._digests.native,
            received.native,
            progress,
            fresh,
        )
        if verdict != lib.FTVM_APPLY_GOOD:
            raise BadFrame(f"batch {number}, entry {progress.bad_entry}: {_VERDICTS[verdict]}")
        return _Verified(batch=batch, received=received, fresh=fresh)


@dataclass(frozen=True, slots=True)
class _Received:
    """`struct ftvm_received *`, and what keeps its pointers valid."""

    native: Any
    parts: tuple[Any, ...]


def _received(batch: PageBatch) -> _Received:
    parts = tuple(ffi.from_buffer("uint8_t[]", part) for part in (batch.indices, batch.lengths, batch.payload))
    return _Received(ffi.new("struct ftvm_received *", (*parts, batch.count, len(parts[2]))), parts)


def _check_shape(number: int, batch: PageBatch) -> None:
    sizes = (len(memoryview(part).cast("B")) for part in (batch.indices, batch.lengths))
    if batch.count < 0 or tuple(sizes) != (4 * batch.count, 2 * batch.count):
        raise BadFrame(f"batch {number}: its index and length arrays do not have {batch.count} entries")
