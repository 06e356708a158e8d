"""A backup's committed memory, some regions of which are kept on disk as well.

Wraps ftvm.encode.apply.CommittedMemory and tells each region's store what a commit has changed, after the commit and
never in the middle of a first copy: what a store is told of is always a state that the backup could run from.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ftvm.checkpoint import PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.interfaces import Region, RegionStore

__all__ = ["StoredMemory"]


@dataclass(frozen=True, slots=True)
class _Place:
    store: RegionStore
    first_page: int
    end_page: int


class StoredMemory:
    """What ftvm.protocol.commit.Memory asks for, with stores behind it."""

    def __init__(self, memory: CommittedMemory, regions: Sequence[Region]) -> None:
        self._memory = memory
        self._places: list[_Place] = []
        self._is_copying = True
        self._is_replaced = True
        first_page = 0
        for region in regions:
            end_page = first_page + region.page_count
            if region.store is not None:
                self._places.append(_Place(region.store, first_page, end_page))
            first_page = end_page

    @property
    def memory_digest(self) -> int:
        """The digest of the memory as it is."""
        return self._memory.memory_digest

    def clear(self) -> None:
        """Make all pages zero: a first copy is to come."""
        for place in self._places:
            place.store.discarded()
        self._memory.clear()
        self._is_replaced = True

    def measure(self) -> None:
        """As CommittedMemory.measure; what the stores hold is then a guess, so the next commit replaces all of it."""
        self._memory.measure()
        self._is_copying, self._is_replaced = False, True

    def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
        """As CommittedMemory.verify; without a digest to expect, this is a part of a first copy."""
        self._memory.verify(batches, expected_digest)
        self._is_copying = expected_digest is None

    def commit(self, batches: Sequence[PageBatch]) -> None:
        """As CommittedMemory.commit; then tell the stores."""
        self._memory.commit(batches)
        if self._is_copying:
            self._is_replaced = True
        elif self._is_replaced:
            self._is_replaced = False
            for place in self._places:
                place.store.replaced()
        else:
            self._tell(batches)

    def _tell(self, batches: Sequence[PageBatch]) -> None:
        for place in self._places:
            pages: list[int] = []
            for batch in batches:
                indices = memoryview(batch.indices).cast("B").cast("I")
                first, end = bisect_left(indices, place.first_page), bisect_left(indices, place.end_page)
                pages.extend(index - place.first_page for index in indices[first:end])
            if pages:
                place.store.committed(pages)
