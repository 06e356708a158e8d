"""Memory that QEMU and this process both have mapped, and where it lies in QEMU.

A `SharedMemory` is an unnamed file in memory: it lives for as long as a process has it open or mapped, and leaves
nothing behind, however those end. Its size is sealed: a compromised QEMU cannot shrink it, which would kill this
process at its next access (SIGBUS). Knows nothing of QEMU but its entry in /proc.

Source: memfd_create(2), fcntl(2) "File Sealing", proc_pid_maps(5).
"""

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

from ftvm.checkpoint import Bitmap
from ftvm.errors import GuestError
from ftvm.units import bytes_to_pages

__all__ = ["SharedMemory", "joined", "parted"]

_MAPS_LINES_MAX: Final = 65_536
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SharedMemory:
    """So many bytes, zero at first, and never more or fewer, whoever has the file."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name = name
        self.page_count = bytes_to_pages(size_bytes)
        self.descriptor = os.memfd_create(f"ftvm-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size_bytes)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.descriptor, size_bytes, mmap.MAP_SHARED)
        self.buffer = memoryview(self._map)

    def address_in(self, pid: int) -> int:
        """Return where process `pid` has this memory mapped, whole and in one piece. Raises GuestError."""
        status = os.fstat(self.descriptor)
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        start = end = None
        for line in _maps_of(pid):
            addresses, _, offset, mapped_device, inode, *_ = line.split(maxsplit=5)
            if int(inode) != status.st_ino or mapped_device != device:
                continue
            first, last = (int(address, 16) for address in addresses.split("-"))
            if start is None and int(offset, 16) == 0:
                start, end = first, last
            elif start is not None and first == end and int(offset, 16) == first - start:
                end = last  # one mapping, shown in pieces
        if start is None or end is None or end - start != status.st_size:
            raise GuestError(f"process {pid} has not mapped all of the guest's {self.name}")
        return start

    def close(self) -> None:
        """Close the file. The mapping goes with the last view of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _maps_of(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            return maps.read().splitlines()[:_MAPS_LINES_MAX]
    except OSError as wrong:
        raise GuestError(f"the memory map of QEMU (process {pid}) cannot be read: {wrong.strerror}") from wrong


def joined(parts: Sequence[Bitmap]) -> Bitmap:
    """Return the bitmap of a guest, given that of each region."""
    counts = tuple(count for part in parts for count in part.page_counts)
    return Bitmap(counts, tuple(words for part in parts for words in part.words))


def parted(bitmap: Bitmap) -> tuple[Bitmap, ...]:
    """Return that of each region."""
    return tuple(Bitmap((count,), (words,)) for count, words in zip(bitmap.page_counts, bitmap.words, strict=True))
