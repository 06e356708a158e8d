"""A file as memory that may be changed without changing the file. Wraps the native noun `mapping` (mapping.h is its
manual): what was written and not dropped is this process's own, the rest is the system's cache; a page that the device
cannot read is zeros, and counted as lost, and ends nobody.
"""

import mmap
import os
from collections.abc import Iterable

from ftvm._native import ffi, lib
from ftvm.errors import GuestError

__all__ = ["FileMapping"]

_NO_RESERVE = 0x4000
"""MAP_NORESERVE: a disk may be larger than what the system would promise."""


class FileMapping:
    """So many bytes, whole pages; zeros until a file is shown.

    memory  all of it
    buffer  a view of it; it lives for as long as that does
    number  the native mapping, for the modules that wrap other nouns
    """

    __slots__ = ("buffer", "memory", "number")

    def __init__(self, size_bytes: int) -> None:
        """Make it. Raises GuestError if the system has no room for it."""
        try:
            self.memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        except OSError as wrong:
            raise GuestError(f"no address space for a disk of {size_bytes} bytes: {wrong.strerror}") from wrong
        self.buffer = memoryview(self.memory)
        self.number = int(lib.ftvm_mapping_guard(ffi.from_buffer("uint8_t[]", self.memory), size_bytes))
        if self.number < 0:
            raise GuestError(f"a disk cannot be mapped: {os.strerror(-self.number)}")

    @property
    def lost_pages(self) -> int:
        """How many pages could not be read since the file was shown; each reads as zeros."""
        return int(lib.ftvm_mapping_lost(self.number))

    def show(self, image: int | None) -> None:
        """Show a file from its first byte on, or zeros; what was written is gone. Raises GuestError."""
        wrong = lib.ftvm_mapping_show(self.number, -1 if image is None else image)
        if wrong < 0:
            raise GuestError(f"a disk's image cannot be mapped: {os.strerror(-wrong)}")

    def show_part(self, image: int, first: int, count: int) -> None:
        """As `show`, of so many pages from `first` on alone; what was lost so far is forgotten. Raises GuestError."""
        wrong = lib.ftvm_mapping_show_part(self.number, image, first, count)
        if wrong < 0:
            raise GuestError(f"a disk's image cannot be mapped: {os.strerror(-wrong)}")

    def show_under(self, image: int, own: bytearray) -> None:
        """Show another file with the same content, but for pages that have a flag in `own`: what was written to them
        stays. Nobody may write meanwhile. Raises GuestError."""
        wrong = lib.ftvm_mapping_show_under(self.number, image, ffi.from_buffer("uint8_t[]", own))
        if wrong < 0:
            raise GuestError(f"a disk's image cannot be mapped: {os.strerror(-wrong)}")

    def drop(self, runs: Iterable[tuple[int, int]]) -> None:
        """Show the file again in runs of pages (first page, count): what was written to them is gone."""
        for first, count in runs:
            lib.ftvm_mapping_drop(self.number, first, count)

    def close(self) -> None:
        """Show zeros, and guard it no longer. Idempotent."""
        if self.number >= 0:
            lib.ftvm_mapping_show(self.number, -1)
            lib.ftvm_mapping_unguard(self.number)
            self.number = -1
