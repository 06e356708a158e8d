"""A stock QEMU, protected: pauses, bytes, what the guest loses, takeovers; beside what one would otherwise do.

    python bench/qemu.py [--quick] [--json]

For each size of guest, first one QEMU alone: a full migration to a file, and savevm, the guest stopped meanwhile. Then,
for each rate of checkpoints, two real host processes: the guest alone, the same guest protected, then its host killed;
and before and after, in the QEMU alone, the bare sequence of stop, device state and cont.

The guest is a stock Linux that writes eight bytes into each of 256 random pages ten times a second and computes in
between. Its slowdown is what it computes less per second of its QEMU's processor time, and the time that it stood
still. Files are in memory (/dev/shm), so the peers pay for no disk. A full run takes some six minutes, --quick about
one. On a machine with other work to do trust the ratios, and the slowdown not at all.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final, TypeVar

from common import Row, report

sys.path.remove(str(Path(__file__).resolve().parent))  # this file would hide the package `qemu`

from ftvm.errors import BrokenError
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.lab.qemuimage import make_image
from ftvm.units import PAGE_BYTES, seconds_to_nanos

T = TypeVar("T")

COMMAND_LINE: Final = "ftvm_write=256 ftvm_spin=1"
RATES: Final = (2, 10, 25)
SIZES_MIB: Final = (256, 1024)
SETTLE_S: Final = 1.0
WINDOW_S: Final = 8.0
BOOT_S: Final = 180.0
WAIT_S: Final = 60.0
BARE_ROUNDS: Final = 40
PEER_ROUNDS: Final = 5
BEATS: Final = re.compile(r"work: (\d+) bad (\d+) spun (\d+)\s")
PUMP_NS: Final = seconds_to_nanos(0.02)
MIB: Final = 1 << 20


@dataclass
class Console:
    """Hears the guest's console, as a sink or line by line, and when it said how much it had computed."""

    text: str = ""
    cpu_of: Callable[[], float] = time.monotonic
    """What time its QEMU has had, in seconds."""
    spun: list[tuple[float, float, int]] = field(default_factory=list)

    def emit(self, channel: str, payload: bytes, position: object = None) -> None:
        del position
        if channel == "console":
            self.hear(payload.decode(errors="replace"))

    def took_input(self, *_: object) -> None:
        raise NotImplementedError

    moved_clock = took_input

    def hear(self, text: str) -> None:
        self.text = (self.text + text)[-4_096:]
        found = BEATS.findall(self.text)
        if found and (not self.spun or int(found[-1][2]) > self.spun[-1][2]):
            if found[-1][1] != "0":
                raise BrokenError(f"the guest found its memory wrong: {found[-1]}")
            self.spun.append((time.monotonic(), self.cpu_of(), int(found[-1][2])))

    def per_cpu_second(self, since: float) -> float:
        """Return how much the guest computed per second that its QEMU was given, since some time."""
        window = [entry for entry in self.spun if entry[0] >= since]
        if len(window) < 2:
            raise BrokenError("the guest has not said enough to be measured")
        return (window[-1][2] - window[0][2]) / (window[-1][1] - window[0][1])


def cpu_seconds(host: int) -> float:
    """Return the processor time of the QEMU that a host process has started."""
    tasks = Path(f"/proc/{host}/task").iterdir()
    (child,) = {child for task in tasks for child in (task / "children").read_text().split()}
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- one QEMU alone --------------------------------------------------------------------------------------------------


