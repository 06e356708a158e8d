import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ftvm.cli.machine import machine
from ftvm.errors import ConfigError, ImageError

from ..guests.riscv.assembly import RAM_BASE, UART, WFI, addi, elf, finish, jal, jalr, li, store, to_bytes


def run(*arguments: str) -> Result:
    return CliRunner().invoke(machine, ["run", *arguments])


@pytest.fixture
def made(tmp_path: Path) -> "Made":
    return Made(tmp_path)


class Made:
    """Writes programs to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, words: list[int], *, tohost: int = 0) -> str:
        file = self.folder / "program.elf"
        file.write_bytes(elf(to_bytes(words), tohost=tohost))
        return str(file)


def test_a_shipped_program_prints_its_console() -> None:
    result = run("hello")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "hello: this is boot 1"


def test_json_tells_all_and_the_same_each_time() -> None:
    first, second = (json.loads(run("ticks", "--append", "beats=10 ms=1", "--json").stdout) for _ in range(2))

    assert first == second
    assert set(first) == {"exit", "code", "retired", "digest", "console"}
    assert (first["exit"], first["code"]) == ("finisher", 0)
    assert "ticks: beat 10\n" in first["console"]


@pytest.mark.parametrize(("value", "exit_name", "code", "status"), [(1, "pass", 0, 0), (7, "fail", 3, 1)])
def test_the_htif_word_passes_or_fails(made: Made, value: int, exit_name: str, code: int, status: int) -> None:
    tohost = RAM_BASE + 0x1000
    program = made([*li(1, tohost), addi(2, 0, value), store(2, 1)], tohost=tohost)

    result = run(program, "--json")

    told = json.loads(result.stdout)
    assert (told["exit"], told["code"], result.exit_code) == (exit_name, code, status)


def test_the_finishers_code_is_told(made: Made) -> None:
    result = run(made(finish(5)))

    assert result.exit_code == 1
    assert result.stderr == "ftvm: the program ended with code 5\n"


@pytest.mark.parametrize(
    ("words", "arguments", "exit_name", "reason"),
    [
        ([jal(0, 0)], ["--max-instructions", "1000"], "limit", "did not end within 1000 instructions"),
        ([jalr(0, 0)], [], "fault", "no trap handler"),
        ([WFI], [], "waits", "never come"),
    ],
)
def test_a_program_without_an_end_of_its_own_is_told_apart(
    made: Made, words: list[int], arguments: list[str], exit_name: str, reason: str
) -> None:
    program = made(words)

    told, plain = run(program, "--json", *arguments), run(program, *arguments)

    assert json.loads(told.stdout)["exit"] == exit_name
    assert (told.exit_code, plain.exit_code) == (1, 1)
    assert reason in plain.stderr


def test_what_is_typed_comes_from_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("good morning\nquit\n")

    result = run("console", "--append", "lines=1", "--input", str(keys), "--max-instructions", "50000000")

    assert "good morning" in result.stdout


def test_a_disk_file_is_written_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(64 << 10))

    first = run("journal", "--disk", str(disk), "--append", "records=5")
    second = run("journal", "--disk", str(disk), "--append", "records=5")

    assert "found 0 records" in first.stdout
    assert "found 5 records" in second.stdout
    assert disk.stat().st_size == 64 << 10


def test_a_machine_without_a_network_says_so_to_the_program() -> None:
    assert run("kv").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["nothing.elf"], ConfigError, r"the program nothing\.elf cannot be read: No such file.*hello"),
        ([__file__], ImageError, "not an ELF file"),
        (["hello", "--memory", "lots"], ConfigError, "write a size such as 64M"),
        (["hello", "--disk", __file__], ConfigError, "must be a multiple of 4096"),
        (["hello", "--disk", "nowhere"], ConfigError, "the disk nowhere cannot be read"),
        (["kv", "--memory", "1M"], ImageError, "lies outside of RAM"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(arguments: list[str], error: type[Exception], reason: str) -> None:
    result = run(*arguments)

    with pytest.raises(error, match=reason):
        raise result.exception or AssertionError("nothing was raised")


def test_an_unfinished_line_is_printed_too(made: Made) -> None:
    program = made([*li(1, UART), addi(2, 0, ord("x")), store(2, 1, size=1), *finish()])

    assert run(program).stdout == "x"
