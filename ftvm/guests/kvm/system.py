"""What lies in a KVM machine's memory when it boots a system: kernel, ramdisk, and what tells the kernel of all. Pure.

There is no firmware: the processor begins in the kernel's 64-bit entry, with what a boot loader would have left.

    0x1000   page tables (boot.py)       0xe0000    ACPI tables
    0x8000   boot parameters             1 MiB      RAM; the kernel where it wants to be
    0x9000   table of segments           at the end of RAM: the ramdisk
    0xa000   command line

Source: the kernel's Documentation/arch/x86/boot.rst and zero-page.rst.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm.errors import ImageError
from ftvm.guests.files import read_program_file
from ftvm.guests.kvm.acpi import acpi_tables
from ftvm.guests.kvm.boot import PAGE_TABLE, page_tables
from ftvm.units import PAGE_BYTES

__all__ = ["BOOT_PARAMETERS", "SEGMENTS", "KvmSystem", "check_system", "place_system"]

BOOT_PARAMETERS: Final = 0x8000
SEGMENTS: Final = 0x9000
COMMAND_LINE: Final = 0xA000
ACPI: Final = 0xE0000
HIGH: Final = 0x10_0000
LOW_END: Final = 0x9_FC00

SEGMENT_TABLE: Final = struct.pack("<4Q", 0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
"""Code for selector 0x10 and data for 0x18, flat."""

_SETUP: Final = 0x1F1
_MAGIC: Final = b"HdrS"
_SECTOR: Final = 512
_ENTRY_64: Final = 0x200
_VERSION_NEEDED: Final = 0x20C
"""The first that tells of a 64-bit entry."""
_HAS_64: Final = 1
_UNKNOWN_LOADER: Final = 0xFF
_USABLE, _RESERVED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmSystem:
    """An operating system to boot.

    kernel        a Linux kernel for x86-64 as distributions ship it (bzImage), or its path
    ramdisk       its first file system, or the path; empty: none
    command_line  the kernel's; its console is ttyS0
    """

    kernel: bytes | str | Path
    ramdisk: bytes | str | Path = b""
    command_line: str = "console=ttyS0"


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What a kernel's header says, and the kernel itself."""

    setup: bytes
    image: bytes
    address: int
    needs_bytes: int
    ramdisk_end_max: int
    line_bytes_max: int


def place_system(system: KvmSystem, ram: memoryview, *, processors: int, slots: Sequence[int]) -> int:
    """Write a system and all it needs to blank memory; return where it is entered.

    Raises ImageError or ConfigError, having written nothing, if it is not such a kernel, memory is too small for it, or
    a file cannot be read.
    """
    kernel, ramdisk, ramdisk_at = _plan(system, len(ram))
    parts = {
        PAGE_TABLE: page_tables(),
        BOOT_PARAMETERS: _boot_parameters(kernel, len(ram), ramdisk_at, len(ramdisk)),
        SEGMENTS: SEGMENT_TABLE,
        COMMAND_LINE: system.command_line.encode() + b"\0",
        ACPI: acpi_tables(ACPI, processors=processors, slots=slots),
        kernel.address: kernel.image,
        ramdisk_at: ramdisk,
    }
    for address, content in parts.items():
        ram[address : address + len(content)] = content
    return kernel.address + _ENTRY_64


def check_system(system: KvmSystem, *, memory_bytes: int) -> None:
    """Raise ImageError or ConfigError unless place_system takes it in so much memory."""
    _plan(system, memory_bytes)


def _read(content: bytes | str | Path) -> bytes:
    return content if isinstance(content, bytes) else read_program_file(Path(content))


def _plan(system: KvmSystem, ram_bytes: int) -> tuple[_Kernel, bytes, int]:
    """Return the kernel, the ramdisk and where that goes: as high as the kernel allows."""
    kernel, ramdisk = _parse(_read(system.kernel)), _read(system.ramdisk)
    line_bytes = len(system.command_line.encode())
    if line_bytes > kernel.line_bytes_max:
        raise ImageError(f"the kernel's command line has {line_bytes} bytes: it takes {kernel.line_bytes_max} at most")
    end = min(ram_bytes, kernel.ramdisk_end_max + 1)
    ramdisk_at = (end - len(ramdisk)) // PAGE_BYTES * PAGE_BYTES
    kernel_end = kernel.address + max(kernel.needs_bytes, len(kernel.image))
    if kernel_end > ramdisk_at:
        needed = (kernel_end + len(ramdisk) + (1 << 20) - 1) >> 20
        raise ImageError(f"the kernel and its ramdisk need more memory: at least {needed} MiB")
    return kernel, ramdisk, ramdisk_at


def _parse(content: bytes) -> _Kernel:
    """Take a kernel apart. Raises ImageError that says what it lacks."""
    if content[0x202:0x206] != _MAGIC or len(content) < 0x268:
        raise ImageError("this is no Linux kernel for x86 that a boot loader could start (a bzImage)")
    (version,) = struct.unpack_from("<H", content, 0x206)
    (flags,) = struct.unpack_from("<H", content, 0x236)
    if version < _VERSION_NEEDED or not flags & _HAS_64:
        raise ImageError("the kernel has no 64-bit entry: take one for x86-64, of Linux 3.8 or later")
    sectors = content[_SETUP] or 4
    end_max, line_max = struct.unpack_from("<I", content, 0x22C)[0], struct.unpack_from("<I", content, 0x238)[0]
    (address,), (needs,) = struct.unpack_from("<Q", content, 0x258), struct.unpack_from("<I", content, 0x260)
    if not HIGH <= address < 1 << 31:
        raise ImageError(f"the kernel wants to be at {address:#x}, where this machine cannot put it")
    return _Kernel(
        setup=content[_SETUP : 0x202 + content[0x201]],
        image=content[(sectors + 1) * _SECTOR :],
        address=address,
        needs_bytes=needs,
        ramdisk_end_max=end_max,
        line_bytes_max=min(line_max, PAGE_BYTES - 1),
    )


def _boot_parameters(kernel: _Kernel, ram_bytes: int, ramdisk_at: int, ramdisk_bytes: int) -> bytes:
    """Return the page by which a boot loader tells the kernel where everything is."""
    page = bytearray(PAGE_BYTES)

    def put(offset: int, form: str, *values: int) -> None:
        struct.pack_into(form, page, offset, *values)

    page[_SETUP : _SETUP + len(kernel.setup)] = kernel.setup
    put(0x070, "<Q", ACPI)
    put(0x210, "<B", _UNKNOWN_LOADER)
    if ramdisk_bytes:
        put(0x218, "<II", ramdisk_at, ramdisk_bytes)
    put(0x228, "<I", COMMAND_LINE)
    ranges = [(0, LOW_END, _USABLE), (LOW_END, HIGH - LOW_END, _RESERVED), (HIGH, ram_bytes - HIGH, _USABLE)]
    put(0x1E8, "<B", len(ranges))
    for number, each in enumerate(ranges):
        put(0x2D0 + 20 * number, "<QQI", *each)
    return bytes(page)
