"""A guest's disk: how fast its server is, beside the raw file and QEMU's own NBD server, and what it takes in memory.

    python bench/disk.py [--quick] [--commits] [--json] [--folder FOLDER]

QEMU's block layer is the client of all, by `qemu-img bench`: no guest runs, so nothing but the way to the file differs.
"Cut" is ours with the set of written pages taken 40 times a second, and when the disk asks for it, as a host does;
nothing is shipped. "Bare copy" (disk_peer.c) is the limit of all servers: it copies the same bytes from the same socket
to a file, and does nothing else.
Each figure is the best of several rounds, the contenders in turn. The durable commit is a write of 4 KiB and a flush,
one after the other, as a database makes them: its median and 99th percentile. Beside a standby it is over once the
standby's device has it as well, the same one here, as no client hears of it before: covered, and with each flush
waiting for the own device first. Network, protocol and machine are left out; `--commits` measures nothing else.

The files are in FOLDER, by default in the working directory: in memory (/dev/shm) a sync costs nothing, and says
nothing. Where the page cache holds the file, reads and writes measure the way, and not the device.
"""

import argparse
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Final

from common import Row, report

from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.capture.pages import BatchBuffers, Shadow, capture_fused
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.negotiation import negotiate
from ftvm.interfaces import Region
from ftvm.runtime.stored import present_pages
from ftvm.units import PAGE_BYTES, PageCount

MIB: Final = 1 << 20
SIZE: Final = 512 * MIB
CUT_SECONDS: Final = 0.025
SHAPES: Final = ((1 * MIB, 1), (1 * MIB, 16), (4096, 1), (4096, 16))
GOALS: Final = {True: ">= 0.8", False: ">= 0.5"}
"""Of what is written, and of what is read, in blocks of 1 MiB, beside the raw file."""
SPARSE: Final = 1 << 40
CUTS: Final = 20
COMMITTED: Final = 64 * MIB
"""Of the disks of commits beside a standby."""


@contextmanager
def bare_copy(image: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a file behind the least that a server can be."""
    program, path = folder.resolve() / "disk_peer", folder.resolve() / "bare.sock"
    subprocess.run(["cc", "-O2", "-o", str(program), str(Path(__file__).with_name("disk_peer.c"))], check=True)
    with served([str(program), str(path), str(image)], path) as address:
        yield address


@contextmanager
def qemus_server(image: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a file behind qemu-nbd, which takes no relative path. Raises SystemExit if it ends."""
    path = folder.resolve() / "peer.sock"
    words = ["qemu-nbd", "-f", "raw", "--cache=writeback", "--persistent", "-k", str(path), str(image)]
    with served(words, path) as address:
        yield address


@contextmanager
def served(words: Sequence[str], path: Path) -> Iterator[str]:
    """Yield the address of a server that makes a socket at `path`. Raises SystemExit if it ends."""
    with subprocess.Popen(words) as peer:
        while not path.exists():
            if peer.poll() is not None:
                raise SystemExit(f"{words[0]} ended with status {peer.returncode} before it made {path}")
            time.sleep(0.01)
        try:
            yield f"nbd+unix:///?socket={path}"
        finally:
            peer.terminate()


class OurServer:
    """A disk that takes one client after the other on a socket's path; cut 40 times a second if that is wanted."""

    def __init__(self, image: Path, *, is_cut: bool) -> None:
        path = image.with_suffix(".sock")
        self.address = f"nbd+unix:///?socket={path}"
        self.disk = Disk(str(image), boots=True)
        self._is_over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        self._cutter = threading.Thread(target=self._cut if is_cut else self._is_over.wait, daemon=True)
        self._cutter.start()

    def _accept(self) -> None:
        while not self._is_over.is_set():
            connection, _ = self._listener.accept()
            with connection:
                connection.setblocking(True)
                if negotiate(connection, self.disk.size_bytes):
                    self.disk.serve(connection.fileno())

    def _cut(self) -> None:
        while not self._is_over.is_set():
            select.select([self.disk], [], [], CUT_SECONDS)
            self.disk.collect()

    def close(self) -> None:
        self._is_over.set()
        self._cutter.join()
        self.disk.close()


def seconds_for(target: str, *, writes: bool, block: int, depth: int, count: int) -> float:
    """Return what qemu-img took for so many requests."""
    words = ["qemu-img", "bench", "-f", "raw", "-c", str(count), "-d", str(depth), "-s", str(block), "-t", "writeback"]
    ran = subprocess.run([*words, *(["-w"] if writes else []), target], capture_output=True, text=True, check=True)
    found = re.search(r"Run completed in ([\d.]+) seconds", ran.stdout)
    assert found is not None, ran.stdout
    return float(found[1])


def throughput(targets: dict[str, str], rounds: int) -> Iterator[Row]:
    for writes in (True, False):
        for block, depth in SHAPES:
            count = min(SIZE // block, 4096 if block == MIB else 8192)
            best = dict.fromkeys(targets, float("inf"))
            for _ in range(rounds):
                for name, target in targets.items():
                    took = seconds_for(target, writes=writes, block=block, depth=depth, count=count)
                    best[name] = min(best[name], took)
            speeds = {name: count * block / MIB / took for name, took in best.items()}
            what = f"{'write' if writes else 'read'} {block // 1024} KiB, depth {depth}"
            goal = GOALS[writes] if block == MIB else None
            for name in ("bare copy", "ours", "ours, cut"):
                for other in ("raw", "qemu-nbd", *(["bare copy"] if name != "bare copy" else [])):
                    yield Row(
                        name=f"{what}: {name}",
                        value=speeds[name],
                        unit="MiB/s",
                        peer=other,
                        peer_value=speeds[other],
                        goal=goal if other == "raw" and name != "bare copy" else None,
                    )


class Requests:
    """A client that asks for one thing at a time: what qemu-img cannot time one by one."""

    def __init__(self, address: str) -> None:
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(address.partition("=")[2])
        self._take(18)
        self._end.sendall(struct.pack(">I", 3) + struct.pack(">8sII", b"IHAVEOPT", 1, 0))
        self._take(10)

    def commit(self, offset: int) -> None:
        self._ask(1, offset, b"x" * 4096)
        self._ask(3, 0, b"")

    def _ask(self, command: int, offset: int, content: bytes) -> None:
        self._end.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 7, offset, len(content)) + content)
        assert struct.unpack(">IIQ", self._take(16))[1] == 0

    def _take(self, size: int) -> bytes:
        return self._end.recv(size, socket.MSG_WAITALL)

    def close(self) -> None:
        self._end.close()


