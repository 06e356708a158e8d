"""Disks on a block device, and what is on them."""

from pathlib import Path

from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.units import PAGE_BYTES

PAGES = 64


SIZE = PAGES * PAGE_BYTES


def change(disk: Disk | KeptDisk, *pages: int, fill: int) -> None:
    """Write pages as a commit does: behind the disk's back."""
    buffer = disk.buffer if isinstance(disk, Disk) else disk.memory.buffer
    for page in pages:
        buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([fill]) * PAGE_BYTES


def pages_of(content: bytes | memoryview) -> list[int]:
    """Return the first byte of each page."""
    return list(bytes(content)[::PAGE_BYTES])


def copied(device: Path, pages: dict[int, int], *, kept: tuple[int, ...] = ()) -> Disk:
    """Return a standby's disk that has been copied: these pages, and those that it kept."""
    disk = Disk(str(device), boots=False)
    disk.discarded()
    assert list(disk.held()) == [(0, PAGES)]
    disk.offer(0, PAGES)
    disk.keep(0, PAGES, list(kept))
    for page, fill in pages.items():
        change(disk, page, fill=fill)
    disk.committed(sorted(pages))
    return disk
