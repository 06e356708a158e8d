"""A primary's memory with its shadow and a backup's memory, joined by nothing but batches."""

import random
from array import array

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import BatchBuffers, Shadow, StagedCopy, capture_fused, encode_staged
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.units import PAGE_BYTES, pages_to_bytes

SMALL = Limits(batch_bytes=1 << 16, staging_bytes=1 << 22)


class World:
    def __init__(self, page_counts: tuple[int, ...] = (5, 12, 3), limits: Limits = SMALL) -> None:
        self.regions = [bytearray(pages_to_bytes(count)) for count in page_counts]
        self.memory = NativeMemory(self.regions)
        self.shadow = Shadow(page_counts)
        self.limits = limits
        self.buffers = BatchBuffers(limits)
        self.backup_regions = [bytearray(pages_to_bytes(count)) for count in page_counts]
        self.committed = CommittedMemory(NativeMemory(self.backup_regions))

    def write(self, page: int, offset: int, data: bytes) -> None:
        for region in self.regions:
            count = len(region) // PAGE_BYTES
            if page < count:
                at = page * PAGE_BYTES + offset
                region[at : at + len(data)] = data
                return
            page -= count

    def fill(self, seed: int) -> None:
        rng = random.Random(seed)
        for region in self.regions:
            region[:] = rng.randbytes(len(region))

    def everything(self) -> "array[int]":
        return array("I", range(self.memory.page_count))

    def capture(self, indices: "array[int]", *, staged: bool = False) -> tuple[PageBatch, ...]:
        if not staged:
            return capture_fused(self.memory, self.shadow, indices, limits=self.limits, buffers=self.buffers)
        copy = StagedCopy(max(len(indices), 1))
        copy.gather(self.memory, indices)
        return encode_staged(copy, self.shadow, limits=self.limits, buffers=self.buffers)

    def free(self, batches: tuple[PageBatch, ...]) -> None:
        for batch in batches:
            self.buffers.acknowledged(batch)
