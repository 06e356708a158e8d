"""A few RISC-V instructions as numbers, and programs made of them: what the tests need of an assembler."""

import struct
from collections.abc import Iterable, Sequence

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason

SMALL = MachineShape(ram_bytes=1 << 20)

FINISHER = 0x100000
CLINT = 0x2000000
PLIC = 0xC000000
UART = 0x10000000
MSTATUS, MIE, MTVEC, MSCRATCH, MEPC, MCAUSE, MTVAL, MIP = 0x300, 0x304, 0x305, 0x340, 0x341, 0x342, 0x343, 0x344
MCYCLE, MINSTRET, TIME = 0xB00, 0xB02, 0xC01

ECALL, EBREAK, MRET, WFI, FENCE_I = 0x73, 0x100073, 0x30200073, 0x10500073, 0x100F


def r_type(opcode: int, funct3: int, funct7: int, rd: int, rs1: int, rs2: int) -> int:
    return funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def i_type(opcode: int, funct3: int, rd: int, rs1: int, imm: int) -> int:
    return (imm & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def s_type(opcode: int, funct3: int, rs1: int, rs2: int, imm: int) -> int:
    return (imm >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 0x1F) << 7 | opcode


def b_type(funct3: int, rs1: int, rs2: int, offset: int) -> int:
    low = (offset >> 1 & 0xF) << 8 | (offset >> 11 & 1) << 7
    high = (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3F) << 25
    return high | rs2 << 20 | rs1 << 15 | funct3 << 12 | low | 0x63


def jal(rd: int, offset: int) -> int:
    imm = (
        (offset >> 20 & 1) << 31 | (offset >> 1 & 0x3FF) << 21 | (offset >> 11 & 1) << 20 | (offset >> 12 & 0xFF) << 12
    )
    return imm | rd << 7 | 0x6F


def jalr(rd: int, rs1: int, offset: int = 0) -> int:
    return i_type(0x67, 0, rd, rs1, offset)


def addi(rd: int, rs1: int, imm: int) -> int:
    return i_type(0x13, 0, rd, rs1, imm)


def add(rd: int, rs1: int, rs2: int) -> int:
    return r_type(0x33, 0, 0, rd, rs1, rs2)


def bne(rs1: int, rs2: int, offset: int) -> int:
    return b_type(1, rs1, rs2, offset)


def load(rd: int, rs1: int, offset: int = 0, *, size: int = 8) -> int:
    return i_type(0x03, size.bit_length() - 1, rd, rs1, offset)


def store(rs2: int, rs1: int, offset: int = 0, *, size: int = 8) -> int:
    return s_type(0x23, size.bit_length() - 1, rs1, rs2, offset)


def csrrw(rd: int, csr: int, rs1: int) -> int:
    return i_type(0x73, 1, rd, rs1, csr)


def csrrs(rd: int, csr: int, rs1: int = 0) -> int:
    return i_type(0x73, 2, rd, rs1, csr)


def li(rd: int, value: int) -> list[int]:
    """Load any 64-bit number, always in LI_WORDS instructions, so that distances do not depend on values."""
    value &= (1 << 64) - 1
    words = [addi(rd, 0, value >> 55)]
    for shift in (44, 33, 22, 11, 0):
        words += [i_type(0x13, 1, rd, rd, 11), i_type(0x13, 6, rd, rd, value >> shift & 0x7FF)]
    return words


LI_WORDS = len(li(1, 0))


def finish(code: int = 0) -> list[int]:
    """End the machine by the finisher; uses x30 and x31."""
    return [*li(30, FINISHER), *li(31, 0x5555 if code == 0 else code << 16 | 0x3333), store(31, 30, size=4)]


def to_bytes(words: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", word) for word in words)


def elf(code: bytes, *, address: int = RAM_BASE, tohost: int = 0, machine: int = 243, kind: int = 2) -> bytes:
    """Wrap code as an executable of one segment, with a symbol table if it has a `tohost` (and a `fromhost` behind)."""
    header_bytes, segment_bytes, section_bytes, symbol_bytes = 64, 56, 64, 24
    code_at = header_bytes + segment_bytes
    strings = b"\0tohost\0fromhost\0.symtab\0.strtab\0"
    symbols = bytes(symbol_bytes)
    for name, value in ((b"tohost", tohost), (b"fromhost", tohost + 8)):
        symbols += struct.pack("<IBBHQQ", strings.index(name), 0x11, 0, 0xFFF1, value, 8)
    symbols_at = code_at + len(code)
    strings_at = symbols_at + len(symbols)
    sections_at = strings_at + len(strings) if tohost else 0
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident, kind, machine, 1, address, header_bytes, sections_at, 0,
        header_bytes, segment_bytes, 1, section_bytes, 3 if tohost else 0, 2 if tohost else 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 7, code_at, address, address, len(code), len(code), 4096)
    image = header + segment + code
    if not tohost:
        return image
    null = bytes(section_bytes)
    symbol_name, string_name = strings.index(b".symtab"), strings.index(b".strtab")
    symbol_section = (symbol_name, 2, 0, 0, symbols_at, len(symbols), 2, 1, 8, symbol_bytes)
    string_section = (string_name, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
    sections = [struct.pack("<IIQQQQIIQQ", *section) for section in (symbol_section, string_section)]
    return image + symbols + strings + null + b"".join(sections)


def booted(words: Sequence[int], *, shape: MachineShape = SMALL, tohost: int = 0) -> Machine:
    """Return a machine that is about to run these instructions from the start of RAM."""
    machine = Machine(shape)
    image = elf(to_bytes(words), tohost=tohost)
    machine.boot(parse_elf(image, ram_base=RAM_BASE, ram_bytes=shape.ram_bytes))
    return machine


def run_to_end(machine: Machine, *, limit: int = 100_000) -> list[tuple[str, bytes]]:
    """Run until the program ends; return its outputs."""
    stop = machine.run(limit)
    assert stop is StopReason.FINISHED, (stop, machine.position, hex(machine.register(32)))
    return [(output.channel, output.payload) for output in machine.take_outputs()]


def changed_pages(before: bytes, after: bytes) -> set[int]:
    return {at // 4096 for at in range(0, len(before), 4096) if before[at : at + 4096] != after[at : at + 4096]}
