"""What a guest that executes the log here (lockstep) has written up to a mark: its pages, whole.

No delta comes with such an epoch. The pages are copied while the guest stands at the mark, and written as they are: so
a base may be read out of the same memory at any time, also between two marks (basing.py). A page that was changed when
it was read, and changed back before the next mark, was written all the same, and comes whole with that mark.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.capture.pages import StagedCopy
from ftvm.checkpoint import PageBatch
from ftvm.units import PAGE_BYTES

__all__ = ["copy_pages", "whole_pages"]

_RAW: Final = b"\x30"
"""The form of a delta that carries all of a page (ftvm/_native/delta.h)."""


def copy_pages(memory: NativeMemory, written: Sequence[int]) -> StagedCopy:
    """Return a copy of pages of a guest that stands still; at least one, in rising order. About 1 us a page."""
    copy = StagedCopy(len(written))
    copy.gather(memory, array("I", written))
    return copy


def whole_pages(copy: StagedCopy) -> PageBatch:
    """Return a batch that makes the pages what they are in the copy, whatever they were before."""
    content, count = copy.content, len(copy.indices)
    indices = copy.indices.tobytes()
    lengths = array("H", [len(_RAW) + PAGE_BYTES]).tobytes() * count
    payload = b"".join(
        part for at in range(0, len(content), PAGE_BYTES) for part in (_RAW, content[at : at + PAGE_BYTES])
    )
    return PageBatch(
        count=count,
        indices=indices,
        lengths=lengths,
        payload=payload,
        digest=batch_digest(indices, lengths, payload),
    )
