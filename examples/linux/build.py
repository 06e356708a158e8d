#!/usr/bin/env python3
"""Build the Linux guest: a kernel without memory management, in machine mode, with init.c as its only program.

Writes FOLDER/linux.elf, which runs on ftvm's built-in machine and on QEMU's `virt` board with `-bios none`. Everything
is kept in FOLDER; when nothing that goes in has changed, nothing is done again. Nothing is fetched: the kernel's source
is Debian's package linux-source-6.1, the compilers are gcc-riscv64-linux-gnu (kernel) and gcc-riscv64-unknown-elf with
picolibc-riscv64-unknown-elf (init).

    python3 examples/linux/build.py ~/.cache/ftvm-linux
"""

import argparse
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
GUESTS: Final = HERE.parent / "guests"
SOURCE: Final = Path("/usr/src/linux-source-6.1.tar.xz")
KERNEL_CROSS: Final = "riscv64-linux-gnu-"
INIT_CROSS: Final = "riscv64-unknown-elf-"
PACKAGES: Final = {
    f"{KERNEL_CROSS}gcc": "gcc-riscv64-linux-gnu",
    f"{INIT_CROSS}gcc": "gcc-riscv64-unknown-elf and picolibc-riscv64-unknown-elf",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
}

LOAD_ADDRESS: Final = 0x80000000
"""Where a kernel without memory management is linked to run: the start of memory."""

STACK_BYTES: Final = 16384
FLAT_BASES: Final = (0x10000000, 0x20001000)
FLAT_FLAG_RAM: Final = 1
INIT_SOURCES: Final = (
    HERE / "start.S",
    HERE / "init.c",
    GUESTS / "kv" / "kv.c",
    GUESTS / "kv" / "kv_table.c",
    GUESTS / "kv" / "kv_clients.c",
    GUESTS / "board" / "text.c",
)
# KV_ENTRIES_MAX: without memory management, 4 MiB is the largest piece of memory that a program can get.
INIT_FLAGS: Final = (
    *("-std=c11", "-O2", "-misa-spec=2.2", "-march=rv64imac", "-mabi=lp64", "-mcmodel=medany"),
    *("--specs=picolibc.specs", "-ffreestanding", "-fno-jump-tables", "-ffunction-sections", "-fdata-sections"),
    *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
    *("-nostartfiles", "-Wl,--gc-sections", "-Wl,--no-relax", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"),
    *("-DKV_ENTRIES_MAX=4096u", f"-I{GUESTS}", f"-T{HERE / 'flat.ld'}"),
)
INITRAMFS_LIST: Final = """\
dir /dev 0755 0 0
nod /dev/console 0600 0 0 c 5 1
file /init {init} 0755 0 0
"""


class BuildError(Exception):
    """The guest cannot be built; the message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to build and to keep everything (1.5 GB)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    options = parser.parse_args(arguments)
    try:
        print(build(options.folder.expanduser().resolve(), options.jobs))
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: this command failed with status {error.returncode}: {error.cmd}", file=sys.stderr)
        return 1
    return 0


def build(folder: Path, jobs: int) -> Path:
    """Build in `folder` and return the path of the ELF file."""
    check_tools()
    if any(character in str(folder) for character in " \t:"):
        raise BuildError(f"the kernel cannot be built in {folder}: no spaces or colons in the path, please")
    folder.mkdir(parents=True, exist_ok=True)
    result, stamp = folder / "linux.elf", folder / "linux.stamp"
    wanted = digest_of_inputs()
    if result.exists() and stamp.exists() and stamp.read_text() == wanted:
        return result
    stamp.unlink(missing_ok=True)
    init = build_init(folder)
    image = build_kernel(folder, init, jobs)
    result.write_bytes(elf_around(image.read_bytes()))
    stamp.write_text(wanted)
    return result


def check_tools() -> None:
    """Raise BuildError, naming the Debian packages, if anything is missing."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if not SOURCE.exists():
        missing.append("linux-source-6.1")
    if missing:
        raise BuildError(f"please install (Debian): {', '.join(missing)}")


def digest_of_inputs() -> str:
    """Name the state of everything that goes in: our sources, and which kernel source and compilers are installed."""
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*"), *(GUESTS / "kv").glob("*"), *(GUESTS / "board").glob("*")]):
        if path.is_file():
            digest.update(path.read_bytes())
    found = SOURCE.stat()
    digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    for compiler in (f"{KERNEL_CROSS}gcc", f"{INIT_CROSS}gcc"):
        digest.update(subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout)
    return digest.hexdigest()


def build_init(folder: Path) -> Path:
    """Compile init as a flat executable and return its path."""
    images = {base: link_init(folder, base) for base in FLAT_BASES}
    first, second = images.values()
    if first != second:
        raise BuildError("init depends on its address: look for pointers in initialised data")
    symbols = read_symbols(folder / "init.elf")
    base = FLAT_BASES[-1]
    data, data_end, end = (symbols[name] - base for name in ("flat_data", "flat_data_end", "flat_end"))
    header = flat_header(data=data, data_end=data_end, end=end)
    result = folder / "init.flat"
    result.write_bytes(header + first.ljust(data_end - len(header), b"\0"))
    os.utime(result, (0, 0))  # the kernel's archive records when the file was written
    return result


def link_init(folder: Path, base: int) -> bytes:
    """Compile and link init to run at `base`; return what it loads, from just behind the header on."""
    elf, image = folder / "init.elf", folder / "init.image"
    command = [f"{INIT_CROSS}gcc", *INIT_FLAGS, f"-Wl,--defsym=flat_base={base:#x}", *map(str, INIT_SOURCES)]
    subprocess.run([*command, "-o", str(elf)], check=True)
    subprocess.run([f"{INIT_CROSS}objcopy", "-O", "binary", str(elf), str(image)], check=True)
    return image.read_bytes()


def read_symbols(elf: Path) -> dict[str, int]:
    """Return the addresses of all symbols of an ELF file."""
    output = subprocess.run([f"{INIT_CROSS}nm", str(elf)], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1]: int(line.split()[0], 16) for line in output.splitlines() if len(line.split()) == 3}


