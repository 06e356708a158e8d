"""What is known of pages without reading them, so that a host that comes back costs the guest's host no look at a whole
disk.

A table of hashes says what the pages of a memory were at some moment. It still says so of each page that was not
written since, and the guest's tracker tells which were: whoever collects its set has them forgotten here. Two moments
are known so: that of the last cut, by the shadow, and that at which the guest went on here, by what was committed. Of
the second only disks are known: their flags are set by each write, while the first set of a tracker of RAM need not
have a page that is zero again.

It promises nothing about pages that tracking missed: as in a session, only a scrub finds those (pages.py), and what was
known is forgotten with it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from ftvm._native.memory import DigestTable

__all__ = ["KnownPages"]


@dataclass(frozen=True, slots=True)
class KnownPages:
    """A table of hashes, and the runs of pages (first, end) that it may be asked about.

    digests  nobody else writes to it
    """

    digests: DigestTable
    runs: Sequence[tuple[int, int]]

    def forget(self, written: "array[int]") -> None:
        """Note that pages, which rise, were written."""
        self.digests.forget(written)

    def of(self, first: int, count: int) -> DigestTable | None:
        """Return the table for pages from `first` on, None if it may not be asked about all of them."""
        is_known = any(begin <= first and first + count <= end for begin, end in self.runs)
        return self.digests if is_known else None
