"""`ftvm machine run --record`, `ftvm history debug` and `ftvm history cover`, as a person uses them."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli.main import ftvm as command
from ftvm.errors import ConfigError, ImageError
from ftvm.history.recording import read_recording

from ...history.past import built_with_symbols

FTVM = [sys.executable, "-m", "ftvm"]


@dataclass(frozen=True)
class Said:
    stdout: str
    stderr: str


def ftvm(*arguments: str | Path, status: int = 0) -> Said:
    """Run a command in this process; status 2 is a wrong argument or file."""
    result = CliRunner().invoke(command, list(map(str, arguments)))
    wrong = result.exception
    assert (2 if isinstance(wrong, ConfigError | ImageError) else result.exit_code) == status, (wrong, result.output)
    return Said(result.stdout, str(wrong))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_with_symbols(tmp_path_factory.mktemp("ticks"), "ticks")


@pytest.fixture(scope="module")
def recording(program: Path) -> Path:
    file = program.parent / "ticks.rec"
    ftvm("machine", "run", program, "--memory", "8M", "--record", file)
    return file


def test_a_recorded_run_says_what_an_unrecorded_one_says(program: Path, recording: Path) -> None:
    plain = ftvm("machine", "run", program, "--memory", "8M")
    recorded = ftvm("machine", "run", program, "--memory", "8M", "--record", recording.with_suffix(".again"))

    assert recorded.stdout == plain.stdout
    assert read_recording(recording) == read_recording(recording.with_suffix(".again"))


def test_cover_writes_a_picture_and_says_what_ran(program: Path, recording: Path, tmp_path: Path) -> None:
    done = ftvm("history", "cover", recording, "--elf", program, "-o", tmp_path / "p.html")

    assert re.search(r"\d+ instructions counted, \d+ of \d+ lines ran", done.stdout)
    assert (tmp_path / "p.html").stat().st_size > 10_000


def test_cover_gives_the_counts_of_lines_as_json(program: Path, recording: Path, tmp_path: Path) -> None:
    done = ftvm("history", "cover", recording, "--elf", program, "-o", tmp_path / "p.lcov", "--json")

    counts = json.loads(done.stdout)["lines"]
    assert any(count > 0 for lines in counts.values() for count in lines.values())


def test_cover_draws_two_stretches_side_by_side(program: Path, recording: Path, tmp_path: Path) -> None:
    line = ["history", "cover", recording, "--elf", program, "-o", tmp_path / "p.svg"]

    done = ftvm(*line, "--from", "0", "--to", "3000", "--beside", "3000", "9000")
    told = json.loads(ftvm(*line, "--from", "0", "--to", "3000", "--beside", "3000", "9000", "--json").stdout)

    assert re.match(r"3000 instructions counted, .*; beside it 6000 instructions counted, ", done.stdout)
    assert (told["instructions"], told["beside"]["instructions"]) == (3000, 6000)
    assert (tmp_path / "p.svg").read_text().count("instructions counted") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "p.png"], "html, .svg or .lcov file, not p.png"),
        (["-o", "p.svg", "--from", "5", "--to", "5"], "nothing lies between"),
        (["-o", "p.svg", "--beside", "7", "7"], "nothing lies between"),
        (
            ["-o", "p.svg", "--from", "99999998", "--to", "99999999"],
            "between instruction 99999998 and 99999999; the past",
        ),
        (["-o", "p.lcov", "--beside", "7", "9"], "two stretches stand side by side in a .html or .svg file"),
        (["-o", "p.svg", "--epoch", "7"], "--epoch is for the folder of a history"),
        (["-o", "p.svg", "--epoch", "7", "--from", "2"], "not both"),
        (["-o", "p.svg", *(3 * ["--epoch", "7"])], "once or twice"),
    ],
)
def test_cover_refuses_what_it_cannot_do(program: Path, recording: Path, arguments: list[str], reason: str) -> None:
    done = ftvm("history", "cover", recording, "--elf", program, *arguments, status=2)

    assert reason in done.stderr


def test_what_is_not_a_recording_is_named(program: Path, tmp_path: Path) -> None:
    for line in (["debug"], ["cover", "--elf", str(program), "-o", str(tmp_path / "p.svg")]):
        done = ftvm("history", line[0], program, *line[1:], status=2)
        assert "ticks.elf is not a recording of a built-in machine" in done.stderr


def test_an_epoch_is_asked_of_a_history_alone(recording: Path) -> None:
    done = ftvm("history", "debug", recording, "--at-epoch", "3", status=2)

    assert "--at-epoch is for a history" in done.stderr


@pytest.mark.skipif(shutil.which("gdb-multiarch") is None, reason="needs gdb-multiarch (Debian: gdb-multiarch)")
def test_debug_prints_the_command_for_gdb_and_ends_when_it_has_left(
    program: Path, recording: Path, tmp_path: Path
) -> None:
    where = f"unix:{tmp_path}/s"
    line = [*FTVM, "history", "debug", str(recording), "--elf", str(program), "--once", "--listen", where]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline(), server.stdout.readline()]
        told = lines[1].strip()
        gdb = subprocess.run(
            f'{told} -nx -batch -ex "ftvm-where" -ex "reverse-stepi" -ex "ftvm-where" -ex detach',
            shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert server.wait(timeout=60) == 0

    end = read_recording(recording).end.retired
    assert lines[0] == f"instruction {end} of {end}; for gdb, in another terminal:\n"
    assert f"instruction {end - 1} of {end}" in gdb.stdout, gdb.stdout


@pytest.mark.parametrize(("more", "status"), [((), 0), (("--once",), 130)])
def test_debug_ends_by_a_signal_which_is_its_normal_end_unless_it_was_to_wait_for_a_gdb(
    recording: Path, tmp_path: Path, more: tuple[str, ...], status: int
) -> None:
    line = [
        *FTVM,
        "history",
        "debug",
        str(recording),
        "--at-instruction",
        "100",
        "--listen",
        f"unix:{tmp_path}/s",
        *more,
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("instruction 100 of ")
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)

    assert server.returncode == status, said
    assert "Traceback" not in said
    assert not (tmp_path / "s").exists()