@contextmanager
def one_alone(size_mib: int, folder: Path) -> Iterator[QemuGuest]:
    """Boot a guest with no host around it, and leave it standing."""
    snapshots = folder / "snapshots.qcow2"
    make_qcow2(snapshots)
    machine = QemuMachine(memory_bytes=size_mib * MIB, arguments=make_image().arguments(COMMAND_LINE))
    guest, console = QemuGuest(machine, boots=True), Console()
    try:
        file = {"driver": "file", "filename": str(snapshots)}
        guest.monitor.execute("blockdev-add", driver="qcow2", node_name="snapshots", file=file)  # savevm looks for one
        guest.attach(console)
        guest.resume()
        wait_until(lambda: len(console.spun) >= 2 or None, BOOT_S, "the guest has booted")
        guest.pause()
        yield guest
    finally:
        guest.close()


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What one would do without ftvm: pauses in ms, and bytes written."""

    migrate_ms: float
    migrate_bytes: float
    savevm_ms: float
    savevm_bytes: float
    bare_ms: float


def measure_peers(guest: QemuGuest, folder: Path) -> Peers:
    guest.resume()
    bare_ms = measure_bare(guest)
    guest.resume()
    migrate_ms, migrate_bytes = rounds(lambda: migrate(guest, folder / "state"))
    savevm_ms, savevm_bytes = rounds(lambda: savevm(guest, folder / "snapshots.qcow2"))
    guest.pause()
    return Peers(
        migrate_ms=percentile(migrate_ms, 50),
        migrate_bytes=percentile(migrate_bytes, 50),
        savevm_ms=percentile(savevm_ms, 50),
        savevm_bytes=percentile(savevm_bytes, 50),
        bare_ms=bare_ms,
    )


def measure_bare(guest: QemuGuest) -> float:
    """Return the median of stop, device state and cont, and leave the guest standing."""
    guest.resume()
    found = percentile([bare(guest) for _ in range(BARE_ROUNDS)], 50)
    guest.pause()
    return found


def rounds(once: Callable[[], tuple[float, float]]) -> tuple[list[float], list[float]]:
    found = []
    for _ in range(PEER_ROUNDS):
        time.sleep(0.3)
        found.append(once())
    return [pause for pause, _ in found], [written for _, written in found]


def bare(guest: QemuGuest) -> float:
    time.sleep(0.1)
    began = time.perf_counter()
    guest.pause()
    guest.save_devices()
    guest.resume()
    return (time.perf_counter() - began) * 1000


def migrate(guest: QemuGuest, path: Path) -> tuple[float, float]:
    """Stop the guest, migrate all of it to a file, and let it go on."""
    qmp = guest.monitor
    qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": False}])
    with path.open("wb") as file:
        began = time.perf_counter()
        guest.pause()
        qmp.give_file("bench", file.fileno())
        qmp.execute("migrate", uri="fd:bench")
        wait_until(lambda: qmp.execute("query-status")["status"] == "postmigrate" or None, WAIT_S, "it is migrated")
        guest.resume()
        took = (time.perf_counter() - began) * 1000
    qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
    return took, path.stat().st_size


def savevm(guest: QemuGuest, path: Path) -> tuple[float, float]:
    """Have the monitor's savevm write into an image; it stops the guest meanwhile."""
    qmp = guest.monitor
    qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": False}])
    before = path.stat().st_blocks
    began = time.perf_counter()
    said = qmp.execute("human-monitor-command", command_line="savevm bench", timeout=WAIT_S)
    took = (time.perf_counter() - began) * 1000
    if said:
        raise BrokenError(f"savevm: {said}")
    written = (path.stat().st_blocks - before) * 512
    qmp.execute("human-monitor-command", command_line="delvm bench", timeout=WAIT_S)
    return took, written


def make_qcow2(path: Path) -> None:
    """Write an empty qcow2 image (version 3, 64 KiB clusters, 16 MiB): header, refcount table, one block, level 1."""
    cluster = 1 << 16
    header = bytearray(cluster)
    values = [(b"QFI\xfb", 0), (3, 4), (0, 8), (0, 16), (16, 20), (16 << 20, 24), (0, 32), (1, 36), (3 * cluster, 40)]
    values += [(cluster, 48), (1, 56), (0, 60), (0, 64), (0, 72), (0, 80), (0, 88), (4, 96), (104, 100)]
    widths = {8: 8, 24: 8, 40: 8, 48: 8, 64: 8, 72: 8, 80: 8, 88: 8}
    for value, at in values:
        content = value if isinstance(value, bytes) else int(value).to_bytes(widths.get(at, 4), "big")
        header[at : at + len(content)] = content
    table = (2 * cluster).to_bytes(8, "big").ljust(cluster, b"\0")
    block = b"".join((1).to_bytes(2, "big") for _ in range(4)).ljust(cluster, b"\0")
    path.write_bytes(bytes(header) + table + block + bytes(cluster))


