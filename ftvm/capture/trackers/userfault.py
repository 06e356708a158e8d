"""Write faults that the kernel resolves by itself and remembers: Linux 6.7 and later, for memory that others write.

Wraps the native noun `tracker` (tracker.h is its manual, and has the policy for hot chunks).
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftvm._native import ffi, lib
from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Bitmap
from ftvm.errors import ClosedError, ConfigError, TrackingLost
from ftvm.units import PAGE_BYTES

__all__ = ["OtherProcess", "UserfaultTracker"]

_MISSING = {
    lib.FTVM_TRACKER_CREATE: "the userfaultfd system call is refused: the kernel needs CONFIG_USERFAULTFD, and a "
    "container's seccomp profile must allow it",
    lib.FTVM_TRACKER_FEATURES: "userfaultfd has no asynchronous write protection (UFFD_FEATURE_WP_ASYNC): "
    "it came with Linux 6.7 on x86-64 and arm64",
    lib.FTVM_TRACKER_PAGEMAP: "/proc/self/pagemap cannot be opened: is /proc mounted, and readable for this user?",
    lib.FTVM_TRACKER_REGISTER: "the memory cannot be write-protected: it must be page-aligned and anonymous or shared "
    "memory, and tracked by nobody else",
    lib.FTVM_TRACKER_SCAN: "the kernel has no PAGEMAP_SCAN: it came with Linux 6.7",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherProcess:
    """Another process that has the memory mapped, and writes to it.

    userfault  a userfaultfd that it has made and not used; the tracker's from now on, as is
    pagemap    its /proc/PID/pagemap, open
    starts     where it has each region, in its own addresses
    """

    userfault: int
    pagemap: int
    starts: Sequence[int]


class UserfaultTracker:
    """Asks the kernel which pages were written. Sees system calls, other threads and MADV_DONTNEED.

    A mapping that replaced part of the memory raises TrackingLost at the next `collect`. Holes punched into shared
    memory (MADV_REMOVE, a balloon's fallocate) are not seen: whoever punches them must `restore` those pages.

    Costs about 1 us for the first write to a page after each look, and 0.3 ms per GiB and look; best below a quarter of
    the memory written per epoch. Hotter chunks of 2 MiB are reported whole.
    """

    name = "userfault"

    def __init__(
        self, memory: NativeMemory, *, has_hot_chunks: bool = True, writer: OtherProcess | None = None
    ) -> None:
        """Start tracking what this process writes, or `writer`, through its own mappings.

        Raises ConfigError that names what this kernel, user or memory lacks; the writer's descriptors are closed then.
        """
        self._memory = memory
        bases = [memory.native.regions[number].base for number in range(len(memory.page_counts))]
        step = ffi.new("enum ftvm_tracker_step *")
        self._native: Any = ffi.new("struct ftvm_tracker *", (-1, -1))
        if writer is None:
            error = lib.ftvm_tracker_open(self._native, memory.native, step)
        else:
            bases = [ffi.cast("uint8_t *", start) for start in writer.starts]
            rows = [(base, 0, count) for base, count in zip(bases, memory.page_counts, strict=True)]
            regions = ffi.new("struct ftvm_region[]", rows)
            self._native.userfault, self._native.pagemap = writer.userfault, writer.pagemap
            elsewhere = ffi.new("struct ftvm_memory *", (regions, len(rows), memory.page_count))
            error = lib.ftvm_tracker_adopt(self._native, elsewhere, step)
        if error:
            raise ConfigError(f"tracker 'userfault' is not available: {_MISSING[step[0]]} ({_errno_name(error)})")
        self._starts = [int(ffi.cast("uintptr_t", base)) for base in bases]
        # A chunk may begin anywhere in its region: what counts is how much of it is written, not how it is mapped.
        self._chunks = [_chunk_states(count) if has_hot_chunks else ffi.NULL for count in memory.page_counts]
        self._restored: Bitmap | None = None

    def collect(self) -> Bitmap:
        """See Tracker."""
        if self._native.pagemap < 0:
            raise ClosedError("the tracker is closed")
        found = Bitmap.empty(self._memory.page_counts)
        for number, words in enumerate(found.words):
            self._scan(number, words)
        restored, self._restored = self._restored, None
        return found if restored is None else found | restored

    def restore(self, bitmap: Bitmap) -> None:
        """See Tracker."""
        self._restored = bitmap if self._restored is None else self._restored | bitmap

    def close(self) -> None:
        """See Tracker."""
        lib.ftvm_tracker_close(self._native)

    def _scan(self, number: int, words: bytearray) -> None:
        page_count = self._memory.page_counts[number]
        error = lib.ftvm_tracker_scan(
            self._native.pagemap,
            self._starts[number],
            page_count,
            self._chunks[number],
            ffi.from_buffer("uint64_t[]", words),
        )
        if error:
            size_mib = page_count * PAGE_BYTES >> 20
            raise TrackingLost(
                f"memory region {number} ({size_mib} MiB) is not tracked any more ({_errno_name(error)}): "
                "part of it was mapped again; only a full copy helps"
            )


def _chunk_states(page_count: int) -> Any:
    return ffi.new("uint8_t[]", -(-page_count // int(lib.FTVM_TRACKER_CHUNK_PAGES)))


def _errno_name(error: int) -> str:
    return errno.errorcode.get(-error, str(-error))
