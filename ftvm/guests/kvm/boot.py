"""What lies in a KVM machine's memory when it starts: a program, and page tables that map memory one to one. Pure.

The machine begins in 64-bit mode at privilege level 3 with paging on, so the tables must be there before the first
instruction. They lie below the program, in memory that the guest's state holds like any other.

Source: Intel SDM, volume 3, section 4.5 (4-level paging).
"""

import struct
from typing import Final

from ftvm.errors import ImageError
from ftvm.guests.elf import Program
from ftvm.units import PAGE_BYTES

__all__ = ["PAGE_TABLE", "PROGRAM_START", "STACK_TOP", "page_tables", "place_program"]

PAGE_TABLE: Final = 0x1000
"""Address of the top-level table; the others follow it."""
PROGRAM_START: Final = 0x100000
"""Below it a program may have no segment."""
STACK_TOP: Final = PROGRAM_START
"""Until the program has its own stack."""

_GIB: Final = 4
"""How much is mapped: all RAM that a machine may have, and its devices above."""
_LARGE_BYTES: Final = 2 << 20
_ENTRIES: Final = 512
_TABLE: Final = 0b0010_0111
"""Present, writable, for level 3, accessed: as the processor would mark it at the first use."""
_LARGE_PAGE: Final = 0b1110_0111
"""The same, written to, and a page of 2 MiB."""


def page_tables() -> bytes:
    """Return the tables, to be put at PAGE_TABLE."""
    directory, first = PAGE_TABLE + PAGE_BYTES, PAGE_TABLE + 2 * PAGE_BYTES
    tables = [
        _table([directory | _TABLE]),
        _table([(first + PAGE_BYTES * gib) | _TABLE for gib in range(_GIB)]),
        *(
            _table([(gib * _ENTRIES + entry) * _LARGE_BYTES | _LARGE_PAGE for entry in range(_ENTRIES)])
            for gib in range(_GIB)
        ),
    ]
    return b"".join(tables)


def _table(entries: list[int]) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(PAGE_BYTES, b"\0")


def place_program(program: Program, ram: memoryview) -> None:
    """Write a program, whose segments lie in memory, and the page tables to blank memory.

    Raises ImageError, having written nothing, if a segment lies where the tables do.
    """
    lowest = min(segment.address for segment in program.segments)
    if lowest < PROGRAM_START:
        raise ImageError(
            f"the program has a segment for {lowest:#x}: below {PROGRAM_START:#x} lie the page tables; link it above"
        )
    tables = page_tables()
    ram[PAGE_TABLE : PAGE_TABLE + len(tables)] = tables
    for segment in program.segments:
        ram[segment.address : segment.address + len(segment.content)] = segment.content
