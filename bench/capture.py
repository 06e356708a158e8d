"""Capturing scattered dirty pages: gather, fused and staged capture, the price of the memory digest, and of a small
epoch.

python bench/capture.py [--json] [--mib 256]
"""

import argparse
import mmap
import random
from array import array
from typing import Any

from common import Row, fastest, report
from peers import open_peers

from ftvm._native import ffi, lib
from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import BatchBuffers, Shadow, StagedCopy, capture_fused, encode_staged
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory

PAGE = 4096
LIMITS = Limits(batch_bytes=1 << 20, staging_bytes=1 << 28)
CHANGES_PER_PAGE = 6


def anonymous(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Bench:
    """A guest's memory with its shadow, and a list of pages to dirty before each round."""

    def __init__(self, pages: int, peers: Any) -> None:
        self.peers, self.pages = peers, pages
        self.guest = anonymous(pages * PAGE)
        filler = random.Random(1).randbytes(64 * PAGE)
        for at in range(0, pages * PAGE, len(filler)):
            self.guest[at : at + len(filler)] = filler[: pages * PAGE - at]
        self.memory = NativeMemory([self.guest])
        self.shadow = Shadow([pages])
        self.shadow_view = peers.ffi.cast("uint8_t *", int(ffi.cast("uintptr_t", self.shadow.native.pages)))
        self.guest_view = peers.ffi.from_buffer("uint8_t[]", self.guest)
        self.buffers = BatchBuffers(LIMITS)
        self.staging = anonymous(pages * PAGE)
        self.staging_view = peers.ffi.from_buffer("uint8_t[]", self.staging)
        self.copy = StagedCopy(pages)
        self.payload = peers.ffi.new("uint8_t[]", pages * 512 + (1 << 20))
        self.entries = (ffi.new("uint32_t[]", pages), ffi.new("uint16_t[]", pages))
        self.batch = ffi.new("struct ftvm_batch *")
        self.batch.indices, self.batch.lengths = self.entries
        self.batch.payload = ffi.cast("uint8_t *", int(peers.ffi.cast("uintptr_t", self.payload)))
        self.batch.entry_capacity, self.batch.payload_capacity = pages, len(self.payload)
        self.scratch = peers.ffi.new("uint8_t[]", PAGE)
        self.indices = array("I", range(pages))
        self.value = 1
        for at in range(0, pages, 16384):
            self.free(self.fused(array("I", range(at, min(pages, at + 16384)))))
        number = 0
        while lib.ftvm_delta_codec(number + 1) != ffi.NULL:
            number += 1
        self.encode = int(ffi.cast("uintptr_t", lib.ftvm_delta_codec(number).encode))

    def choose(self, count: int) -> None:
        self.indices = array("I", sorted(random.Random(count).sample(range(self.pages), count)))
        self.list = self.peers.ffi.from_buffer("uint32_t[]", self.indices)

    def dirty(self) -> None:
        for _ in range(CHANGES_PER_PAGE):
            self.value = (self.value * 5 + 3) % (1 << 31)
            self.peers.lib.peer_touch_list(self.guest_view, self.list, len(self.indices), self.value)

    def fused(self, indices: "array[int] | None" = None) -> tuple[PageBatch, ...]:
        chosen = self.indices if indices is None else indices
        return capture_fused(self.memory, self.shadow, chosen, limits=LIMITS, buffers=self.buffers)

    def free(self, batches: tuple[PageBatch, ...]) -> None:
        for batch in batches:
            self.buffers.acknowledged(batch)

    def fused_and_free(self) -> None:
        self.free(self.fused())

    def native_fused(self) -> None:
        """Fused capture as C does it: encoding and the memory digest, without Python and the batch's own digest."""
        self.batch.entry_count = self.batch.payload_bytes = 0
        cells = ffi.from_buffer("uint32_t[]", self.indices)
        done = lib.ftvm_capture_fused(self.memory.native, self.shadow.native, cells, len(self.indices), self.batch)
        assert done == len(self.indices)

    def encode_only(self) -> None:
        self.peers.lib.peer_encode_list(
            self.encode, self.guest_view, self.shadow_view, self.list, len(self.indices), self.payload
        )

    def three_passes(self) -> None:
        self.peers.lib.peer_three_passes(
            self.encode,
            self.guest_view,
            self.shadow_view,
            self.list,
            len(self.indices),
            self.staging_view,
            self.scratch,
            self.payload,
        )

    def gather(self) -> None:
        self.copy.gather(self.memory, self.indices)

    def encode_staged(self) -> None:
        self.free(encode_staged(self.copy, self.shadow, limits=LIMITS, buffers=self.buffers))

    def contiguous(self) -> None:
        self.peers.lib.peer_copy(self.guest_view, self.staging_view, len(self.indices))

    def page_by_page(self) -> None:
        self.peers.lib.peer_gather(self.guest_view, self.list, len(self.indices), self.staging_view)


def gather_rows(bench: Bench, percent: int, goal: str) -> list[Row]:
    bench.choose(bench.pages * percent // 100)
    found = fastest({"gather": bench.gather, "contiguous": bench.contiguous, "memcpy": bench.page_by_page}, 21)
    count = len(bench.indices)
    value, flat, each = (found[name] / count * 1e9 for name in ("gather", "contiguous", "memcpy"))
    return [
        Row(
            name=f"gather, {percent} % dirty",
            value=value,
            unit="ns/page",
            peer="memcpy of as much in one piece",
            peer_value=flat,
            goal=goal,
        ),
        Row(
            name=f"gather, {percent} % dirty",
            value=value,
            unit="ns/page",
            peer="one memcpy a page",
            peer_value=each,
        ),
    ]


def fused_rows(bench: Bench, percent: int) -> list[Row]:
    bench.choose(bench.pages * percent // 100)
    count = len(bench.indices)
    found = fastest(
        {
            "fused": (bench.dirty, bench.fused_and_free),
            "native": (bench.dirty, bench.native_fused),
            "no digest": (bench.dirty, bench.encode_only),
            "three passes": (bench.dirty, bench.three_passes),
            "gather": (bench.dirty, bench.gather),
            "staged": bench.encode_staged,
        },
        15,
    )
    time = {name: seconds / count * 1e9 for name, seconds in found.items()}
    name = f"fused capture, {percent} % dirty"
    return [
        Row(
            name=f"{name}, speed without digest",
            value=1e3 / time["no digest"],
            unit="pages/us",
            peer="copy, encode, update the shadow",
            peer_value=1e3 / time["three passes"],
            goal=">= 2",
        ),
        Row(
            name=f"{name}, with the memory digest",
            value=time["native"],
            unit="ns/page",
            peer="the same without",
            peer_value=time["no digest"],
            goal="<= 1.25",
        ),
        Row(
            name=f"{name}, the whole call from Python",
            value=time["fused"],
            unit="ns/page",
            peer="as C does it",
            peer_value=time["native"],
        ),
        Row(
            name=f"staged capture, {percent} % dirty: pause",
            value=time["gather"],
            unit="ns/page",
            peer="fused",
            peer_value=time["fused"],
            note=f"and {time['staged']:.0f} ns/page afterwards",
        ),
    ]


def small_epoch_rows(bench: Bench) -> list[Row]:
    bench.choose(200)
    committed = CommittedMemory(NativeMemory([anonymous(bench.pages * PAGE)]))
    found = fastest({"fused": (bench.dirty, bench.fused_and_free), "copy": bench.page_by_page}, 101)
    bench.dirty()
    batches = bench.fused()
    apply = fastest({"verify": lambda: committed.verify(batches, None)}, 21)
    bench.free(batches)
    return [
        Row(
            name="fused capture of 200 pages, the whole call",
            value=found["fused"] * 1e6,
            unit="us",
            peer="copying the pages",
            peer_value=found["copy"] * 1e6,
            note=f"{25_000 / (found['fused'] * 1e6):.0f} times in a 25 ms epoch",
        ),
        Row(
            name="verify of those on the backup",
            value=apply["verify"] * 1e6,
            unit="us",
            peer="copying the pages",
            peer_value=found["copy"] * 1e6,
        ),
    ]


def measure(arguments: argparse.Namespace) -> list[Row]:
    bench = Bench(arguments.mib * 256, open_peers())
    rows = gather_rows(bench, 10, "<= 1.15") + gather_rows(bench, 1, "<= 1.7")
    for percent in (10, 1):
        rows += fused_rows(bench, percent)
    return rows + small_epoch_rows(bench)


if __name__ == "__main__":
    report("Capture of scattered dirty pages", measure, ("mib", int, 256))
