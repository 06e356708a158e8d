"""Reads an ELF executable for one of our machines: what to put where, and where to begin. Pure.

It promises an ImageError that says what is wrong, for any bytes, before anything is loaded. It does not know the
machine beyond the bounds of its RAM. Source: System V ABI, edition 4.1, chapters 4 and 5; RISC-V ELF psABI 1.0;
x86-64 psABI 1.0.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ftvm.errors import ImageError

__all__ = ["RISCV", "X86_64", "Architecture", "Program", "Segment", "parse_elf"]

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")

_CLASS_64: Final = 2
_LITTLE_ENDIAN: Final = 1
_TYPE_EXECUTABLE: Final = 2
_SEGMENT_LOAD: Final = 1
_SECTION_SYMBOLS: Final = 2
_ENTRIES_MAX: Final = 4_096
"""Segments or sections: more than any linker makes of a bare-metal program."""
_SYMBOLS_MAX: Final = 1 << 20

_TYPES: Final = {
    1: "a relocatable object: link it first",
    3: "a shared object or position-independent",
    4: "a core dump",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a machine runs.

    number             in an ELF header
    options            of the compiler, to be proposed
    float_flags        of a header: the program passes floating-point values in registers that the machine does not have
    instruction_bytes  an address of an instruction is a multiple of it
    """

    name: str
    number: int
    options: str
    float_flags: int = 0
    instruction_bytes: int = 1


