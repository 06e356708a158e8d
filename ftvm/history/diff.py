"""What changed in a guest's memory: between two epochs, and over time. Read from the records; no guest runs.

A merged entry names the pages that it changes, and of each exactly the bytes that were shipped, so that the pages that
changed between two epochs are known without restoring either. Which bytes differ is then seen in two small copies.
"""

import mmap
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftvm.checkpoint import Geometry, PageBatch
from ftvm.errors import HistoryError
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.entry import EntryLevel
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES, pages_to_bytes

__all__ = ["Heat", "PageDifference", "diff_epochs", "heat_of", "pages_between", "pages_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDifference:
    """A page that differs. `page` counts from the first of `region`; `first` is the offset of the first byte that does,
    in the page."""

    region: str
    page: int
    bytes_changed: int
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """How often each page changed, in stretches of time.

    starts_ns  when each stretch begins
    counts     for each stretch: {page: entries that changed it}, pages counted over all regions
    page_count of the guest
    """

    starts_ns: tuple[int, ...]
    counts: tuple[dict[int, int], ...]
    page_count: int

    def rows(self, height: int) -> list[list[int]]:
        """Return a picture: `height` rows of equal parts of the memory, a number for each stretch."""
        width = -(-self.page_count // height)
        picture = [[0] * len(self.counts) for _ in range(height)]
        for column, counted in enumerate(self.counts):
            for page, count in counted.items():
                picture[page // width][column] += count
        return picture


def pages_of(batch: PageBatch) -> "array[int]":
    """Return the pages that a batch names, rising."""
    pages = array("I")
    pages.frombytes(bytes(batch.indices))
    return pages


def pages_between(store: Store, stream: int, first: int, last: int) -> list[int]:
    """Return pages, rising: all that were written between two epochs, and perhaps some written shortly before.

    Raises HistoryError if no entries lead from one to the other.
    """
    rows = store.chain(stream, first, last)
    if rows is None:
        raise HistoryError(
            f"no entries lead from epoch {first} to epoch {last}: one of them is gone, or there is a gap"
        )
    touched: set[int] = set()
    for row in rows:
        touched.update(pages_of(store.read(stream, row).pages))
    return sorted(touched)


def diff_epochs(store: Store, stream: int, first: int, last: int, progress: Progress) -> Iterator[PageDifference]:
    """Yield the pages that differ between two epochs, rising. Takes as much memory as the guest has."""
    owner = store.owner
    if owner is None:
        raise HistoryError(f"nothing was recorded into {store.folder} yet")
    touched = pages_between(store, stream, first, last)
    view = memoryview(mmap.mmap(-1, pages_to_bytes(store.page_count)))
    image = RestoredMemory(store, stream, [view])
    image.go_to(first, progress)
    before = {page: bytes(view[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in touched}
    image.go_to(last, progress)
    for page in touched:
        count, at = _compared(before[page], view, page)
        if count:
            region, own = place_of(owner.geometry, page)
            yield PageDifference(region=region, page=own, bytes_changed=count, first=at)


def place_of(geometry: Geometry, page: int) -> tuple[str, int]:
    """Return the region of a page, and its number there."""
    for region in geometry.regions:
        if page < region.page_count:
            return region.name, page
        page -= region.page_count
    raise HistoryError(f"page {page} is behind the last of the guest's memory")


def _compared(before: bytes, memory: memoryview, page: int) -> tuple[int, int]:
    """Return how many bytes of a page differ, and the first that does."""
    after = memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    both = int.from_bytes(before, "little") ^ int.from_bytes(after, "little")
    differing = both.to_bytes(PAGE_BYTES, "little")
    return PAGE_BYTES - differing.count(0), PAGE_BYTES - len(differing.lstrip(b"\0"))


def heat_of(store: Store, streams: Sequence[int], since_ns: int, until_ns: int, stretches: int) -> Heat:
    """Count, for each page, the entries that changed it: the finest that is kept of each time."""
    width = max(1, -(-(until_ns - since_ns) // stretches))
    counts: list[Counter[int]] = [Counter() for _ in range(stretches)]
    for stream in streams:
        done = -1
        for row in sorted(
            store.catalogue.timed_rows(stream, since_ns, until_ns), key=lambda row: (row.base, row.level)
        ):
            if row.base < done or row.level is EntryLevel.BASE:
                continue
            done = row.epoch
            at = min(stretches - 1, max(0, row.time_ns - since_ns) // width)
            counts[at].update(pages_of(store.read(stream, row).pages))
    return Heat(
        starts_ns=tuple(since_ns + place * width for place in range(stretches)),
        counts=tuple(dict(each) for each in counts),
        page_count=store.page_count,
    )