def flat_header(*, data: int, data_end: int, end: int) -> bytes:
    """The header of Linux's flat executables: program from 64 to `data`, data, cleared data to `end`, no relocations.

    Source: Linux, include/linux/flat.h, version 4 of the format.
    """
    fields = (4, 64, data, data_end, end, STACK_BYTES, data_end, 0, FLAT_FLAG_RAM, 0)
    return b"bFLT" + struct.pack(">10I", *fields) + bytes(20)


def build_kernel(folder: Path, init: Path, jobs: int) -> Path:
    """Configure and compile the kernel with `init` inside; return the path of its image."""
    source = unpack_kernel(folder)
    listing = folder / "initramfs.list"
    listing.write_text(INITRAMFS_LIST.format(init=init))
    wish = folder / "wish.config"
    wish.write_text((HERE / "kernel.config").read_text() + f'CONFIG_INITRAMFS_SOURCE="{listing}"\n')

    # Nothing of this machine or this moment goes into the image.
    stamps = {"KBUILD_BUILD_TIMESTAMP": "1970-01-01", "KBUILD_BUILD_VERSION": "1"}
    stamps |= {"KBUILD_BUILD_USER": "ftvm", "KBUILD_BUILD_HOST": "ftvm"}
    environment = {**os.environ, **stamps, "ARCH": "riscv", "CROSS_COMPILE": KERNEL_CROSS}
    make = ["make", "-s", "-C", str(source), f"-j{jobs}"]
    subprocess.run([*make, f"KCONFIG_ALLCONFIG={wish}", "allnoconfig"], check=True, env=environment, stdout=sys.stderr)
    check_config(wish, source / ".config")
    subprocess.run([*make, "Image"], check=True, env=environment, stdout=sys.stderr)
    return source / "arch" / "riscv" / "boot" / "Image"


def unpack_kernel(folder: Path) -> Path:
    """Unpack the kernel's source once; return its folder."""
    source, half = folder / "linux-source-6.1", folder / "unpacking"
    if not source.exists():
        shutil.rmtree(half, ignore_errors=True)
        print("unpacking the kernel's source", file=sys.stderr)
        with tarfile.open(SOURCE) as archive:
            archive.extractall(half, filter="tar")
        (half / source.name).rename(source)
        half.rmdir()
    return source


def check_config(wish: Path, got: Path) -> None:
    """Raise BuildError if the kernel's configuration dropped anything that was asked for."""
    present = set(got.read_text().splitlines())
    asked = [line for line in wish.read_text().splitlines() if line.startswith(("CONFIG_", "# CONFIG_"))]
    dropped = [line for line in asked if line not in present and not line.endswith("is not set")]
    if dropped:
        raise BuildError(f"this kernel does not know or dropped: {', '.join(dropped)}")


def elf_around(image: bytes) -> bytes:
    """Wrap the kernel's image into an ELF file of one segment, at the start of memory.

    The kernel's own ELF file gives its sections physical addresses that only its boot loader understands. The image
    says in its header how much memory it takes with its cleared data (Documentation/riscv/boot-image-header.rst).
    """
    if image[0x38:0x3C] != b"RSC\x05":
        raise BuildError("the kernel's image has no RISC-V header")
    memory_bytes = struct.unpack_from("<Q", image, 16)[0]
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, LOAD_ADDRESS, 64, 0, 1, 64, 56, 1, 64, 0, 0)
    offset = 4096
    segment = struct.pack("<IIQQQQQQ", 1, 7, offset, LOAD_ADDRESS, LOAD_ADDRESS, len(image), memory_bytes, 4096)
    return (ident + header + segment).ljust(offset, b"\0") + image


if __name__ == "__main__":
    sys.exit(main())
