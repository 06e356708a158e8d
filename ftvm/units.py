"""Units, and the only places where one kind of number becomes another.

Time inside ftvm is a whole number of nanoseconds (`now`, `*_ns`) on a clock of arbitrary origin; the public face takes
seconds. A page is 4096 bytes everywhere. A page index counts over all regions of a guest, in their order.
"""

from functools import lru_cache
from typing import Final, NewType

__all__ = [
    "PAGE_BYTES",
    "Nanos",
    "PageCount",
    "PageIndex",
    "bytes_to_pages",
    "nanos_to_millis",
    "nanos_to_seconds",
    "pages_to_bytes",
    "seconds_to_nanos",
]

PAGE_BYTES: Final = 4096

Nanos = NewType("Nanos", int)
PageIndex = NewType("PageIndex", int)
PageCount = NewType("PageCount", int)


@lru_cache(maxsize=64)  # an engine asks for the same few intervals at each output
def seconds_to_nanos(seconds: float) -> Nanos:
    """Convert seconds to whole nanoseconds, rounding to the nearest."""
    return Nanos(round(seconds * 1_000_000_000))


def nanos_to_seconds(nanos: int) -> float:
    """Convert nanoseconds to seconds."""
    return nanos / 1_000_000_000


def nanos_to_millis(nanos: int) -> float:
    """Convert nanoseconds to milliseconds."""
    return nanos / 1_000_000


def pages_to_bytes(pages: int) -> int:
    """Return the size of so many pages in bytes."""
    return pages * PAGE_BYTES


def bytes_to_pages(size_bytes: int) -> PageCount:
    """Return how many whole pages `size_bytes` is; raises ValueError if it is not a multiple of the page size."""
    count, rest = divmod(size_bytes, PAGE_BYTES)
    if rest:
        raise ValueError(f"{size_bytes} bytes is not a whole number of {PAGE_BYTES}-byte pages")
    return PageCount(count)