# --- a pair ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one pair found. Times in ms; `slowdown` is the part of its computing that protection took."""

    pause_p50: float
    pause_p99: float
    bytes_per_checkpoint: float
    raw_per_checkpoint: float
    checkpoints: int
    slowdown: float
    takeover: float
    detection: float
    arbiter: float
    load: float


@dataclass
class Pair:
    """What the hosts have said."""

    console: Console = field(default_factory=Console)
    lines: dict[str, list[JsonLine]] = field(default_factory=lambda: {"a": [], "b": []})

    def events(self, host: str, name: str) -> list[JsonLine]:
        return [line for line in self.lines[host] if line.get("event") == name]


def measure_pair(size_mib: int, rate: int, folder: Path) -> Figures:
    pair, children = Pair(), Children()
    try:
        return _measure_pair(pair, children, size_mib, rate, folder)
    finally:
        children.close()


def _measure_pair(pair: Pair, children: Children, size_mib: int, rate: int, folder: Path) -> Figures:
    def wait(look: Callable[[], T | None], seconds: float, what: str) -> T:
        def pump() -> T | None:
            children.pump(PUMP_NS)
            children.check()
            for child in hosts:
                pair.console.hear(child.last_words() + "\n")
            return look()

        return wait_until(pump, seconds, what)

    hosts: list[Child] = []
    hosts.append(children.start("host a", command(size_mib, rate, folder, "run"), pair.lines["a"].append))
    pair.console.cpu_of = lambda: cpu_seconds(hosts[0].process.pid)
    wait(lambda: len(pair.console.spun) >= 3 or None, BOOT_S, "the guest has booted")
    alone_from = time.monotonic()
    wait(lambda: time.monotonic() > alone_from + WINDOW_S or None, WAIT_S, "the guest ran alone")
    alone = pair.console.per_cpu_second(alone_from)

    standby = children.start("host b", command(size_mib, rate, folder, "standby"), pair.lines["b"].append)
    wait(lambda: pair.events("a", "Protected") or None, WAIT_S, "the guest is protected")
    settled_at = time.monotonic() + SETTLE_S
    wait(lambda: time.monotonic() > settled_at or None, WAIT_S, "it has settled")
    before = len(pair.events("a", "Committed"))
    wait(lambda: time.monotonic() > settled_at + WINDOW_S or None, WAIT_S, "it ran protected")
    commits = pair.events("a", "Committed")[before:]
    protected = pair.console.per_cpu_second(settled_at)

    killed_at = time.monotonic_ns()
    hosts[0].kill()
    hosts[0] = standby
    took_over = wait(lambda: pair.events("b", "TookOver") or None, WAIT_S, "the standby has taken over")[0]
    heard = len(pair.console.spun)
    wait(lambda: len(pair.console.spun) > heard or None, WAIT_S, "the guest computes on")

    pauses = sorted(line["pause_ns"] / 1e6 for line in commits)
    total = (took_over["at"] - killed_at) / 1e6
    detection = min(took_over["detection_ns"] / 1e6, total)
    return Figures(
        pause_p50=percentile(pauses, 50),
        pause_p99=percentile(pauses, 99),
        bytes_per_checkpoint=sum(line["sent_bytes"] for line in commits) / len(commits),
        raw_per_checkpoint=sum(line["dirty_pages"] for line in commits) * PAGE_BYTES / len(commits),
        checkpoints=len(commits),
        slowdown=1 - protected / alone * (1 - sum(pauses) / 1000 / WINDOW_S),
        takeover=total,
        detection=detection,
        arbiter=took_over["arbiter_ns"] / 1e6,
        load=took_over["load_ns"] / 1e6,
    )


