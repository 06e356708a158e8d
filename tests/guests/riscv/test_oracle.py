"""Each class of instructions does what the reference simulator says that it does."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from .assembly import (
    EBREAK,
    ECALL,
    MRET,
    MSTATUS,
    WFI,
    addi,
    b_type,
    csrrs,
    csrrw,
    i_type,
    jal,
    load,
    r_type,
    s_type,
    to_bytes,
)
from .oracle import DATA, ISA_STRICT, POINTER, compare, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

register = st.integers(0, 30)
"""Not x31, which points at the data."""
corners = [0, 1, -1, 2, -2, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 32, 1 << 63, (1 << 63) - 1, 0x5555555555555555]
value = st.one_of(st.sampled_from(corners), st.integers(0, (1 << 64) - 1))
values = st.lists(value, min_size=30, max_size=30)
imm12 = st.integers(-2048, 2047)


def body(one: st.SearchStrategy[int], size: int = 120) -> st.SearchStrategy[bytes]:
    return st.lists(one, min_size=size // 2, max_size=size).map(to_bytes)


def r_ops(opcode: int, ops: list[tuple[int, int]]) -> st.SearchStrategy[int]:
    return st.builds(
        lambda op, rd, rs1, rs2: r_type(opcode, op[0], op[1], rd, rs1, rs2),
        st.sampled_from(ops),
        register,
        register,
        register,
    )


alu = r_ops(0x33, [(f, 0) for f in range(8)] + [(0, 0x20), (5, 0x20)])
alu_word = r_ops(0x3B, [(0, 0), (1, 0), (5, 0), (0, 0x20), (5, 0x20)])
multiply = st.one_of(r_ops(0x33, [(f, 1) for f in range(8)]), r_ops(0x3B, [(f, 1) for f in (0, 4, 5, 6, 7)]))
alu_immediate = st.one_of(
    st.builds(i_type, st.just(0x13), st.sampled_from([0, 2, 3, 4, 6, 7]), register, register, imm12),
    st.builds(i_type, st.just(0x1B), st.just(0), register, register, imm12),
    st.builds(i_type, st.just(0x13), st.sampled_from([1, 5]), register, register, st.integers(0, 63)),
    st.builds(i_type, st.just(0x13), st.just(5), register, register, st.integers(0x400, 0x43F)),
    st.builds(i_type, st.just(0x1B), st.sampled_from([1, 5]), register, register, st.integers(0, 31)),
    st.builds(i_type, st.just(0x1B), st.just(5), register, register, st.integers(0x400, 0x41F)),
)
upper = st.builds(
    lambda op, rd, imm: imm << 12 | rd << 7 | op, st.sampled_from([0x37, 0x17]), register, st.integers(0, 0xFFFFF)
)
loads = st.builds(i_type, st.just(0x03), st.integers(0, 6), register, st.just(POINTER), st.integers(-2000, 2000))
stores = st.builds(s_type, st.just(0x23), st.integers(0, 3), st.just(POINTER), register, st.integers(-2000, 2000))
branches = st.builds(b_type, st.sampled_from([0, 1, 4, 5, 6, 7]), register, register, st.sampled_from([4, 8, 12]))
jumps = st.builds(jal, register, st.sampled_from([4, 8]))
arithmetic = st.one_of(alu, alu_word, alu_immediate, multiply, upper)

CLASSES = {
    "register": alu,
    "word": alu_word,
    "multiply": multiply,
    "immediate": alu_immediate,
    "upper": upper,
    "memory": st.one_of(loads, stores, stores),
    "branch": st.one_of(branches, jumps, arithmetic),
}


@pytest.mark.parametrize("name", CLASSES)
@given(data=st.data(), registers=values, is_cached=st.booleans())
@few
def test_a_class_of_instructions(
    name: str, data: st.DataObject, registers: list[int], is_cached: bool, tmp_path: Path
) -> None:
    words = data.draw(body(CLASSES[name]))

    compare(words + to_bytes([addi(0, 0, 0)] * 3), registers, tmp_path, is_cached=is_cached)


@st.composite
def atomics(draw: st.DrawFn) -> list[int]:
    """An address in x30, sometimes misaligned, then LR, SC, or an AMO, with whatever ordering bits."""
    funct3 = draw(st.sampled_from([2, 3]))
    funct5 = draw(st.sampled_from([0, 1, 2, 2, 3, 3, 3, 4, 8, 12, 16, 20, 24, 28]))
    offset = draw(st.integers(0, 3)) * 8 + draw(st.sampled_from([0, 0, 0, 4, 1]))
    rs2 = 0 if funct5 == 2 else draw(st.integers(0, 25))
    word = r_type(0x2F, funct3, funct5 << 2 | draw(st.integers(0, 3)), draw(st.integers(0, 25)), 30, rs2)
    return [addi(30, POINTER, offset), word]


@given(st.lists(atomics(), min_size=20, max_size=60), values)
@few
def test_atomics_and_their_misaligned_traps(tmp_path: Path, steps: list[list[int]], registers: list[int]) -> None:
    code = to_bytes(word for step in steps for word in step)
    compare(code, registers, tmp_path, isa=ISA_STRICT)


def is_compressed_alu(half: int) -> bool:
    """Not a jump, a branch, a load or a store: those go where random bits say."""
    quadrant, funct3 = half & 3, half >> 13
    if quadrant == 0:
        return funct3 in (0, 1, 4, 5)
    if quadrant == 1:
        return funct3 < 5
    is_jump = funct3 == 4 and half >> 2 & 31 == 0 and half >> 7 & 31 != 0
    return quadrant == 2 and (funct3 in (0, 1, 5) or (funct3 == 4 and not is_jump))


def keeps_pointer(half: int) -> bool:
    return half >> 7 & 31 != POINTER


def tame_half(half: int) -> int:
    return half if is_compressed_alu(half) and keeps_pointer(half) else 1  # c.nop


@given(st.lists(st.integers(0, 0xFFFF).map(tame_half), min_size=100, max_size=300), values)
@few
def test_compressed_arithmetic_and_what_is_reserved_there(
    tmp_path: Path, halves: list[int], registers: list[int]
) -> None:
    compare(struct.pack(f"<{len(halves)}H", *halves), registers, tmp_path)


@st.composite
def compressed_memory(draw: st.DrawFn) -> bytes:
    """All bases point at the data again, then one compressed load or store uses one of them."""
    quadrant = draw(st.sampled_from([0, 2]))
    funct3 = draw(st.sampled_from([2, 3, 6, 7]))
    half = funct3 << 13 | draw(st.integers(0, 0x1FFF)) & ~3 | quadrant
    assume(keeps_pointer(half) or funct3 > 3)
    base = 2 if quadrant == 2 else 8 + (half >> 7 & 7)
    return to_bytes([addi(base, POINTER, 0)]) + struct.pack("<H", half)


@given(st.lists(compressed_memory(), min_size=30, max_size=80), values)
@few
def test_compressed_loads_and_stores(tmp_path: Path, steps: list[bytes], registers: list[int]) -> None:
    compare(b"".join(steps), registers, tmp_path)


def tame_word(word: int) -> int:
    """Anything that is not a jump, a memory access, a csr, WFI or a return, and leaves the pointer alone."""
    is_wild = (word & 0x7F | 3) in (0x63, 0x67, 0x6F, 0x03, 0x23, 0x2F, 0x73) or word >> 7 & 31 == POINTER
    return addi(0, 0, 0) if is_wild else word | 3


@given(
    st.lists(st.integers(0, (1 << 32) - 1).map(tame_word), min_size=100, max_size=250),
    values,
)
@few
def test_random_words_are_legal_or_not_alike(tmp_path: Path, words: list[int], registers: list[int]) -> None:
    compare(to_bytes(words), registers, tmp_path)


CSRS = [0x300, 0x301, 0x304, 0x306, 0x30A, 0x320, 0x323, 0x33F, 0x340, 0x341, 0x342, 0x343, 0xB03, 0xB1F, 0x7A0,
        0xF11, 0xF13, 0xF14, 0xF15, 0x3B0, 0x100, 0x180, 0x105, 0x5C0, 0xC80]  # fmt: skip
READ_ONLY_HERE = {0x300, 0x301, 0x320, 0x7A0, 0x3B0}
"""Only read: spike has more of these, or a timer interrupt waiting (mstatus), or the comparison itself counts by it
(mcountinhibit)."""


@st.composite
def csr_words(draw: st.DrawFn) -> int:
    csr = draw(st.sampled_from(CSRS))
    funct3 = draw(st.sampled_from([1, 2, 3, 5, 6, 7]))
    rs1 = draw(register)
    if csr in READ_ONLY_HERE:
        funct3, rs1 = 2, 0
    return i_type(0x73, funct3, draw(register), rs1, csr)


@given(body(csr_words(), 80), values)
@few
def test_control_registers_in_machine_mode(tmp_path: Path, words: bytes, registers: list[int]) -> None:
    quiet = to_bytes([csrrw(0, 0x304, 0)])
    compare(quiet + words + to_bytes([csrrs(1, MSTATUS), csrrs(2, 0x341), csrrs(3, 0x342)]), registers, tmp_path)


user_words = st.one_of(
    st.sampled_from([ECALL, EBREAK, MRET, WFI, csrrs(3, 0xC00), csrrs(3, 0xC01), csrrs(3, 0xC02), csrrw(3, 0xC00, 3)]),
    csr_words(),
    arithmetic,
    loads,
    stores,
)


@given(body(user_words, 80), values)
@few
def test_user_mode_and_its_traps(tmp_path: Path, words: bytes, registers: list[int]) -> None:
    compare(words, registers, tmp_path, is_user=True)


@given(st.lists(st.sampled_from([ECALL, EBREAK, 0x9002, 0x00000000, 0x0000]), min_size=5, max_size=30), values)
@few
def test_calls_and_breakpoints_in_machine_mode(tmp_path: Path, words: list[int], registers: list[int]) -> None:
    compare(to_bytes(words), registers, tmp_path)


def test_an_access_where_nothing_is_faults_alike(tmp_path: Path) -> None:
    far = [load(1, 2), load(1, 2, 8, size=4), s_type(0x23, 3, 2, 1, 0), r_type(0x2F, 2, 0, 1, 2, 3), load(4, POINTER)]
    registers = [0, 1 << 60, *range(28)]

    compare(to_bytes(far), registers, tmp_path)

    assert DATA > 0
