"""The memory that a monitor hands over: checked, then mapped.

Promises: a region that is mapped stays as large as it is, whatever the monitor does: its file is sealed against
shrinking, and an access never ends this process (SIGBUS). What was refused is closed.

Source: memfd_create(2), fcntl(2) "File Sealing".
"""

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

from ftvm.errors import BadFrame
from ftvm.guests.vmm.messages import HandedRegion
from ftvm.units import PAGE_BYTES, PageCount

__all__ = ["HandedMemory", "map_regions", "require_descriptor"]

_SIZE_MAX: Final = 1 << 62


class HandedMemory:
    """One region, mapped. The mapping goes with the last view of it."""

    def __init__(self, region: HandedRegion, descriptor: int) -> None:
        """Map it; the descriptor stays the caller's. Raises BadFrame."""
        self.name = region.name
        self.page_count = PageCount(region.page_count)
        size = region.page_count * PAGE_BYTES
        _require_sealed(region, descriptor, size)
        try:
            self.buffer = memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED))
        except (OSError, ValueError) as wrong:
            raise BadFrame(f"the memory of region {region.name} cannot be mapped for writing: {wrong}") from wrong


def map_regions(
    regions: Sequence[HandedRegion], descriptors: Sequence[int], memory_bytes_max: int
) -> tuple[HandedMemory, ...]:
    """Map all regions. Raises BadFrame, also if they take more than the limit or share a file."""
    wanted = sum(region.page_count for region in regions) * PAGE_BYTES
    if wanted > memory_bytes_max:
        raise BadFrame(
            f"the monitor hands over {-(-wanted // (1 << 20))} MiB of memory, {memory_bytes_max >> 20} MiB are allowed "
            "here: raise `memory`"
        )
    files = {(status.st_dev, status.st_ino) for status in map(os.fstat, descriptors)}
    if len(files) < len(descriptors):
        raise BadFrame("two regions are one and the same memory")
    return tuple(HandedMemory(region, each) for region, each in zip(regions, descriptors, strict=True))


def require_descriptor(descriptor: int, what: str, target: str) -> None:
    """Raise BadFrame unless a descriptor is of that kind, by what the kernel calls it."""
    named = os.readlink(f"/proc/self/fd/{descriptor}")
    if not (named.startswith("/proc/") and named.endswith(target) if target.startswith("/") else named == target):
        raise BadFrame(f"what was passed as the {what} is {named!r:.80}")


def _require_sealed(region: HandedRegion, descriptor: int, size: int) -> None:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as wrong:
        raise BadFrame(f"the memory of region {region.name} is no memfd") from wrong
    status = os.fstat(descriptor)
    if not seals & fcntl.F_SEAL_SHRINK:
        raise BadFrame(f"the memory of region {region.name} is not sealed against shrinking (F_SEAL_SHRINK)")
    if status.st_blksize != PAGE_BYTES:
        raise BadFrame(f"region {region.name} has pages of {status.st_blksize} bytes: huge pages cannot be protected")
    if status.st_size < size or size > _SIZE_MAX:
        raise BadFrame(f"region {region.name} is said to have {size} bytes, its memory has {status.st_size}")
