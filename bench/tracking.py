"""What it costs to know which pages were written: scans, faults, and the policy for hot chunks.

python bench/tracking.py [--json] [--mib 1024]
"""

import argparse
import mmap
import random
from array import array
from typing import Any

from common import Row, fastest, report
from peers import open_peers

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker, Tracker, UserfaultTracker
from ftvm.errors import ConfigError

PAGE = 4096
HOT_MIB = 64
SCATTERED_PAGES = 2000
SETTLE_LOOKS = 40


class Bench:
    """Memory that a writer writes in epochs, under one tracker at a time."""

    def __init__(self, mib: int, peers: Any) -> None:
        self.peers, self.pages = peers, mib * 256
        self.guest = mmap.mmap(-1, self.pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = peers.ffi.from_buffer("uint8_t[]", self.guest)
        self.memory = NativeMemory([self.guest])
        self.value = 1
        self.touch_all()

    def touch_all(self) -> None:
        self.peers.lib.peer_touch(self.view, self.pages, 0, 1, self.next_value())

    def next_value(self) -> int:
        self.value += 1
        return self.value

    def touch(self, indices: Any, count: int) -> None:
        self.peers.lib.peer_touch_list(self.view, indices, count, self.next_value())


def scattered(bench: Bench, count: int, seed: int = 1) -> tuple[Any, int]:
    chosen = array("I", sorted(random.Random(seed).sample(range(bench.pages), count)))
    return bench.peers.ffi.from_buffer("uint32_t[]", chosen), count


def contiguous(bench: Bench, count: int) -> tuple[Any, int]:
    return bench.peers.ffi.from_buffer("uint32_t[]", array("I", range(count))), count


def scan_rows(bench: Bench) -> list[Row]:
    copy = mmap.mmap(-1, bench.pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy_view = bench.peers.ffi.from_buffer("uint8_t[]", copy)
    bench.peers.lib.peer_copy(bench.view, copy_view, bench.pages)
    tracker = UserfaultTracker(bench.memory)
    tracker.collect()
    some = scattered(bench, bench.pages // 10)
    found = fastest(
        {
            "clean": tracker.collect,
            "compare": lambda: bench.peers.lib.peer_scan(bench.view, copy_view, bench.pages),
        }
    )
    dirty = fastest({"scan": (lambda: bench.touch(*some), tracker.collect)})
    tracker.close()
    per_gib = 1024 / (bench.pages / 256) * 1e3
    return [
        Row(
            name="clean scan, a GiB",
            value=found["clean"] * per_gib,
            unit="ms",
            peer="memcmp with a copy",
            peer_value=found["compare"] * per_gib,
            goal="<= 0.005",
        ),
        Row(
            name="scan with 10 % dirty, above a clean one",
            value=(dirty["scan"] - found["clean"]) / some[1] * 1e9,
            unit="ns/page",
            peer="",
        ),
    ]


def fault_rows(bench: Bench) -> list[Row]:
    some = scattered(bench, bench.pages // 20)
    bare = fastest({"write": lambda: bench.touch(*some)})["write"]
    tracker = UserfaultTracker(bench.memory, has_hot_chunks=False)
    tracker.collect()
    found = fastest({"write": (tracker.collect, lambda: bench.touch(*some))})
    tracker.close()
    return [
        Row(
            name="first write to a protected page",
            value=found["write"] / some[1] * 1e9,
            unit="ns",
            peer="the same write, not protected",
            peer_value=bare / some[1] * 1e9,
        )
    ]


def epoch_seconds(bench: Bench, tracker: Tracker, pages: tuple[Any, int]) -> float:
    """Guest time plus pause of one epoch: what writing costs under this tracker, and its look."""

    def epoch() -> None:
        bench.touch(*pages)
        tracker.collect()

    for _ in range(SETTLE_LOOKS):
        epoch()
    # Sixteen epochs at a time: one in sixteen pays for a probe.
    return fastest({"epochs": lambda: [epoch() for _ in range(16)]})["epochs"] / 16


def policy_rows(bench: Bench) -> list[Row]:
    cases = [
        (f"{HOT_MIB} MiB hot", contiguous(bench, HOT_MIB * 256), "<= 0.4"),
        ("no hot area", scattered(bench, SCATTERED_PAGES), "<= 1.1"),
    ]
    rows = []
    for name, pages, goal in cases:
        seconds = {}
        for has_hot_chunks in (False, True):
            tracker = UserfaultTracker(bench.memory, has_hot_chunks=has_hot_chunks)
            seconds[has_hot_chunks] = epoch_seconds(bench, tracker, pages)
            tracker.close()
        rows.append(
            Row(
                name=f"hot chunks, {name}: guest time + pause",
                value=seconds[True] * 1e3,
                unit="ms/epoch",
                peer="always protecting",
                peer_value=seconds[False] * 1e3,
                goal=goal,
            )
        )
    return rows


def compare_rows(bench: Bench) -> list[Row]:
    tracker = CompareTracker(bench.memory)
    some = scattered(bench, SCATTERED_PAGES)
    faults = UserfaultTracker(bench.memory)
    with_faults = epoch_seconds(bench, faults, some)
    faults.close()
    with_compare = epoch_seconds(bench, tracker, some)
    return [
        Row(
            name=f"{SCATTERED_PAGES} scattered pages an epoch, write faults",
            value=with_faults * 1e3,
            unit="ms/epoch",
            peer="comparison",
            peer_value=with_compare * 1e3,
        )
    ]


def measure(arguments: argparse.Namespace) -> list[Row]:
    bench = Bench(arguments.mib, open_peers())
    try:
        return scan_rows(bench) + fault_rows(bench) + policy_rows(bench) + compare_rows(bench)
    except ConfigError as error:
        return [Row(name="write faults", value=None, unit="", peer="", note=f"not measured: {error}")]


if __name__ == "__main__":
    report("Dirty tracking", measure, ("mib", int, 1024))
