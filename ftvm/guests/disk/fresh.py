"""The copy of a disk that grows beside its image: a file that takes its place, or a stage that goes to a device.

A device cannot be replaced by another in an instant. So its copy is a file in its folder, with only what the device
does not have; once that is whole and durable, it is moved to the device. A crash meanwhile leaves both, and whoever
opens the device next moves it again from the first page on.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm._native import blockstore
from ftvm.guests.disk.blocks import copy_pages, data_runs, runs_of, write_pages
from ftvm.guests.disk.files import make_image
from ftvm.guests.disk.label import sync_directory, write_at
from ftvm.units import PAGE_BYTES, PageCount, pages_to_bytes

__all__ = ["DeviceCopy", "Fresh", "Kept", "finish_stage"]

_PIECE_PAGES: Final = 256
_SLICE_PAGES: Final = 2048
_FLAGS_AT_ONCE: Final = 65_536
_KEPT_PAGES_MIN: Final = 16
_KEPT_RUNS_MAX: Final = 8192
"""Shorter runs, and what would be more runs, are copied: each is a separate mapping, and a process has 65,530."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of pages that are the same in the image.

    runs  (first page, count) that are to be read from the image still
    left  pages that could not be read
    """

    runs: Sequence[tuple[int, int]] = ()
    left: AbstractSet[int] = frozenset()


class Fresh:
    """A file as large as the image, of zeros, with its owner and mode. Raises OSError."""

    def __init__(self, path: Path, model: int, size_bytes: int) -> None:
        self.descriptor = make_image(path, model, size_bytes)

    def keep(self, image: int, pages: Sequence[int]) -> Kept:
        """Take pages, which rise, that are the same in the image. Raises OSError if this file cannot be written."""
        return Kept(left=copy_pages(image, self.descriptor, pages))

    def write(self, step: Mapping[int, bytes]) -> None:
        """Write pages to their places."""
        write_pages(self.descriptor, step)

    def seal(self) -> None:
        """It is whole: have all of it on its device. Raises OSError."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class DeviceCopy(Fresh):
    """What a device is to have: behind the pages a flag for each, 1 if the device has it already.

    over  pages that the device had, and that were written since: the device does not show them
    """

    def __init__(self, path: Path, page_count: PageCount, model: int | None) -> None:
        """Make it like the device `model`, or with None open one that is there. Raises OSError."""
        self._page_count = page_count
        size_bytes = pages_to_bytes(page_count) + page_count
        if model is not None:
            super().__init__(path, model, size_bytes)
        else:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._has = bytearray(page_count)
        if model is None:
            flags = os.pread(self.descriptor, page_count + 1, pages_to_bytes(page_count))
            if len(flags) != page_count:
                self.close()
                raise OSError(errno.EINVAL, f"{path} was made for a device of another size")
            self._has[:] = flags
        self.over: set[int] = set()
        self._run_count = 0
        self._next = 0

    def keep(self, image: int, pages: Sequence[int]) -> Kept:
        """As Fresh.keep: long runs stay where they are."""
        kept: list[tuple[int, int]] = []
        left: set[int] = set()
        for first, end in _joined(runs_of(pages)):
            if end - first < _KEPT_PAGES_MIN or self._run_count == _KEPT_RUNS_MAX:
                left |= copy_pages(image, self.descriptor, range(first, end))
                continue
            self._has[first:end] = b"\1" * (end - first)
            self._run_count += 1
            kept.append((first, end - first))
        return Kept(runs=kept, left=left)

    def write(self, step: Mapping[int, bytes]) -> None:
        """As Fresh.write."""
        super().write(step)
        for page in step:
            if self._has[page]:
                self._has[page] = 0
                self.over.add(page)

    def passed_by(self, step: Mapping[int, bytes]) -> None:
        """Note, durably, that the device has newer content of pages. Raises OSError."""
        for page in step:
            self._has[page] = 1
            write_at(self.descriptor, b"\1", pages_to_bytes(self._page_count) + page)
        os.fdatasync(self.descriptor)

    def seal(self) -> None:
        """As Fresh.seal."""
        begin = pages_to_bytes(self._page_count)
        for first in range(0, self._page_count, _FLAGS_AT_ONCE):
            flags = self._has[first : first + _FLAGS_AT_ONCE]
            if any(flags):
                write_at(self.descriptor, flags, begin + first)
        super().seal()

    def move(self, device: int) -> bool:
        """Move the next of it to the device; tell whether there is more. Raises OSError.

        At the end the device is synced.
        """
        first = self._has.find(b"\0", self._next)
        if first < 0:
            os.fdatasync(device)
            return False
        end = self._has.find(b"\1", first, first + _SLICE_PAGES)
        end = min(first + _SLICE_PAGES, self._page_count) if end < 0 else end
        at = first
        for start, stop in data_runs(self.descriptor, first):
            start, stop = max(start, first), min(stop, end)
            if start >= end:
                break
            _make_zero(device, at, start)
            for piece in range(start, stop, _PIECE_PAGES):
                count = min(_PIECE_PAGES, stop - piece)
                content = os.pread(self.descriptor, pages_to_bytes(count), piece * PAGE_BYTES)
                write_at(device, content, piece * PAGE_BYTES)
            at = stop
        _make_zero(device, at, end)
        self._next = end
        return True


def finish_stage(path: Path, device: int, page_count: PageCount) -> None:
    """Move to the device what a crash has left on its way there. Raises OSError."""
    if not path.exists():
        return
    stage = DeviceCopy(path, page_count, None)
    try:
        while stage.move(device):
            pass
    finally:
        stage.close()
    path.unlink()
    sync_directory(path.parent)


def _make_zero(device: int, first: int, end: int) -> None:
    if first < end:
        blockstore.make_zero(device, (end - first) * PAGE_BYTES, first * PAGE_BYTES)


def _joined(runs: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield runs (first page, count) as first page and end, those that touch as one."""
    begin, end = -1, -1
    for first, count in runs:
        if first != end:
            if begin >= 0:
                yield begin, end
            begin = first
        end = first + count
    if begin >= 0:
        yield begin, end
