"""Which function and which line an address belongs to."""

from pathlib import Path

import pytest

from ftvm.errors import ConfigError, ImageError
from ftvm.guests.riscv.programs import open_program
from ftvm.history.lines import ProgramLines

from .past import GUESTS, built_with_symbols


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_with_symbols(tmp_path_factory.mktemp("hello"), "hello")


def test_each_address_of_code_belongs_to_the_function_that_has_it(program: Path) -> None:
    lines = ProgramLines(program)

    for number, function in enumerate(lines.functions):
        assert lines.function_at(function.address) == number
        assert lines.function_at(function.address + function.size_bytes - 2) == number
    ends = [one.address + one.size_bytes for one in lines.functions]
    assert all(end <= after.address for end, after in zip(ends, lines.functions[1:], strict=False))


def test_labels_of_assembly_are_functions_too(program: Path) -> None:
    lines = ProgramLines(program)

    names = {function.name for function in lines.functions}

    assert {"_start", "trap_entry", "program"} <= names


def test_addresses_outside_of_all_code_belong_to_no_function(program: Path) -> None:
    lines = ProgramLines(program)

    assert lines.function_at(0) is None
    assert lines.function_at(1 << 40) is None


def test_lines_are_those_of_the_sources(program: Path) -> None:
    lines = ProgramLines(program)
    main = next(one for one in lines.functions if one.name == "program")

    rows = [row for row in lines.rows([main.address]) if main.address <= row.address < main.address + main.size_bytes]

    source = (GUESTS / "hello" / "main.c").read_text().splitlines()
    assert {row.file for row in rows if row.file.endswith("main.c")} == {"hello/main.c"}
    assert all(source[row.line - 1].strip() for row in rows if row.file == "hello/main.c")


def without_sections(elf: bytes) -> bytes:
    """Return a 64-bit ELF file whose header names no sections, as of a program that was stripped whole."""
    return elf[:0x28] + bytes(8) + elf[0x30:0x3A] + bytes(6) + elf[0x40:]


def test_a_program_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program")

    with pytest.raises(ConfigError, match="gone cannot be read"):
        ProgramLines(tmp_path / "gone")
    with pytest.raises(ImageError, match="text is not an ELF file"):
        ProgramLines(tmp_path / "text")
    with open_program("kv") as whole:
        (tmp_path / "stripped").write_bytes(without_sections(whole.read_bytes()))
    with pytest.raises(ImageError, match="no symbols: build it without -s"):
        ProgramLines(tmp_path / "stripped")


@pytest.mark.parametrize("kept", [64, 200, 5_000, 20_000])
def test_a_program_that_is_cut_short_is_refused_or_read(program: Path, kept: int, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(program.read_bytes()[:kept])

    with pytest.raises(ImageError, match="cut"):
        ProgramLines(tmp_path / "cut")
