"""Pages of a disk's file: which it has data for, writing those of a step, and copying those that another file has.

Knows nothing of journals, labels or epochs: image.py says when.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ftvm._native import blockstore
from ftvm.guests.disk.label import write_at
from ftvm.units import PAGE_BYTES

__all__ = ["copy_pages", "data_runs", "offered_runs", "runs_of", "write_pages"]

_ZEROS: Final = bytes(PAGE_BYTES)
_PAGES_AT_ONCE: Final = 256
_OFFERS_MAX: Final = 65_536
_GAP_PAGES: Final = 16


def runs_of(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of rising page numbers that lie side by side: first page, count, which is limited."""
    start = 0
    for end in range(1, len(pages) + 1):
        if end == len(pages) or pages[end] != pages[end - 1] + 1 or end - start == _PAGES_AT_ONCE:
            yield pages[start], end - start
            start = end


def data_runs(descriptor: int, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the first page and the end of each run of a file that has data, from page `begin` on: what is between reads
    as zeros."""
    offset = begin * PAGE_BYTES
    while True:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as wrong:
            if wrong.errno == errno.ENXIO:
                return
            if wrong.errno != errno.EINVAL:
                raise
            yield begin, os.lseek(descriptor, 0, os.SEEK_END) // PAGE_BYTES  # a block device: it tells no holes
            return
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start // PAGE_BYTES, -(-offset // PAGE_BYTES)


def offered_runs(descriptor: int, page_count: int) -> list[tuple[int, int]]:
    """Return runs of a file's pages, as first page and count, with all that it has data for and few holes.

    Their number is limited: small holes count as data, in a large file also larger ones.
    """
    gap = max(_GAP_PAGES, page_count // _OFFERS_MAX)
    runs: list[tuple[int, int]] = []
    for first, end in data_runs(descriptor):
        if runs and first - sum(runs[-1]) <= gap:
            first = runs.pop()[0]
        runs.append((first, end - first))
    return runs


def write_pages(descriptor: int, step: Mapping[int, bytes]) -> None:
    """Write pages to their places; those of zeros become holes, so that a sparse disk is sparse on both hosts."""
    zeros = {page for page, content in step.items() if content == _ZEROS}
    for first, count in runs_of(sorted(zeros)):
        blockstore.make_zero(descriptor, count * PAGE_BYTES, first * PAGE_BYTES)
    for first, count in runs_of(sorted(step.keys() - zeros)):
        write_at(descriptor, b"".join(step[first + n] for n in range(count)), first * PAGE_BYTES)


def copy_pages(source: int, target: int, pages: Sequence[int]) -> set[int]:
    """Copy pages, which rise, from file to file; holes of the first stay what they are in the other.

    A page that cannot be read is left out: those, and what is in holes, are returned. Raises OSError if the other file
    cannot be written. Where the file system can share blocks between files, nothing is copied.
    """
    left: set[int] = set()
    for first, count in runs_of(pages):
        at, last = first, first + count
        for start, end in data_runs(source, first):
            if start >= last:
                break
            begin, end = max(start, first), min(end, last)
            left.update(range(at, begin))
            left |= _copy(source, target, begin * PAGE_BYTES, end * PAGE_BYTES)
            at = end
        left.update(range(at, last))
    return left


def _copy(source: int, target: int, offset: int, end: int) -> set[int]:
    left: set[int] = set()
    while offset < end:
        try:
            copied = os.copy_file_range(source, target, end - offset, offset, offset)
        except OSError:
            copied = 0  # not between these files, or for the reason that the next lines tell
        if copied == 0:
            copied = min(PAGE_BYTES - offset % PAGE_BYTES, end - offset)
            if not _copy_slowly(source, target, offset, copied):
                left.add(offset // PAGE_BYTES)
        offset += copied
    return left


def _copy_slowly(source: int, target: int, offset: int, count: int) -> bool:
    """Copy a part of a page; tell whether that is all of it."""
    try:
        content = os.pread(source, count, offset)
    except OSError:
        return False
    write_at(target, content, offset)
    return len(content) == count
