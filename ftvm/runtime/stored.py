"""A backup's committed memory, some regions of which are kept on disk as well.

Wraps ftvm.encode.apply.CommittedMemory and tells each region's store what a commit has changed, after the commit, and
when a first copy is complete: from then on, after each commit, it has a state that the backup could run from.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

from ftvm._native.memory import put_flags
from ftvm.checkpoint import Bitmap, Buffer, Footing, PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.interfaces import DiskKeeper, Region, RegionStore
from ftvm.protocol.reports import Persisted

__all__ = ["Persists", "StoredMemory", "present_pages"]


def present_pages(regions: Sequence[Region]) -> Bitmap:
    """Return the set of all pages but those that a region's store knows to be zero."""
    counts = tuple(region.page_count for region in regions)
    found = (region.store.present() if region.store is not None else None for region in regions)
    words = (Bitmap.full((n,)).words[0] if some is None else some for n, some in zip(counts, found, strict=True))
    return Bitmap(counts, tuple(words))


class Persists:
    """Asks the stores of a guest's disks to put on their devices what was committed, and gathers what they say.

    They say it in threads of theirs: the loop is woken then, and takes it. What a store says while it is asked needs no
    wake.

    said  what has come and is not taken yet: only whether there is anything is for others to see
    """

    def __init__(self, keepers: Sequence[DiskKeeper], wake: Callable[[], None]) -> None:
        self._keepers = tuple(keepers)
        self._wake = wake
        self.said: deque[tuple[int, str | None]] = deque()
        self._left: dict[int, int] = {}
        self._is_asking = False

    def ask(self, number: int) -> None:
        """Ask all of them; `take` tells when all have said that it is done, or one that it never will be."""
        self._left[number] = len(self._keepers)
        self._is_asking = True
        for store in self._keepers:
            store.persist(lambda error: self._say(number, error))
        self._is_asking = False
        if not self._keepers:
            self.said.append((number, None))

    def cover(self, *, is_covered: bool) -> None:
        """Have flushes answered ahead of the devices, or no longer."""
        for store in self._keepers:
            store.cover(is_covered=is_covered)

    def _say(self, number: int, error: str | None) -> None:
        self.said.append((number, error))  # before the look: the loop takes what was said behind its own change
        if not self._is_asking:
            self._wake()

    def take(self) -> list[Persisted]:
        """Return what is known by now of what was asked for."""
        known: list[Persisted] = []
        while self.said:
            number, error = self.said.popleft()
            if number not in self._left:
                continue  # it failed before
            left = self._left.pop(number) - 1
            if error is not None or left <= 0:
                known.append(Persisted(number, error))
            else:
                self._left[number] = left
        return known


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
        self._has_stood = False
        self._region_count = len(regions)
        first_page = 0
        for number, region in enumerate(regions):
            end_page = first_page + region.page_count
            if region.store is not None:
                region.store.place_at(first_page)
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
        self._has_stood = self._has_stood or footing is not None
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
        """As CommittedMemory.hold: of what has a store, what that kept; of the rest nothing if no guest stood here."""
        stored = [place.number for place in self._places]
        offered = list(self._memory.hold(stored if self._has_stood else range(self._region_count)))
        self._is_copying = True
        for place in self._places:
            offered += ((place.first_page + first, count) for first, count in place.store.held())
        return tuple(sorted(offered))

    def offer(self, first: int, count: int) -> bytes:
        """As CommittedMemory.offer."""
        if (place := self._place_of(first)) is None:
            return self._memory.offer(first, count)
        return self._memory.offer(first, count, place.store.offer(first - place.first_page, count))

    def keep(self, first: int, count: int, kept: Buffer) -> int:
        """As CommittedMemory.keep; what a store kept goes from file to file."""
        if (place := self._place_of(first)) is None:
            return self._memory.keep(first, count, kept)
        flags = bytearray(count)
        put_flags(bytearray(kept), flags)
        begin = first - place.first_page
        pages = list(compress(range(begin, begin + count), flags))
        as_known = set(place.store.keep(begin, count, pages))
        # What is there now, whatever was kept: the copy is judged by that.
        looked_at = [begin + page for page in range(count) if begin + page not in as_known]
        self._memory.look(array("I", [place.first_page + page for page in looked_at]))
        return len(pages)

    def _place_of(self, page: int) -> _Place | None:
        return next((place for place in self._places if place.first_page <= page < place.end_page), None)

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
