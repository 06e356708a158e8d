"""Pairs of pages as real programs make them: what a process's memory was at one moment, and a little later.

Each workload runs as a child; it is stopped every few milliseconds and the pages that changed since the last stop are
kept beside their older versions. Nothing is shipped: the corpora are made each time from the installed programs.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.programs import read_program

PAGE = 4096
EPOCH_SECONDS = 0.025
WARM_UP_SECONDS = 1.0
EPOCHS_MAX = 200

PYTHON_OBJECTS = """
import random
rng, table = random.Random(1), {}
while True:
    table[rng.randrange(200_000)] = (rng.random(), str(rng.random()))
"""

PYTHON_NUMBERS = """
from array import array
import random
rng, cells = random.Random(2), array("d", bytes(8 << 20))
while True:
    for at in range(0, len(cells), 97):
        cells[at] += 1.0
    cells[rng.randrange(len(cells))] = rng.random()
"""

PYTHON_PARSING = """
import ast, json
source = "def f(x):\\n    return [i * x for i in range(10) if i % 2]\\n" * 200
while True:
    json.loads(json.dumps({str(i): [i, None, "text"] for i in range(2000)}))
    ast.unparse(ast.parse(source))
"""

SQLITE = """
import random, sqlite3
rng, db = random.Random(3), sqlite3.connect(":memory:")
db.execute("create table t (k integer primary key, v integer, s text)")
db.executemany("insert into t values (?, 0, ?)", ((i, "x" * (i % 90)) for i in range(150_000)))
db.execute("create index i on t (v)")
while True:
    db.execute("update t set v = v + ?, s = ? where k = ?", (rng.randrange(9), str(rng.random()),
    rng.randrange(150_000)))
"""

PYTHON_WORKLOADS = {
    "python objects": PYTHON_OBJECTS,
    "python numbers": PYTHON_NUMBERS,
    "python parsing": PYTHON_PARSING,
    "sqlite in memory": SQLITE,
}


MACHINE_WORKLOADS = {
    "machine, random writes": ("dirty", "pages=4096 rate=0 words=4 pattern=random"),
    "machine, disk journal": ("journal", "records=1000000 batch=8"),
}
MACHINE_BYTES = 32 << 20
INSTRUCTIONS_PER_EPOCH = 10_000_000
"""What the built-in machine does in 25 ms."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pages side by side: page i of `newer` came from page i of `older`."""

    name: str
    older: bytes
    newer: bytes

    @property
    def page_count(self) -> int:
        return len(self.newer) // PAGE


def corpora(pages: int) -> Iterator[Corpus]:
    """Yield one corpus of about so many pages per workload that can run here."""
    for name, source in PYTHON_WORKLOADS.items():
        with _child([sys.executable, "-c", source]) as process:
            yield _collect(name, _epochs_of(process), pages)
    if shutil.which("redis-server"):
        with _redis() as process:
            yield _collect("redis", _epochs_of(process), pages)
    for name, (program, command_line) in MACHINE_WORKLOADS.items():
        yield _collect(name, _machine_epochs(program, command_line), pages)


def missing() -> list[str]:
    """Return the workloads that cannot run here, each with the reason."""
    return [] if shutil.which("redis-server") else ["redis: redis-server is not installed"]


@contextmanager
def _child(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(WARM_UP_SECONDS)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _redis() -> Iterator[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    load = ["redis-benchmark", "-p", str(port), "-t", "set,incr,lpush,hset", "-r", "200000", "-n", "100000000", "-q"]
    with _child(server) as process, _child(load):
        yield process


def _collect(name: str, epochs: Iterator[dict[int, bytes]], pages: int) -> Corpus:
    older, newer = bytearray(), bytearray()
    before = next(epochs)
    for now in islice(epochs, EPOCHS_MAX):
        _keep_changed(before, now, older, newer)
        if len(newer) >= pages * PAGE:
            break
        before = now
    return Corpus(name, bytes(older[: pages * PAGE]), bytes(newer[: pages * PAGE]))


def _epochs_of(process: subprocess.Popen[bytes]) -> Iterator[dict[int, bytes]]:
    """Yield a process's memory, by address, once an epoch."""
    while True:
        with _stopped(process):
            now = dict(_regions(process.pid))
        yield now
        time.sleep(EPOCH_SECONDS)


def _machine_epochs(program: str, command_line: str) -> Iterator[dict[int, bytes]]:
    """The same for a program on the built-in machine."""
    machine = Machine(MachineShape(ram_bytes=MACHINE_BYTES, disk_bytes=8 << 20))
    program_image = parse_elf(read_program(program), ram_base=RAM_BASE, ram_bytes=MACHINE_BYTES)
    machine.boot(program_image, command_line=command_line)
    assert machine.disk is not None
    while True:
        machine.run(INSTRUCTIONS_PER_EPOCH)
        machine.take_outputs()
        yield {0: bytes(machine.ram.buffer), 1 << 40: bytes(machine.disk.buffer)}


def _keep_changed(before: dict[int, bytes], now: dict[int, bytes], older: bytearray, newer: bytearray) -> None:
    for start, content in now.items():
        was = before.get(start)
        if was is None:
            continue
        for at in range(0, min(len(was), len(content)), PAGE):
            if was[at : at + PAGE] != content[at : at + PAGE]:
                older += was[at : at + PAGE]
                newer += content[at : at + PAGE]


@contextmanager
def _stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def _regions(pid: int) -> Iterator[tuple[int, bytes]]:
    """Yield address and content of each private writable mapping."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            if not rights.startswith("rw-p") or "[vvar" in line or end - start > 512 << 20:
                continue
            with suppress(OSError):
                memory.seek(start)
                yield start, memory.read(end - start)