def commits(raw: Path, peer: str, ours: OurServer, count: int) -> Iterator[Row]:
    descriptor = os.open(raw, os.O_RDWR)

    def raw_commit(offset: int) -> None:
        os.pwrite(descriptor, bytes(4096), offset)
        os.fdatasync(descriptor)

    clients = {"qemu-nbd": Requests(peer), "ours": Requests(ours.address)}
    doers = {"raw": raw_commit, **{name: client.commit for name, client in clients.items()}}
    took: dict[str, list[float]] = {name: [] for name in doers}
    for number in range(count):
        for name, do in doers.items():
            began = time.perf_counter()
            do(number * 4096 % SIZE)
            took[name].append(time.perf_counter() - began)
    for client in clients.values():
        client.close()
    os.close(descriptor)
    for which, name in ((49, "p50"), (98, "p99")):
        at = {doer: quantiles(times, n=100)[which] * 1e3 for doer, times in took.items()}
        for other in ("raw", "qemu-nbd"):
            yield Row(name=f"durable commit {name}", value=at["ours"], unit="ms", peer=other, peer_value=at[other])


class Beside:
    """A disk with a client, and one that stands by for it: each commit is in both when it is over."""

    def __init__(self, folder: Path, *, is_covered: bool) -> None:
        name = "covered" if is_covered else "waiting"
        images = [folder / f"{name}-{role}.img" for role in ("primary", "standby")]
        for image in images:
            image.write_bytes(bytes(COMMITTED))
        self._ours = OurServer(images[0], is_cut=False)
        self._ours.disk.collect()
        self._ours.disk.cover(is_covered=is_covered)
        self._client = Requests(self._ours.address)
        self._standby = Disk(str(images[1]), boots=False)
        self._standby.discarded()
        self._standby.completed()
        self._standby.image.sync()

    def commit(self, offset: int) -> None:
        """Write and flush; cut, as an output behind it would have it; return once the standby acknowledges the cut."""
        self._client.commit(offset)
        pages = list(memoryview(bitmap_indices(self._ours.disk.collect())).cast("B").cast("I"))
        for page in pages:
            place = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            self._standby.buffer[place] = self._ours.disk.buffer[place]
        self._standby.committed(pages)
        is_durable = threading.Event()
        self._standby.persist(lambda _: is_durable.set())
        is_durable.wait()

    def close(self) -> None:
        self._client.close()
        self._ours.close()
        self._standby.close()


