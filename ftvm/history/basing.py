"""Reads a base out of memory that goes on changing: a portion of pages at a time, and no pause for it.

A page may be read while an epoch is committed, and come out as a mixture of before and behind. That does no harm: a
delta carries new bytes, so whoever applies all epochs since the reading began to such a page, in order, has at the end
each byte that any of them changed as the last one left it, and all other bytes as they were all the time.

So a base that was read between the commits of two epochs is the state of the second one, once the entries between them
are applied (ftvm/store/retention.py:Base).
"""

from array import array
from typing import Final

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.capture.pages import BatchBuffers, Shadow, StagedCopy, encode_staged
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.merge import join_batches

__all__ = ["PORTION_PAGES", "PortionReader"]

PORTION_PAGES: Final = 1024
"""4 MiB: some ten milliseconds of reading and packing."""


class PortionReader:
    """Reads portions of one memory, so many pages each, as batches against pages of zeros."""

    def __init__(self, memory: NativeMemory, portion_pages: int = PORTION_PAGES) -> None:
        self.portion_pages = portion_pages
        self._memory = memory
        self._limits = Limits()
        self._buffers = BatchBuffers(self._limits)
        self._copy = StagedCopy(portion_pages)
        self._zeros = Shadow([portion_pages])

    @property
    def page_count(self) -> int:
        """Pages of the memory."""
        return self._memory.page_count

    def read(self, first: int) -> PageBatch:
        """Return the pages from `first` on that are not zero, of one portion."""
        count = min(self.portion_pages, self._memory.page_count - first)
        self._copy.gather(self._memory, array("I", range(first, first + count)))
        self._copy.indices = array("I", range(count))  # as the shadow of one portion counts them
        batches = encode_staged(self._copy, self._zeros, limits=self._limits, buffers=self._buffers)
        batch = _moved(join_batches(batches), first)
        self._buffers.acknowledged(*batches)
        self._zeros.clear()
        return batch


def _moved(batch: PageBatch, first: int) -> PageBatch:
    """Return a copy of a batch whose pages are counted from `first` on."""
    indices = array("I")
    indices.frombytes(bytes(batch.indices))
    moved = array("I", [index + first for index in indices]).tobytes()
    lengths, payload = bytes(batch.lengths), bytes(batch.payload)
    return PageBatch(
        count=batch.count,
        indices=moved,
        lengths=lengths,
        payload=payload,
        digest=batch_digest(moved, lengths, payload),
    )
