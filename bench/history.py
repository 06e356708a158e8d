"""A history: what it writes, restores and costs, beside SQLite and LMDB as stores of the same epochs.

python bench/history.py [--json] [--epochs 4000] [--mib 64]

The epochs are those of the built-in machine running `dirty` (a few hundred pages in 25 ms each), captured as for a
standby, and told as 40 a second: minutes of a history in a few seconds. What the operating system was asked to write is
counted, thinning included.
"""

import argparse
import mmap
import os
import random
import resource
import socket
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import lz4.block
from common import Row, report

from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.capture.pages import BatchBuffers, Shadow, capture_fused
from ftvm.checkpoint import Checkpoint, Commit, Geometry, PageBatch, RegionShape
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.merge import join_batches, merge_batches
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.history.basing import PortionReader
from ftvm.history.history import History
from ftvm.history.pipeline import Pipeline, Queued
from ftvm.history.recorder import HistoryRecorder
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import Keep
from ftvm.store.store import CATALOGUE, HistoryOwner, Store
from ftvm.units import PageCount

try:
    import lmdb
except ImportError:
    lmdb = None

PAGE = 4096
SECOND_NS = 1_000_000_000
EPOCHS_A_SECOND = 40
GROUP = 40
ACKNOWLEDGED = 1_000
"""So many commits are acknowledged, a hundred a second."""


@dataclass
class Epochs:
    """Commits of one machine, and the memory that they lead to."""

    geometry: Geometry
    commits: list[Commit]

    @property
    def delta_bytes(self) -> int:
        return sum(batch.size_bytes for commit in self.commits for batch in commit.checkpoint.batches)


class Nobody:
    """A sink for outputs that nobody wants."""

    def emit(self, *_: object) -> None: ...
    def took_input(self, *_: object) -> None: ...
    def moved_clock(self, *_: object) -> None: ...
    def warn(self, *_: object) -> None: ...
    def may_wait(self, *_: object) -> bool: ...


def epochs_of(count: int, mib: int, pages: int = 8192) -> Epochs:
    """Run a machine for `count` epochs, captured every 25 ms by its own clock."""
    guest = RiscvGuest(
        read_program("dirty"), memory_bytes=mib << 20, mac=None, command_line=f"pages={pages} rate=400000 pattern=hot"
    )
    guest.attach(Nobody())
    memory = NativeMemory([region.buffer for region in guest.memory])
    shadow, limits = Shadow(memory.page_counts), Limits()
    buffers = BatchBuffers(limits)
    commits = []
    for epoch in range(1, count + 1):
        guest.resume()
        time.sleep(0.005)
        guest.pause()
        dirty = bitmap_indices(guest.collect_dirty())
        batches = capture_fused(memory, shadow, dirty, limits=limits, buffers=buffers)
        kept = tuple(copied(batch) for batch in batches)
        buffers.acknowledged(*batches)
        checkpoint = Checkpoint(
            epoch=epoch, base=epoch - 1, engine="remus", batches=kept, devices=guest.save_devices(), outputs=(),
            output_next=1, log_index=0, memory_digest=shadow.memory_digest, dirty_pages=len(dirty),
            position=guest.position,
        )  # fmt: skip
        commits.append(Commit(checkpoint=checkpoint, is_first=epoch == 1, lineage="bench"))
    guest.close()
    return Epochs(guest.geometry, commits)


def copied(batch: PageBatch) -> PageBatch:
    return PageBatch(
        count=batch.count,
        indices=bytes(batch.indices),
        lengths=bytes(batch.lengths),
        payload=bytes(batch.payload),
        digest=batch.digest,
    )


class Standby:
    """Memory that commits the epochs, as a standby's does."""

    def __init__(self, geometry: Geometry) -> None:
        self.memory = NativeMemory([mmap.mmap(-1, geometry.page_count * PAGE)])
        self.committed = CommittedMemory(self.memory)

    def commit(self, commit: Commit) -> None:
        for batch in commit.checkpoint.batches:
            self.committed.replay(batch)


