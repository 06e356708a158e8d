import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ImageError
from ftvm.guests.riscv.elf import Program, Segment, parse_elf

from .assembly import addi, elf, to_bytes

CODE = to_bytes([addi(0, 0, 0)])
BASE, SIZE = 0x80000000, 1 << 20


def parse(image: bytes) -> Program:
    return parse_elf(image, ram_base=BASE, ram_bytes=SIZE)


def test_an_executable_becomes_its_segments_entry_and_tohost() -> None:
    image = elf(CODE, tohost=BASE + 0x1000)

    program = parse(image)

    segment = Segment(address=BASE, content=CODE, memory_bytes=len(CODE))
    assert program == Program(entry=BASE, segments=(segment,), tohost=BASE + 0x1000)


def test_a_program_without_symbols_has_no_tohost() -> None:
    assert parse(elf(CODE)).tohost == 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (elf(CODE)[:40], "cut short in its header"),
        (elf(CODE)[:100], "cut short in its segment table"),
        (elf(CODE)[:-1], "cut short in the segment for 0x80000000"),
        (elf(CODE, tohost=BASE)[:-1], "cut short in its section table"),
        (elf(CODE)[:4] + b"\1" + elf(CODE)[5:], "32 bits wide"),
        (elf(CODE)[:5] + b"\2" + elf(CODE)[6:], "big-endian"),
        (elf(CODE, machine=62), "for ELF machine 62, not for RISC-V"),
        (elf(CODE, kind=1), "relocatable object: link it first"),
        (elf(CODE, kind=3), "position-independent"),
        (elf(CODE, address=0x10000), "0x10000-0x10004 lies outside of RAM 0x80000000-0x80100000"),
        (elf(CODE, address=BASE + SIZE - 2), "lies outside of RAM"),
        (elf(b""), "no segments to load"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(image: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse(image)


def test_an_entry_outside_of_the_program_is_refused() -> None:
    image = bytearray(elf(CODE))
    image[24:32] = (BASE + 64).to_bytes(8, "little")

    with pytest.raises(ImageError, match="entry point 0x80000040"):
        parse(bytes(image))


@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_no_altered_or_shortened_file_does_more_than_raise_image_error(at: int, value: int, length: int) -> None:
    image = bytearray(elf(CODE, tohost=BASE))
    image[at % len(image)] = value

    for candidate in (bytes(image), bytes(image[:length])):
        try:
            program = parse(candidate)
        except ImageError:
            continue
        assert all(BASE <= part.address <= BASE + SIZE - part.memory_bytes for part in program.segments)