RISCV: Final = Architecture(
    name="RISC-V", number=243, options="-march=rv64imac -mabi=lp64", float_flags=6, instruction_bytes=2
)
X86_64: Final = Architecture(name="x86-64", number=62, options="-m64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Bytes that belong at a physical address; memory behind them, up to `memory_bytes`, is zero.

    `content` is a view of the image: many segments may show the same bytes, and copies of all would fill the host.
    """

    address: int
    content: memoryview
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable, ready to load. `tohost` is the address of its HTIF word, 0 if it has none."""

    entry: int
    segments: tuple[Segment, ...]
    tohost: int


def parse_elf(image: bytes, *, ram_base: int, ram_bytes: int, architecture: Architecture = RISCV) -> Program:
    """Read a 64-bit executable whose segments must lie in [ram_base, ram_base + ram_bytes).

    Raises ImageError if it cannot run on the machine, with the reason.
    """
    header = _parse_header(image, architecture)
    entry, segments_at, sections_at = header[4], header[5], header[6]
    segment_size, segment_count, section_size, section_count = header[9:13]
    if segment_size != _SEGMENT.size or segment_count == 0:
        raise ImageError("the program has no segments to load")
    segments = tuple(_load_segments(image, segments_at, segment_count))
    if not segments:
        raise ImageError("the program has no segments to load")
    for segment in segments:
        _check_place(segment, ram_base, ram_bytes)
    _check_apart(segments)
    _check_entry(entry, segments, architecture)
    tohost = _find_symbol(image, sections_at, section_count, b"tohost") if section_size == _SECTION.size else 0
    return Program(entry=entry, segments=segments, tohost=tohost)


def _parse_header(image: bytes, architecture: Architecture) -> tuple[int, ...]:
    if image[:4] != b"\x7fELF":
        raise ImageError("this is not an ELF file: it does not begin with 7f 45 4c 46")
    if len(image) < _HEADER.size:
        raise ImageError("the ELF file is cut short in its header")
    if image[4] != _CLASS_64:
        raise ImageError(f"the program is 32 bits wide: the machine runs 64-bit programs ({architecture.options})")
    if image[5] != _LITTLE_ENDIAN:
        raise ImageError("the program is big-endian: the machine is little-endian")
    header = _HEADER.unpack_from(image)
    kind, machine, flags = header[1], header[2], header[7]
    if machine != architecture.number:
        raise ImageError(
            f"the program is for ELF machine {machine}, not for {architecture.name} ({architecture.number})"
        )
    if kind != _TYPE_EXECUTABLE:
        raise ImageError(f"the ELF file is {_TYPES.get(kind, f'of type {kind}')}, not an executable (type 2)")
    if flags & architecture.float_flags:
        raise ImageError("the program passes floating-point values in registers: compile it with -mabi=lp64")
    return header


def _table(image: bytes, at: int, count: int, entry: struct.Struct, what: str) -> Iterator[tuple[int, ...]]:
    if count > _ENTRIES_MAX:
        raise ImageError(f"the ELF file has {count} {what}s: more than the limit of {_ENTRIES_MAX}")
    if at + count * entry.size > len(image):
        raise ImageError(f"the ELF file is cut short in its {what} table")
    return (entry.unpack_from(image, at + number * entry.size) for number in range(count))


def _load_segments(image: bytes, at: int, count: int) -> Iterator[Segment]:
    for kind, _, offset, _, address, file_bytes, memory_bytes, _ in _table(image, at, count, _SEGMENT, "segment"):
        if kind != _SEGMENT_LOAD or memory_bytes == 0:
            continue
        if offset + file_bytes > len(image):
            raise ImageError(f"the ELF file is cut short in the segment for {address:#x}")
        if file_bytes > memory_bytes:
            raise ImageError(f"the segment for {address:#x} has more bytes in the file than in memory")
        content = memoryview(image)[offset : offset + file_bytes]
        yield Segment(address=address, content=content, memory_bytes=memory_bytes)


def _check_place(segment: Segment, ram_base: int, ram_bytes: int) -> None:
    end = segment.address + segment.memory_bytes
    if segment.address < ram_base or end > ram_base + ram_bytes:
        raise ImageError(
            f"the segment {segment.address:#x}-{end:#x} lies outside of RAM {ram_base:#x}-{ram_base + ram_bytes:#x}: "
            "link the program for that address, or give the machine more memory"
        )


def _check_apart(segments: tuple[Segment, ...]) -> None:
    for first, second in pairwise(sorted(segments, key=lambda segment: segment.address)):
        if first.address + first.memory_bytes > second.address:
            raise ImageError(f"the segments for {first.address:#x} and {second.address:#x} overlap in memory")


def _check_entry(entry: int, segments: tuple[Segment, ...], architecture: Architecture) -> None:
    if entry % architecture.instruction_bytes:
        raise ImageError(f"the entry point {entry:#x} is odd: instructions begin at even addresses")
    if not any(segment.address <= entry < segment.address + len(segment.content) for segment in segments):
        raise ImageError(f"the entry point {entry:#x} lies outside of the program's segments")


def _find_symbol(image: bytes, at: int, count: int, name: bytes) -> int:
    """Return the symbol's value, 0 without one: a stripped program is a good program."""
    sections = list(_table(image, at, count, _SECTION, "section"))
    tables = [section for section in sections if section[1] == _SECTION_SYMBOLS]
    if not tables:
        return 0
    if len(tables) > 1:
        # the specification allows one; each of many could name all symbols of the file again
        raise ImageError(f"the ELF file has {len(tables)} symbol tables, not one")
    _, _, _, _, offset, size, link, _, _, _ = tables[0]
    if link >= len(sections):
        return 0
    strings_at, strings_bytes = sections[link][4], sections[link][5]
    strings = image[strings_at : strings_at + strings_bytes]
    for name_at, _, _, _, value, _ in _symbols(image, offset, size // _SYMBOL.size):
        if strings[name_at : name_at + len(name) + 1] == name + b"\0":
            return int(value)
    return 0


def _symbols(image: bytes, at: int, count: int) -> Iterator[tuple[int, ...]]:
    if count > _SYMBOLS_MAX:
        raise ImageError(f"the ELF file has {count} symbols: more than the limit of {_SYMBOLS_MAX}; strip it")
    if at + count * _SYMBOL.size > len(image):
        raise ImageError("the ELF file is cut short in its symbol table")
    return _SYMBOL.iter_unpack(memoryview(image)[at : at + count * _SYMBOL.size])
