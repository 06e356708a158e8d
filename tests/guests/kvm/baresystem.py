"""A system that checks itself (bare/), compiled and dressed as a Linux kernel; and kernels of any look, for tests."""

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "bare"
MIB = 1 << 20
MEMORY_BYTES = 8 * MIB
BEAT = re.compile(
    rb"beat (\d+) bad (\d+) back (\d+) timer (\d+) typed (\d+) random (\d+) disk (\d+) "
    rb"frames (\d+) workers (\d+) ticks (\d+) clock ([0-9a-f]{16})\n"
)
_FLAGS = (
    "-m64 -O1 -std=gnu11 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie -mno-red-zone -fno-stack-protector "
    "-fno-asynchronous-unwind-tables -mgeneral-regs-only -nostdlib -static "
    "-Wl,--build-id=none,--no-warn-rwx-segments,-z,noexecstack"
)


@dataclass(frozen=True, slots=True)
class Beat:
    """What the system says each tenth of a second: how many, wrong words, clocks that went back, ticks of its timer,
    keys and random words that came, sectors written or read, frames answered, the other processors and the ticks of
    theirs, its time."""

    number: int
    bad: int
    back: int
    timer: int
    typed: int
    random: int
    disk: int
    frames: int
    workers: int
    ticks: int
    clock_ns: int


def beats_in(console: bytes) -> list[Beat]:
    return [Beat(*map(int, numbers), int(clock, 16)) for *numbers, clock in BEAT.findall(console)]


def kernel(
    body: bytes,
    *,
    address: int = MIB,
    needs: int = MIB,
    version: int = 0x20F,
    flags: int = 1,
    magic: bytes = b"HdrS",
    sectors: int = 3,
) -> bytes:
    """Return a kernel as a boot loader finds it, whose code is `body`."""
    head = bytearray(512 * (sectors + 1))
    head[0x1F1] = sectors
    head[0x201] = 0x6A
    head[0x202:0x206] = magic
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<I", head, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", head, 0x236, flags)
    struct.pack_into("<I", head, 0x238, 2047)
    struct.pack_into("<QI", head, 0x258, address, needs)
    return bytes(head) + body


def bare_kernel(folder: Path) -> bytes:
    """Return the system as a kernel; skips without a compiler."""
    for program in ("gcc", "objcopy"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    elf, image = folder / "bare.elf", folder / "bare.bin"
    sources = [SOURCES / "start.S", SOURCES / "guest.c"]
    subprocess.run(
        ["gcc", *_FLAGS.split(), f"-Wl,-T,{SOURCES / 'link.ld'}", "-o", elf, *sources], check=True, timeout=120
    )
    subprocess.run(["objcopy", "-O", "binary", elf, image], check=True, timeout=60)
    return kernel(image.read_bytes())
