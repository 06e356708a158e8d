"""What an ELF file says of its code: which function an address belongs to, and which line of which source file.

Function symbols come first; where assembly has labels without a type, a label is a function up to the next symbol. Line
numbers are read of those compilation units only that are asked for: DWARF is large, and reading it slow. Needs
pyelftools (`pip install ftvm[history]`).

Source: DWARF 5, sections 6.1.2 (.debug_aranges) and 6.2 (line numbers).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ftvm.errors import ConfigError, FtvmError, ImageError

__all__ = ["Function", "LineRow", "ProgramLines"]

_EXECUTABLE: Final = 4
"""SHF_EXECINSTR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function: its code is [address, address + size_bytes)."""

    name: str
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRow:
    """An instruction that begins a statement of a line."""

    address: int
    file: str
    line: int


class ProgramLines:
    """The symbols and line numbers of one program. Raises ConfigError or ImageError if they cannot be read."""

    def __init__(self, program: Path) -> None:
        try:
            self._elf: Any = _elf_of(program)
            self.code = tuple(_code_ranges(self._elf))
            self.functions = tuple(_functions(self._elf, self.code))
        except FtvmError:
            raise
        except Exception as wrong:  # of any kind: a file that is cut or changed breaks pyelftools anywhere
            raise ImageError(f"the program {program} cannot be read: {wrong}") from wrong
        self._starts = [function.address for function in self.functions]
        self._rows: dict[int, tuple[LineRow, ...]] = {}

    def function_at(self, address: int) -> int | None:
        """Return the number of the function that has this address, None outside of all."""
        number = bisect_right(self._starts, address) - 1
        if number < 0:
            return None
        function = self.functions[number]
        return number if address < function.address + function.size_bytes else None

    def rows(self, addresses: Iterable[int]) -> tuple[LineRow, ...]:
        """Return the line rows of all compilation units that have any of these addresses, by address.

        A program without line numbers has no rows.
        """
        if not self._elf.has_dwarf_info():
            return ()
        dwarf = self._elf.get_dwarf_info()
        units = {unit.cu_offset: unit for unit in _units_of(dwarf, addresses)}
        for offset, unit in units.items():
            if offset not in self._rows:
                self._rows[offset] = tuple(_rows_of(dwarf, unit))
        return tuple(sorted((row for offset in units for row in self._rows[offset]), key=lambda row: row.address))


def _elf_of(program: Path) -> Any:
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError as wrong:
        raise ConfigError("line numbers need pyelftools: pip install 'ftvm[history]'") from wrong
    try:
        return ELFFile(BytesIO(program.read_bytes()))
    except OSError as wrong:
        raise ConfigError(f"the program {program} cannot be read: {wrong.strerror}") from wrong
    except ELFError as wrong:
        raise ImageError(f"{program} is not an ELF file: {wrong}") from wrong


def _code_ranges(elf: Any) -> Iterator[tuple[int, int]]:
    for section in elf.iter_sections():
        if section["sh_flags"] & _EXECUTABLE and section["sh_size"]:
            yield section["sh_addr"], section["sh_addr"] + section["sh_size"]


def _functions(elf: Any, code: tuple[tuple[int, int], ...]) -> list[Function]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        raise ImageError("it has no symbols: build it without -s, and with -g for line numbers")
    typed: dict[int, tuple[int, str]] = {}
    labels: dict[int, str] = {}
    for symbol in table.iter_symbols():
        address, size_bytes, kind = symbol["st_value"], symbol["st_size"], symbol["st_info"]["type"]
        if not symbol.name or not any(first <= address < last for first, last in code):
            continue
        if kind == "STT_FUNC" and size_bytes:
            typed[address] = max(typed.get(address, (0, "")), (size_bytes, symbol.name))
        elif kind in ("STT_FUNC", "STT_NOTYPE") and not symbol.name.startswith((".", "$")):
            labels.setdefault(address, symbol.name)
    return _joined(typed, labels, code)


def _joined(
    typed: dict[int, tuple[int, str]], labels: dict[int, str], code: tuple[tuple[int, int], ...]
) -> list[Function]:
    """Give each label that lies in no function the room up to the next symbol."""
    functions = [Function(name=name, address=address, size_bytes=size) for address, (size, name) in typed.items()]
    starts = sorted(typed)
    free = []
    for address in sorted(labels):
        place = bisect_right(starts, address) - 1
        if place < 0 or address >= starts[place] + typed[starts[place]][0]:
            free.append(address)
    bounds = sorted([*starts, *free, *(last for _, last in code)])
    for address in free:
        size = bounds[bisect_right(bounds, address)] - address
        functions.append(Function(name=labels[address], address=address, size_bytes=size))
    functions.sort(key=lambda function: function.address)
    ends = [*(function.address for function in functions[1:]), max(bounds, default=0)]
    # a function with several entries is several symbols, each to the end of all: an address belongs to one
    return [
        replace(function, size_bytes=min(function.size_bytes, end - function.address))
        for function, end in zip(functions, ends, strict=True)
    ]


def _units_of(dwarf: Any, addresses: Iterable[int]) -> Iterator[Any]:
    ranges = dwarf.get_aranges()
    if ranges is None:
        yield from dwarf.iter_CUs()
        return
    # not by cu_offset_at_addr: it looks at one range alone, and what the linker threw away left empty ones
    known = sorted(
        (one.begin_addr, one.begin_addr + one.length, one.info_offset) for one in ranges.entries if one.length
    )
    starts = [begin for begin, _, _ in known]
    offsets = set()
    for address in addresses:
        place = bisect_right(starts, address) - 1
        if place >= 0 and address < known[place][1]:
            offsets.add(known[place][2])
    for offset in sorted(offsets):
        yield dwarf.get_CU_at(offset)


def _rows_of(dwarf: Any, unit: Any) -> Iterator[LineRow]:
    program = dwarf.line_program_for_CU(unit)
    if program is None:
        return
    names = _names_of(program.header, unit)
    for entry in program.get_entries():
        state = entry.state
        if state is None or state.end_sequence or not state.is_stmt or not state.line:
            continue
        place = state.file if program.header["version"] >= 5 else state.file - 1
        if 0 <= place < len(names):
            yield LineRow(address=state.address, file=names[place], line=state.line)


def _names_of(header: Any, unit: Any) -> list[str]:
    """Return the paths of a line program's files, as far as they are known."""
    folders = [_text(folder) for folder in header["include_directory"]]
    if header["version"] < 5:
        root = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        folders.insert(0, _text(root.value) if root is not None else "")
    names = []
    for entry in header["file_entry"]:
        folder = folders[entry.dir_index] if entry.dir_index < len(folders) else ""
        names.append(_plain(PurePosixPath(*folders[:1], folder, _text(entry.name))))
    return names


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def _plain(path: PurePosixPath) -> str:
    """Return a path without `..` where that is known to be the same."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] not in ("..", "/"):
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(PurePosixPath(*parts))