def process_bytes() -> int:
    """Return what this process has had written, through whatever library."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise RuntimeError("no wchar in /proc/self/io")


def recorded(epochs: Epochs, folder: Path, keep: Keep) -> tuple[int, float]:
    """Record all epochs, at 40 a second by their own clock; return the bytes written and the CPU seconds."""
    store = Store(folder, writes=True, creates=True)
    store.claim(HistoryOwner(guest_id="bench", geometry=epochs.geometry))
    calls = [0]
    standby = Standby(epochs.geometry)
    pipeline = Pipeline(
        store, keep, PortionReader(standby.memory), host="bench", calls=lambda: calls[0], lifetime=lambda: 0,
        on_gap=lambda _: None,
    )  # fmt: skip
    before, took = process_bytes(), 0.0
    for number, commit in enumerate(epochs.commits):
        standby.commit(commit)
        calls[0] += 1
        at = 1_000 * SECOND_NS + number * SECOND_NS // EPOCHS_A_SECOND
        began = time.thread_time()
        pipeline.take([Queued(commit, at, calls[0], is_last=True)])
        if number % 4 == 3:
            pipeline.turn()
        took += time.thread_time() - began
    began = time.thread_time()
    pipeline.finish("the bench ended")
    took += time.thread_time() - began
    store.close()
    return process_bytes() - before, took


def base_bytes(folder: Path) -> int:
    with Store(folder) as store:
        return sum(
            store.catalogue.counts(stream.id).get(EntryLevel.BASE, (0, 0))[1] for stream in store.catalogue.streams()
        )


def packed_epochs(epochs: Epochs) -> list[bytes]:
    """Return each epoch as one packed blob: what a general store would be given."""
    found = []
    for commit in epochs.commits:
        batch = join_batches(commit.checkpoint.batches) if commit.checkpoint.batches else None
        blob = b"" if batch is None else bytes(batch.indices) + bytes(batch.lengths) + bytes(batch.payload)
        found.append(lz4.block.compress(blob, store_size=False))
    return found


def sqlite_bytes(blobs: list[bytes], folder: Path) -> int:
    before = process_bytes()
    database = sqlite3.connect(folder / "peer.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, content BLOB)")
    for start in range(0, len(blobs), GROUP):
        database.execute("BEGIN")
        rows = list(enumerate(blobs))[start : start + GROUP]
        database.executemany("INSERT INTO epochs VALUES (?, ?)", rows)
        database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return process_bytes() - before


def lmdb_bytes(blobs: list[bytes], folder: Path) -> int | None:
    if lmdb is None:
        return None
    before = process_bytes()
    store = lmdb.open(str(folder / "peer.lmdb"), map_size=16 << 30, writemap=False)
    for start in range(0, len(blobs), GROUP):
        with store.begin(write=True) as transaction:
            for number, blob in enumerate(blobs[start : start + GROUP], start):
                transaction.put(number.to_bytes(8, "big"), blob)
    store.sync(True)
    store.close()
    return process_bytes() - before


def restore_seconds(folder: Path, mib: int, samples: int) -> tuple[float, float]:
    """Return the median and the longest time to restore an epoch of the last minute."""
    chance = random.Random(1)
    with History.open(folder) as past:
        numbers = [epoch.number for epoch in past.epochs(since="-60s")]
        times = []
        for number in sorted(chance.sample(numbers, min(samples, len(numbers)))):
            guest = RiscvGuest(None, memory_bytes=mib << 20, mac=None)
            began = time.perf_counter()
            past.restore(number, guest)
            times.append(time.perf_counter() - began)
            guest.close()
    times.sort()
    return times[len(times) // 2], times[-1]


def sync_seconds(folder: Path, count: int) -> float:
    """Return the median time of a bare write and fdatasync: what no promise to keep something is cheaper than."""
    times = []
    with (folder / "bare").open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(PAGE))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[count // 2]


def snapshot_seconds(folder: Path, count: int) -> float:
    with History.open(folder) as past:
        numbers = [epoch.number for epoch in past.epochs(since="-30s")]
        times = []
        for number in range(count):
            began = time.perf_counter()
            past.snapshot(f"bench-{number}", numbers[number % len(numbers)])
            times.append(time.perf_counter() - began)
        for number in range(count):
            past.drop(f"bench-{number}")
    return sorted(times)[count // 2]


def observer_seconds(epochs: Epochs, folder: Path) -> float:
    """Return what a commit costs the host's loop: the median of showing one to a recorder that runs."""
    store = Store(folder, writes=True, creates=True)
    store.claim(HistoryOwner(guest_id="bench", geometry=epochs.geometry))
    recorder = HistoryRecorder(
        store, Keep(), Standby(epochs.geometry).memory, host="bench", time_ns=time.time_ns, on_gap=lambda _: None,
        queue_bytes=1 << 30,
    )  # fmt: skip
    recorder.begin(None)
    times = []
    for commit in epochs.commits[:400]:
        began = time.perf_counter()
        recorder.committed([commit])
        times.append(time.perf_counter() - began)
        time.sleep(0.002)
    recorder.close()
    return sorted(times)[len(times) // 2]


@dataclass
class Acknowledged:
    """What acknowledging took its thread: CPU seconds of each commit, and in how many it had to wait."""

    cpu: list[float]
    waited: int


def acknowledged(epochs: Epochs, folder: Path | None) -> Acknowledged:
    """Commit and acknowledge on a thread as a standby's loop does; with a folder it records there."""
    standby, found = Standby(epochs.geometry), Acknowledged([], 0)
    recorder = None
    if folder is not None:
        store = Store(folder, writes=True, creates=True)
        store.claim(HistoryOwner(guest_id="bench", geometry=epochs.geometry))
        recorder = HistoryRecorder(
            store, Keep(), standby.memory, host="bench", time_ns=time.time_ns, on_gap=lambda _: None,
            queue_bytes=1 << 30,
        )  # fmt: skip
        recorder.begin(None)
    here, there = socket.socketpair()

    def acknowledge() -> None:
        for commit in epochs.commits[:ACKNOWLEDGED]:
            there.recv(1)
            before, began = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
            standby.commit(commit)
            there.send(b"a")
            found.cpu.append(time.thread_time() - began)
            found.waited += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw != before
            if recorder is not None:
                recorder.committed([commit])

    thread = threading.Thread(target=acknowledge)
    thread.start()
    for _ in epochs.commits[:ACKNOWLEDGED]:
        here.send(b"e")
        here.recv(1)
        time.sleep(0.01)
    thread.join()
    if recorder is not None:
        recorder.close()
    found.cpu.sort()
    return found


def acknowledgement_rows(epochs: Epochs, folder: Path) -> list[Row]:
    """Counted on the acknowledging thread: time would tell of the machine's load."""
    off, on = acknowledged(epochs, None), acknowledged(epochs, folder)
    count = len(on.cpu)
    names = (("p50", count // 2, "<= 1.05"), ("p99", count * 99 // 100, "<= 1.2"))
    return [
        *(
            Row(name=f"acknowledging thread while recording, CPU to the acknowledgement {name}",
                value=on.cpu[place] * 1e6, unit="us", peer="not recording", peer_value=off.cpu[place] * 1e6, goal=goal)
            for name, place, goal in names
        ),
        Row(name="commits in which it waited, for the interpreter's lock", value=on.waited / count * 100, unit="%",
            peer="not recording", note=f"{off.waited} of {count} without"),
    ]  # fmt: skip


def route_seconds(folder: Path, entries: int) -> float:
    """Return the median time to find the way to an epoch in a catalogue of so many fine entries."""
    store = Store(folder, writes=True, creates=True)
    owner = HistoryOwner(
        guest_id="bench", geometry=Geometry(machine="x", regions=(RegionShape(name="r", page_count=PageCount(16)),))
    )
    store.claim(owner)
    with store.catalogue.transaction():
        stream = store.catalogue.add_stream(uuid="s", lineage="a", generation=1, host="h", began_ns=0, reason="bench")
        segment = store.catalogue.add_segment(stream, EntryLevel.FINE, "00000001.seg")
    columns = "stream, level, base, epoch, time_ns, segment, offset, length, pages, delta_bytes, outputs"
    rows = [
        (stream, level, base, base + width, base, segment, 0, 1, 1, 1, 0)
        for level, width in ((1, 1), (2, 40), (3, 2_400), (4, 24_000))
        for base in range(0, entries - width + 1, width)
    ]
    with closing(sqlite3.connect(folder / CATALOGUE)) as database, database:
        database.executemany(f"INSERT INTO entries ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
    times = []
    for _ in range(400):
        began = time.perf_counter()
        store.catalogue.reach(stream, EntryLevel.FINE, entries - 2)
        store.catalogue.at_epoch(stream, entries - 1)
        times.append(time.perf_counter() - began)
    store.close()
    return sorted(times)[len(times) // 2]


def merge_ns(epochs: Epochs) -> float:
    """Return what merging a second of epochs costs for each delta."""
    joined = [join_batches(c.checkpoint.batches) for c in epochs.commits if c.checkpoint.batches][-GROUP:]
    pages = epochs.geometry.page_count
    best = float("inf")
    for _ in range(11):
        began = time.thread_time()
        merge_batches(joined, pages)
        best = min(best, time.thread_time() - began)
    return best / sum(batch.count for batch in joined) * 1e9


def measure(arguments: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        return rows_in(Path(name), arguments.epochs, arguments.mib)


def rows_in(folder: Path, count: int, mib: int) -> list[Row]:
    epochs = epochs_of(count, mib)
    written, cpu = recorded(epochs, folder / "past", Keep(all="1m"))
    base = base_bytes(folder / "past")
    blobs = packed_epochs(epochs)
    (folder / "peers").mkdir()
    sqlite, other = sqlite_bytes(blobs, folder / "peers"), lmdb_bytes(blobs, folder / "peers")
    seconds = count / EPOCHS_A_SECOND
    middle, longest = restore_seconds(folder / "past", mib, 12)
    pages = sum(commit.checkpoint.dirty_pages for commit in epochs.commits) / count
    few, many = route_seconds(folder / "few", 100), route_seconds(folder / "many", 100_000)
    return [
        Row(name="written, thinning and catalogue included, no base", value=(written - base) / 1e6, unit="MB",
            peer="the delta batches", peer_value=epochs.delta_bytes / 1e6, goal="<= 0.9",
            note=f"{count} epochs of {pages:.0f} pages; the base: {base / 1e6:.1f} MB"),
        Row(name="SQLite, a blob an epoch, committed per 40", value=sqlite / 1e6, unit="MB",
            peer="the delta batches", peer_value=epochs.delta_bytes / 1e6, note="not thinned"),
        Row(name="LMDB, a blob an epoch, committed per 40", value=None if other is None else other / 1e6, unit="MB",
            peer="the delta batches", peer_value=epochs.delta_bytes / 1e6,
            note="not thinned" if lmdb is not None else "lmdb is not installed"),
        Row(name="recorder, CPU of one core at 40 epochs/s", value=cpu / seconds * 100, unit="%",
            peer="goal", peer_value=3.0, goal="<= 1.0", note=f"{pages:.0f} pages an epoch"),
        Row(name="a commit shown, in the host's loop", value=observer_seconds(epochs, folder / "shown") * 1e6,
            unit="us", peer="an epoch at 40/s", peer_value=25_000.0, goal="<= 0.01"),
        *acknowledgement_rows(epochs, folder / "acknowledged"),
        Row(name=f"restore an epoch of the last minute, {mib} MiB, median", value=middle, unit="s", peer="goal",
            peer_value=1.0, goal="<= 1.0"),
        Row(name=f"restore an epoch of the last minute, {mib} MiB, longest", value=longest, unit="s", peer="goal",
            peer_value=1.0, goal="<= 1.0"),
        Row(name="snapshot", value=snapshot_seconds(folder / "past", 40) * 1e3, unit="ms", peer="goal", peer_value=5.0,
            goal="<= 1.0", note=f"a bare write and fdatasync took {sync_seconds(folder, 40) * 1e3:.1f} ms"),
        Row(name="find the way in 100,000 epochs", value=many * 1e6, unit="us", peer="in 100", peer_value=few * 1e6,
            goal="<= 1.05"),
        Row(name="merge, each delta of a second", value=merge_ns(epochs), unit="ns", peer="-"),
    ]  # fmt: skip


if __name__ == "__main__":
    report("A history beside SQLite and LMDB", measure, ("epochs", int, 4000), ("mib", int, 64))
