"""A guest's network: TCP through ftvm, protected and not, beside a QEMU on a plain tap.

    python bench/net.py [--quick] [--json]

The guest is a stock Linux under QEMU, on a tap in a bridge; the client stands at the bridge. TCP bulk is from client to
guest and back, in Mbit/s as the receiver counts; asking is a byte there and back, one after the other, in ms. "Hold" is
what a protection that costs nothing would do: the same card, whose frames are let out each 25 ms, with no host behind
it. All is in network namespaces of this process, which needs root; hosts and client share the machine's processors, so
trust the ratios only. Each contender is booted by itself; each figure is the best of its rounds.
A full run takes some six minutes, --quick about two.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import Row, report

sys.path.remove(str(Path(__file__).resolve().parent))  # a file there would hide the package `qemu`

from ftvm.errors import BrokenError
from ftvm.guests.cards import PumpedCard
from ftvm.lab import qemuimage
from ftvm.lab.chaos.namespace import isolate
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Children
from ftvm.units import seconds_to_nanos

ADDRESS: Final = "10.78.0.2"
PORT: Final = "5001"
MAC: Final = "52:54:00:78:00:02"
INTERVAL_MS: Final = 25
BOOT_S: Final = 180.0
PUMP_NS: Final = seconds_to_nanos(0.05)
INIT: Final = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
ip addr add {ADDRESS}/24 dev eth0
ip link set eth0 up
exec /net_peer serve {PORT}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """TCP in Mbit/s towards the guest and from it; the mean time of a request in ms."""

    to_guest: float
    from_guest: float
    ask_ms: float


class Stage:
    """A bridge with taps, and what the guest boots."""

    def __init__(self, folder: Path, *, is_quick: bool) -> None:
        self.folder = folder
        self.rounds, self.seconds = (1, 3) if is_quick else (3, 6)
        self.peer = folder / "net_peer"
        source = Path(__file__).with_name("net_peer.c")
        subprocess.run(["cc", "-O2", "-static", "-o", str(self.peer), str(source)], check=True)
        kernel = qemuimage.find_kernel()
        modules = qemuimage.MODULES / kernel.name.removeprefix("vmlinuz-") / "kernel"
        files = {
            f"modules/{at:02}.ko": (modules / f"{name}.ko").read_bytes() for at, name in enumerate(qemuimage.LOADED)
        }
        files |= {"bin/busybox": qemuimage.BUSYBOX.read_bytes(), "init": INIT.encode()}
        files |= {"net_peer": self.peer.read_bytes()}
        ramdisk = folder / "ramdisk.gz"
        ramdisk.write_bytes(gzip.compress(b"".join(qemuimage._archive(files)), compresslevel=1))
        self.booted = ["-kernel", str(kernel), "-initrd", str(ramdisk), "-append", "console=ttyS0 quiet"]
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "br0", "up")
        ip("addr", "add", "10.78.0.1/24", "dev", "br0")
        for tap in ("first", "second"):
            ip("tuntap", "add", "dev", tap, "mode", "tap")
            ip("link", "set", tap, "master", "br0", "up")

    def ask(self, what: str, seconds: float) -> float:
        words = [str(self.peer), what, ADDRESS, PORT, str(seconds)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60)
        if ran.returncode != 0:
            raise BrokenError(f"the client could not {what}: {ran.stderr.strip()}")
        return float(ran.stdout)

    def wait_for_guest(self) -> None:
        """Return when the guest answers."""
        ends_at = time.monotonic() + BOOT_S
        while True:
            try:
                self.ask("ask", 0.2)
                return
            except (BrokenError, subprocess.TimeoutExpired):
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.5)

    def measure(self) -> Figures:
        found = [[self.ask(what, self.seconds) for _ in range(self.rounds)] for what in ("send", "receive", "ask")]
        return Figures(to_guest=max(found[0]), from_guest=max(found[1]), ask_ms=min(found[2]))


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


# --- the contenders --------------------------------------------------------------------------------------------------


@contextmanager
def qemu(stage: Stage, netdev: str, descriptors: Sequence[int] = ()) -> Iterator[None]:
    """Run a QEMU alone."""
    words = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256M", "-nodefaults", "-display", "none", *stage.booted]
    words += ["-netdev", f"tap,id=net,{netdev}", "-device", f"virtio-net-pci,netdev=net,romfile=,mac={MAC}"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=descriptors) as process:
        try:
            stage.wait_for_guest()
            yield
        finally:
            process.kill()


def measure_plain(stage: Stage) -> Figures:
    with qemu(stage, "ifname=first,script=no,downscript=no"):
        return stage.measure()


def measure_hold(stage: Stage) -> Figures:
    """Let a card's frames out each interval, and do nothing else."""
    card, is_over = PumpedCard("first"), threading.Event()

    def let_out() -> None:
        while not is_over.wait(INTERVAL_MS / 1000):
            taken = card.take()
            if taken is not None:
                card.release(taken)

    card.flow()
    thread = threading.Thread(target=let_out)
    thread.start()
    try:
        with qemu(stage, f"fd={card.wire}", (card.wire,)):
            return stage.measure()
    finally:
        is_over.set()
        thread.join()
        card.close()


