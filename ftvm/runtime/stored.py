"""A backup's committed memory, some regions of which are kept on disk as well.

Wraps ftvm.encode.apply.CommittedMemory and tells each region's store what a commit has changed, after the commit, and
when a first copy is complete: from then on, after each commit, it has a state that the backup could run from.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ftvm.checkpoint import Bitmap, Buffer, Footing, PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.interfaces import Region, RegionStore

__all__ = ["StoredMemory", "present_pages"]


def present_pages(regions: Sequence[Region]) -> Bitmap:
    """Return the set of all pages but those that a region's store knows to be zero."""
    counts = tuple(region.page_count for region in regions)
    found = (region.store.present() if region.store is not None else None for region in regions)
    words = (Bitmap.full((n,)).words[0] if some is None else some for n, some in zip(counts, found, strict=True))
    return Bitmap(counts, tuple(words))


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    store: RegionStore
    first_page: int
    end_page: int


class StoredMemory:
    """What ftvm.protocol.standby.commit.Memory asks for, with stores behind it."""

    def __init__(self, memory: CommittedMemory, regions: Sequence[Region]) -> None:
        self._memory = memory
        self._places: list[_Place] = []
        self._is_copying = False
        self._is_part = False
        self._told: Footing | None = None
        first_page = 0
        for number, region in enumerate(regions):
            end_page = first_page + region.page_count
            if region.store is not None:
                self._places.append(_Place(number, region.store, first_page, end_page))
            first_page = end_page

    @property
    def memory_digest(self) -> int:
        """The digest of the memory as it is."""
        return self._memory.memory_digest

    def stands(self, footing: Footing | None) -> None:
        """Tell the stores where the guest stands here, if that is new to them; None: nowhere."""
        if footing == self._told:
            return
        self._told = footing
        if footing is not None:
            for place in self._places:
                place.store.stands(footing)

    def clear(self) -> None:
        """Make all pages zero: a first copy is to come."""
        self._memory.clear()
        self._is_copying = True
        for place in self._places:
            place.store.discarded()

    def hold(self) -> tuple[tuple[int, int], ...]:
        """As CommittedMemory.hold: what has a store starts from zeros all the same, as its store keeps what it had."""
        kept = self._memory.hold([place.number for place in self._places])
        self._is_copying = True
        for place in self._places:
            place.store.discarded()
        return kept

    def offer(self, first: int, count: int) -> bytes:
        """As CommittedMemory.offer."""
        return self._memory.offer(first, count)

    def keep(self, first: int, count: int, kept: Buffer) -> int:
        """As CommittedMemory.keep; what has a store is never offered."""
        return self._memory.keep(first, count, kept)

    def measure(self) -> None:
        """As CommittedMemory.measure: what the guest left here is the state."""
        self._memory.measure()
        for place in self._places:
            place.store.committed(())

    def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
        """As CommittedMemory.verify; without a digest to expect, this is a part of a first copy."""
        self._memory.verify(batches, expected_digest)
        self._is_part = expected_digest is None

    def commit(self, batches: Sequence[PageBatch]) -> None:
        """As CommittedMemory.commit; then tell the stores."""
        self._memory.commit(batches)
        self._tell(batches)
        if self._is_copying and not self._is_part:
            self._is_copying = False
            for place in self._places:
                place.store.completed()

    def _tell(self, batches: Sequence[PageBatch]) -> None:
        for place in self._places:
            pages: list[int] = []
            for batch in batches:
                indices = memoryview(batch.indices).cast("B").cast("I")
                first, end = bisect_left(indices, place.first_page), bisect_left(indices, place.end_page)
                pages.extend(index - place.first_page for index in indices[first:end])
            if pages:
                place.store.committed(pages)
