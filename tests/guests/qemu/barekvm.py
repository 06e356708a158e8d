"""A guest that checks itself (bare/): compiled, booted once under KVM for all processes that test, then loaded."""

import fcntl
import pickle
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.kvm.machine import check_device
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.testing.transcript import fill_region

from .conftest import Ear

SOURCES = Path(__file__).parent / "bare"
MEMORY = 32 << 20
BEAT = re.compile(
    rb"beat (\d+) bad (\d+) pit (\d+) lapic (\d+) writes (\d+) workers (\d+) writes (\d+) "
    rb"clock ([0-9a-f]{16}) version \d+\n"
)
_FLAGS = (
    "-m32 -O1 -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie -fno-stack-protector "
    "-fno-asynchronous-unwind-tables -mgeneral-regs-only -nostdlib -static "
    "-Wl,--build-id=none,-m,elf_i386,--no-warn-rwx-segments"
)


@dataclass(frozen=True, slots=True)
class Beat:
    """What the guest says each half second: how many, wrong words, ticks of both timers, writes, those of the other
    processors and how many these are, its time."""

    number: int
    bad: int
    pit: int
    lapic: int
    writes: int
    workers: int
    worker_writes: int
    clock_ns: int


def beats_in(console: bytes) -> list[Beat]:
    return [Beat(*map(int, numbers), int(clock, 16)) for *numbers, clock in BEAT.findall(console)]


@dataclass(frozen=True, slots=True)
class BareGuest:
    """The machine, and its state after some beats."""

    machine: QemuMachine
    devices: bytes
    memory: tuple[bytes, ...]
    clock_page: int
    """The number of the page in which KVM tells the time; nobody else writes it."""
    clock_ns: int
    """Its time at its last beat."""

    def blank(self, **options: str) -> QemuGuest:
        return QemuGuest(self.machine, boots=False, **options)  # type: ignore[arg-type]

    def loaded(self) -> QemuGuest:
        guest = self.blank(tracker="userfault")
        for region, content in zip(guest.memory, self.memory, strict=True):
            fill_region(region, content)
        guest.load_devices(self.devices)
        return guest


def boot_bare_guest(shared: Path, cpus: int = 1) -> BareGuest:
    """Return the guest with so many processors, booted by one process; skips without KVM, QEMU or a compiler."""
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("gcc", "gcc"), ("nm", "binutils")):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install {package}")
    try:
        check_device()
    except ConfigError as wrong:
        pytest.skip(f"needs KVM: {wrong}")
    kept = shared / f"bare-{cpus}.pickle"
    with open(shared / "bare.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(_boot(shared, cpus)))
        guest = pickle.loads(kept.read_bytes())
    assert isinstance(guest, BareGuest)
    return guest


def _boot(folder: Path, cpus: int) -> BareGuest:
    elf = folder / "bare.elf"
    sources = [SOURCES / "start.S", SOURCES / "guest.c"]
    subprocess.run(
        ["gcc", *_FLAGS.split(), f"-Wl,-T,{SOURCES / 'link.ld'}", "-o", elf, *sources], check=True, timeout=120
    )
    symbols = subprocess.run(["nm", elf], check=True, capture_output=True, text=True).stdout
    alone = re.search(r"([0-9a-f]{8}) b alone", symbols)
    assert alone is not None
    machine = QemuMachine(
        memory_bytes=MEMORY, arguments=("-cpu", "qemu64", "-smp", str(cpus), "-kernel", str(elf)), accel="kvm"
    )
    guest, ear = QemuGuest(machine, boots=True), Ear()
    try:
        guest.attach(ear)
        guest.resume()
        ear.wait_for(b"beat 2 ")
        guest.pause()
        memory = tuple(bytes(region.buffer) for region in guest.memory)
        clock_ns = beats_in(bytes(ear.console))[-1].clock_ns
        return BareGuest(machine, guest.save_devices(), memory, int(alone[1], 16) // 4096, clock_ns)
    finally:
        guest.close()
