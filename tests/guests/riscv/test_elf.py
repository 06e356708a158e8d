import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ImageError
from ftvm.guests.elf import Program, Segment, parse_elf

from .assembly import addi, elf, to_bytes

CODE = to_bytes([addi(0, 0, 0)])
BASE, SIZE = 0x80000000, 1 << 20


def parse(image: bytes) -> Program:
    return parse_elf(image, ram_base=BASE, ram_bytes=SIZE)


def test_an_executable_becomes_its_segments_entry_and_tohost() -> None:
    image = elf(CODE, tohost=BASE + 0x1000)

    program = parse(image)

    segment = Segment(address=BASE, content=memoryview(CODE), memory_bytes=len(CODE))
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


def test_an_odd_entry_is_refused() -> None:
    image = bytearray(elf(CODE))
    image[24:32] = (BASE + 1).to_bytes(8, "little")

    with pytest.raises(ImageError, match="the entry point 0x80000001 is odd"):
        parse(bytes(image))


def many_segments(places: list[int], content: bytes) -> bytes:
    """Wrap one content as so many segments, which all show the same bytes of the file."""
    content_at = 64 + 56 * len(places)
    image = bytearray(elf(CODE)[:64])
    image[56:58] = struct.pack("<H", len(places))
    for place in places:
        image += struct.pack("<IIQQQQQQ", 1, 7, content_at, place, place, len(content), len(content), 4096)
    return bytes(image) + content


@pytest.mark.parametrize("second", [BASE, BASE + 2, BASE + 4095], ids=hex)
def test_segments_that_overlap_in_memory_are_refused(second: int) -> None:
    with pytest.raises(ImageError, match=f"the segments for 0x80000000 and {second:#x} overlap in memory"):
        parse(many_segments([second, BASE], CODE * 1024))


def test_segments_side_by_side_are_a_good_program() -> None:
    program = parse(many_segments([BASE + 4096, BASE], CODE * 1024))

    assert [segment.address for segment in program.segments] == [BASE + 4096, BASE]


def test_a_file_whose_segments_all_show_the_same_bytes_is_refused_without_a_copy_of_each() -> None:
    image = many_segments([BASE] * 4096, bytes(1 << 19))

    tracemalloc.start()
    with pytest.raises(ImageError, match="overlap in memory"):
        parse(image)
    _, taken_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert taken_bytes < 8 << 20


def with_symbol_tables(tables: int, *, symbol_count: int = 3) -> bytes:
    """Give an executable so many symbol tables, all of the same symbols, that many by their own word."""
    image = bytearray(elf(CODE, tohost=BASE))
    sections_at = struct.unpack_from("<Q", image, 40)[0]
    symbols = bytearray(image[sections_at + 64 : sections_at + 128])
    symbols[32:40] = struct.pack("<Q", symbol_count * 24)
    strings = image[sections_at + 128 : sections_at + 192]
    image[60:62] = struct.pack("<H", 2 + tables)
    return bytes(image[: sections_at + 64] + symbols + strings + symbols * (tables - 1))


def test_a_second_symbol_table_is_refused_as_many_would_be_read_over_and_over() -> None:
    assert parse(with_symbol_tables(1)).tohost == BASE

    with pytest.raises(ImageError, match="4094 symbol tables, not one"):
        parse(with_symbol_tables(4094))


@pytest.mark.parametrize(("count", "reason"), [(1 << 19, "cut short in its symbol"), ((1 << 20) + 1, "more than the")])
def test_more_symbols_than_there_are_or_may_be_is_refused(count: int, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        parse(with_symbol_tables(1, symbol_count=count))


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