def commits_beside(folder: Path, count: int) -> Iterator[Row]:
    """A durable commit beside a standby: covered, and as it was, in turn with a bare write and sync."""
    raw = os.open(folder / "bare-commits.img", os.O_RDWR | os.O_CREAT)
    os.pwrite(raw, bytes(COMMITTED), 0)
    os.fsync(raw)
    doers = {"covered": Beside(folder, is_covered=True), "waiting": Beside(folder, is_covered=False)}
    took: dict[str, list[float]] = {"raw": [], **{name: [] for name in doers}}
    for number in range(count):
        offset = number * PAGE_BYTES % COMMITTED
        began = time.perf_counter()
        os.pwrite(raw, b"x" * PAGE_BYTES, offset)
        os.fdatasync(raw)
        took["raw"].append(time.perf_counter() - began)
        for name, beside in doers.items():
            began = time.perf_counter()
            beside.commit(offset)
            took[name].append(time.perf_counter() - began)
    for beside in doers.values():
        beside.close()
    os.close(raw)
    for which, name in ((49, "p50"), (98, "p99")):
        at = {doer: quantiles(times, n=100)[which] * 1e3 for doer, times in took.items()}
        what = f"durable commit beside a standby, {name}"
        for other in ("raw", "waiting"):
            yield Row(name=what, value=at["covered"], unit="ms", peer=other, peer_value=at[other])


def own_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as found:
        return next(int(line.split()[1]) for line in found if line.startswith("RssAnon")) * 1024


def sparse(folder: Path) -> Iterator[Row]:
    """A disk of 1 TiB as a protected host has it, with digests and shadow, cut each time that it is written."""
    image = folder / "sparse.img"
    image.touch()
    os.truncate(image, SPARSE)
    before = own_bytes()
    ours = OurServer(image, is_cut=False)
    disk, client = ours.disk, Requests(ours.address)
    region = Region(name="disk", buffer=disk.buffer, page_count=PageCount(disk.page_count), store=disk)
    memory = NativeMemory([disk.buffer])
    kept = CommittedMemory(memory, lambda: present_pages([region]))
    shadow = Shadow(memory.page_counts)
    limits, took = Limits(), []
    buffers = BatchBuffers(limits)
    for number in range(CUTS):
        client.commit(number * SPARSE // CUTS)
        began = time.perf_counter()
        written = disk.collect() if number else present_pages([region])
        buffers.acknowledged(*capture_fused(memory, shadow, bitmap_indices(written), limits=limits, buffers=buffers))
        took.append(time.perf_counter() - began)
    taken = own_bytes() - before
    del kept
    client.close()
    ours.close()
    image.unlink()
    yield Row(
        name="memory of a protected, sparse disk of 1 TiB",
        value=taken / MIB,
        unit="MiB",
        peer="the goal",
        peer_value=64.0,
        goal="<= 1.0",
        note="flags, digests, shadow and sets of pages; what the disk has that is not zero comes on top, once",
    )
    yield Row(name="cut of a sparse disk of 1 TiB, p50", value=sorted(took)[CUTS // 2] * 1e3, unit="ms", peer="")


def measure(options: argparse.Namespace) -> list[Row]:
    if options.commits:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            return list(commits_beside(Path(name), 200 if options.quick else 1000))
    for program, package in (("qemu-img", "qemu-utils"), ("qemu-nbd", "qemu-utils"), ("cc", "gcc")):
        if shutil.which(program) is None:
            raise SystemExit(f"needs {program}: apt install {package}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        raw, theirs, bare, *images = (folder / f"{name}.img" for name in ("raw", "theirs", "bare", "ours", "cut"))
        for path in (raw, theirs, bare, *images):
            path.write_bytes(bytes(SIZE))
        ours, cut = (OurServer(image, is_cut=image.stem == "cut") for image in images)
        with qemus_server(theirs, folder) as peer, bare_copy(bare, folder) as least:
            targets = {"raw": str(raw), "qemu-nbd": peer, "bare copy": least}
            targets |= {"ours": ours.address, "ours, cut": cut.address}
            rows = list(throughput(targets, 1 if options.quick else 5))
            rows += commits(raw, peer, ours, 200 if options.quick else 1000)
        rows += commits_beside(folder, 200 if options.quick else 1000)
        ours.close()
        cut.close()
        rows += sparse(folder)
    return rows


if __name__ == "__main__":
    report("A guest's disk", measure, ("quick", bool, False), ("commits", bool, False), ("folder", str, "."))
