"""The machine's future does not depend on how the machine was compiled."""

import mmap
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cffi
import pytest
import xxhash

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.programs import read_program

from .driver import flooding

NATIVE = Path(__file__).parents[3] / "ftvm" / "_native"
BUILDS = [("gcc", "-O0"), ("gcc", "-O2"), ("clang", "-O1"), ("clang", "-O3")]
SHAPE = MachineShape(ram_bytes=8 << 20)
NEVER = (1 << 64) - 1
STEPS = [1, 999, 100_000, 400_000]
"""Where the state is compared, in instructions from the stop before."""


class Build:
    """The C core by itself, compiled for the test, running one program."""

    def __init__(self, library: Path, image: Machine, entry: tuple[int, int, int]) -> None:
        self.ffi = cffi.FFI()
        text = (NATIVE / "riscv.cdef").read_text()
        self.ffi.cdef("\n".join(line for line in text.splitlines() if not line.startswith("#define")))
        self.lib: Any = self.ffi.dlopen(str(library))
        shape, disk = image.shape, image.disk
        self.ram = mmap.mmap(-1, shape.ram_bytes)
        self.ram[:] = bytes(image.ram.buffer)
        self.disk = bytearray(disk.buffer if disk is not None else b"")
        parts = (
            self.ram,
            bytearray(shape.ram_bytes // 4096),
            mmap.mmap(-1, self.lib.ftvm_riscv_bytes(shape.ram_bytes)),
            self.disk,
            bytearray(shape.disk_bytes // 4096),
        )
        self.pointers = [self.ffi.from_buffer("uint8_t[]", part) for part in parts]
        config = self.ffi.new("ftvm_riscv_config *", {"ram_bytes": shape.ram_bytes, "disk_bytes": shape.disk_bytes})
        config.ram, config.flags, _, config.disk, config.disk_flags = self.pointers
        config.devices = shape.devices
        self.machine = self.lib.ftvm_riscv_init(self.pointers[2], config)
        self.lib.ftvm_riscv_boot(self.machine, *entry)

    def run(self, instructions: int) -> tuple[int, str]:
        while (stop := self.lib.ftvm_riscv_run(self.machine, instructions, 0)) == self.lib.FTVM_RISCV_IDLE:
            ticks = self.lib.ftvm_riscv_idle_max(self.machine)
            if ticks == NEVER:
                break
            self.lib.ftvm_riscv_idle(self.machine, ticks)
        self.lib.ftvm_riscv_outputs_clear(self.machine)
        state = self.ffi.new("uint8_t[]", 4096)
        length = self.lib.ftvm_riscv_save(self.machine, state, 4096)
        return stop, digest(bytes(self.ffi.buffer(state, length)), self.ram, self.disk)


def digest(state: bytes, *memories: Any) -> str:
    whole = xxhash.xxh3_128(state)
    for memory in memories:
        whole.update(memory)
    return whole.hexdigest()


def run_installed(machine: Machine, instructions: int) -> tuple[int, str]:
    while (stop := machine.run(instructions)).name == "IDLE":
        ticks = machine.idle_max()
        if ticks is None:
            break
        machine.idle(ticks)
    machine.take_outputs()
    return stop.value, digest(machine.save(), machine.ram.buffer, machine.disk.buffer if machine.disk else b"")


@pytest.fixture(scope="module", params=BUILDS, ids="".join)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler, level = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    built = tmp_path_factory.mktemp("core") / "core.so"
    folders = [NATIVE / "riscv", NATIVE / "devices"]
    nouns = [NATIVE / f"{noun}.c" for noun in ("riscv", "turn", "turnpack")]
    sources = sorted(map(str, [*nouns, *(source for folder in folders for source in folder.glob("*.c"))]))
    flags = ["-std=c11", level, "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fno-strict-aliasing"]
    subprocess.run([compiler, *flags, "-fPIC", "-shared", "-o", str(built), *sources], check=True)
    return built


@pytest.mark.parametrize("name", ["hello", "ticks", "dirty"])
def test_every_build_reaches_the_same_states(library: Path, name: str) -> None:
    program = parse_elf(read_program(name), ram_base=RAM_BASE, ram_bytes=SHAPE.ram_bytes)
    installed = Machine(SHAPE)
    installed.boot(program)
    build = Build(library, installed, (installed.register(32), installed.register(11), program.tohost))

    for instructions in STEPS:
        assert build.run(instructions) == run_installed(installed, instructions)


def test_every_build_serves_a_disk_that_is_behind_at_the_same_instructions(library: Path) -> None:
    installed = flooding()
    build = Build(library, installed, (installed.register(32), installed.register(11), 0))

    for instructions in [1, 999, 16_000, 1_000, 16_384, 100_000]:
        assert build.run(instructions) == run_installed(installed, instructions)