def command(size_mib: int, rate: int, folder: Path, role: str) -> list[str]:
    here, there = ("a", "b") if role == "run" else ("b", "a")
    words = [sys.executable, "-P", "-m", "ftvm", role, "--kind", "qemu", "--json", "--memory", f"{size_mib}M"]
    words += ["--listen", f"ipc://{folder}/{here}", "--peer", f"ipc://{folder}/{there}"]
    words += ["--arbiter", f"file://{folder}/arbiter", "--interval", f"{1000 / rate:g}"]
    words += ["--create"] if role == "run" else []
    return [*words, "--", *make_image().arguments(COMMAND_LINE)]


# --- the table -------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Sequence[Row]:
    rows: list[Row] = []
    for size_mib in SIZES_MIB[:1] if arguments.quick else SIZES_MIB:
        with scratch() as folder, one_alone(size_mib, folder) as guest:
            peers = measure_peers(guest, folder)
            rows += rows_alone(size_mib, peers)
            for rate in (10,) if arguments.quick else RATES:
                bare_before = measure_bare(guest)
                with scratch() as pairs_folder:
                    found = measure_pair(size_mib, rate, pairs_folder)
                bare_ms = (bare_before + measure_bare(guest)) / 2
                rows += rows_of_pair(f"{size_mib} MiB, {rate}/s", bare_ms, peers, found)
    return rows


def rows_alone(size_mib: int, peers: Peers) -> Iterator[Row]:
    found = {
        "full migration to a file": (peers.migrate_ms, peers.migrate_bytes),
        "savevm": (peers.savevm_ms, peers.savevm_bytes),
    }
    for label, (pause_ms, written) in found.items():
        yield Row(
            name=f"{size_mib} MiB, {label}: pause p50",
            value=pause_ms,
            unit="ms",
            peer="stop, devices, cont, bare",
            peer_value=peers.bare_ms,
        )
        yield Row(name=f"{size_mib} MiB, {label}: written", value=written / MIB, unit="MiB", peer="")


def rows_of_pair(name: str, bare_ms: float, peers: Peers, found: Figures) -> Iterator[Row]:
    yield Row(
        name=f"{name}: pause p50",
        value=found.pause_p50,
        unit="ms",
        peer="stop, devices, cont, bare",
        peer_value=bare_ms,
        goal="<= 1.5",
        note=f"{found.checkpoints} checkpoints",
    )
    yield Row(name=f"{name}: pause p99", value=found.pause_p99, unit="ms", peer="")
    yield Row(
        name=f"{name}: bytes per checkpoint",
        value=found.raw_per_checkpoint / 1024,
        unit="KiB dirty",
        peer="shipped",
        peer_value=found.bytes_per_checkpoint / 1024,
        goal=">= 20",
        note=f"a full migration: {peers.migrate_bytes / MIB:.0f} MiB",
    )
    yield Row(name=f"{name}: guest slowdown", value=100 * found.slowdown, unit="%", peer="the guest alone")
    yield Row(
        name=f"{name}: takeover beyond detection",
        value=found.takeover - found.detection,
        unit="ms",
        peer="100 ms",
        peer_value=100,
        goal="<= 1",
        note=f"from the kill {found.takeover:.0f} ms; arbiter {found.arbiter:.0f}, load {found.load:.0f}",
    )


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder in memory; short, as sockets are in it."""
    path = Path(tempfile.mkdtemp(prefix="ftvm-", dir="/dev/shm"))
    try:
        (path / "arbiter").mkdir()
        yield path
    finally:
        shutil.rmtree(path)


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def wait_until(look: Callable[[], T | None], seconds: float, what: str) -> T:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        found = look()
        if found is not None:
            return found
        time.sleep(0.001)
    raise BrokenError(f"waited {seconds:g} s in vain until {what}")


if __name__ == "__main__":
    report("A stock QEMU, protected", measure, ("quick", bool, False))