def measure_pair(stage: Stage, kind: str, engines: Sequence[str]) -> dict[str, Figures]:
    """Measure a host alone, then protected under each engine in turn."""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(dir=stage.folder) as place:
        folder, children, lines = Path(place), Children(), list[JsonLine]()
        (folder / "arbiter").mkdir()

        def wait(event: str) -> None:
            ends_at = time.monotonic() + BOOT_S
            while not any(line.get("event") == event for line in lines):
                children.pump(PUMP_NS)
                children.check()
                if time.monotonic() > ends_at:
                    raise BrokenError(f"{kind}: never came: {event}")

        # What hosts say is read all the time, or they would wait for it.
        is_over = threading.Event()

        def hear() -> None:
            while not is_over.is_set():
                children.pump(PUMP_NS)

        try:
            children.start("first", command(stage, folder, "run", f"{kind}:first"), lines.append)
            stage.wait_for_guest()
            for engine in ("", *engines):
                if engine == engines[0]:
                    children.start("second", command(stage, folder, "standby", f"{kind}:second"), lambda _: None)
                    wait("Protected")
                elif engine:
                    words = [sys.executable, "-P", "-m", "ftvm", "ctl", "engine", engine, "--guest", "bench"]
                    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment(folder))
                is_over.clear()
                hearing = threading.Thread(target=hear)
                hearing.start()
                try:
                    time.sleep(1)
                    found[engine or "unprotected"] = stage.measure()
                finally:
                    is_over.set()
                    hearing.join()
        finally:
            children.close()
    return found


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder)}


def command(stage: Stage, folder: Path, role: str, nic: str) -> list[str]:
    here, there = ("a", "b") if role == "run" else ("b", "a")
    words = ["env", f"XDG_RUNTIME_DIR={folder}", sys.executable, "-P", "-m", "ftvm", role, "--kind", "qemu", "--json"]
    words += ["--memory", "256M", "--guest", "bench", "--nic", nic, "--mac", MAC, "--interval", str(INTERVAL_MS)]
    words += ["--listen", f"ipc://{folder}/{here}", "--peer", f"ipc://{folder}/{there}", "--silence", "5000"]
    words += ["--arbiter", f"file://{folder}/arbiter", *(["--create"] if role == "run" else [])]
    return [*words, "--", *stage.booted]


# --- the table -------------------------------------------------------------------------------------------------------


def rows_of(name: str, found: Figures, peer: str, beside: Figures, goal: str | None) -> list[Row]:
    bulk = [
        Row(name=f"{name}: {what}", value=value, unit="Mbit/s", peer=peer, peer_value=other, goal=goal)
        for what, value, other in (
            ("TCP to the guest", found.to_guest, beside.to_guest),
            ("TCP from the guest", found.from_guest, beside.from_guest),
        )
    ]
    return [*bulk, Row(name=f"{name}: a request", value=found.ask_ms, unit="ms", peer=peer, peer_value=beside.ask_ms)]


def measure(arguments: argparse.Namespace) -> Sequence[Row]:
    for program in ("ip", "qemu-system-x86_64", "cc"):
        if shutil.which(program) is None:
            raise SystemExit(f"bench/net.py needs {program}")
    if refused := isolate():
        raise SystemExit(f"bench/net.py needs network namespaces: {refused}")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stage = Stage(Path(folder), is_quick=arguments.quick)
        plain, hold = measure_plain(stage), measure_hold(stage)
        pumped = measure_pair(stage, "pump", ("remus", "kemari"))
        tapped = {} if arguments.quick else measure_pair(stage, "tap", ("remus",))
    rows = rows_of("hold, 25 ms", hold, "plain tap", plain, None)
    rows += rows_of("pump, unprotected", pumped["unprotected"], "plain tap", plain, ">= 0.5")
    rows += rows_of("pump, remus 25 ms", pumped["remus"], "hold, 25 ms", hold, ">= 0.8")
    rows += rows_of("pump, kemari", pumped["kemari"], "plain tap", plain, None)
    for engine, found in tapped.items():
        rows += rows_of(f"tap, {engine}", found, "plain tap", plain, None)
    return rows


if __name__ == "__main__":
    report("A guest's network (TCP, one client)", measure, ("quick", bool, False))
