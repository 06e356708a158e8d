import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli import chaos as command
from ftvm.engines.names import ENGINES
from ftvm.errors import ConfigError
from ftvm.lab.chaos.values import CampaignOutcome, ChaosOptions, Violation

CHAOS = [sys.executable, "-P", "-m", "ftvm", "chaos"]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[ChaosOptions]:
    """Play nothing, and keep the options; every run ends with a violation."""
    runs: list[ChaosOptions] = []

    def run(options: ChaosOptions, say: object) -> CampaignOutcome:
        del say
        runs.append(options)
        violation = Violation(job=0, round=1, fault="cut", engine="remus", what="a PUT is gone", folder="/tmp/x")
        return CampaignOutcome(options=options, violations=[violation], folder="/tmp/x")

    monkeypatch.setattr(command, "run", run)
    return runs


def running() -> Iterator[str]:
    """Yield the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended just now
            yield path.read_text(errors="replace")


def test_options_reach_the_run(played: list[ChaosOptions]) -> None:
    words = ["--rounds", "7", "--seed", "3", "--jobs", "4", "--engine", "kemari", "--arbiter", "etcd", "--keep"]

    CliRunner().invoke(command.chaos, words)

    assert played == [ChaosOptions(rounds=7, seed=3, jobs=4, engines=("kemari",), arbiter="etcd", keep=True)]


def test_all_engines_are_the_default(played: list[ChaosOptions]) -> None:
    CliRunner().invoke(command.chaos, [])

    assert played[0].engines == tuple(ENGINES)


def test_a_violation_is_told_and_fails(played: list[ChaosOptions]) -> None:
    result = CliRunner().invoke(command.chaos, [])

    assert played
    assert result.exit_code == 1
    assert "wrong in round 1 (cut, remus): a PUT is gone" in result.output
    assert "logs are in /tmp/x" in result.output


def test_json_is_one_object(played: list[ChaosOptions]) -> None:
    result = CliRunner().invoke(command.chaos, ["--json"])

    assert played
    assert json.loads(result.stdout)["violations"][0]["what"] == "a PUT is gone"


def test_unknown_engine_is_refused_with_the_list() -> None:
    result = CliRunner().invoke(command.chaos, ["--engine", "warp"])

    assert isinstance(result.exception, ConfigError)
    assert "'warp'; choose one of: remus" in str(result.exception)


def test_a_real_pair_comes_through_a_few_rounds() -> None:
    words = ["--rounds", "6", "--jobs", "2", "--json"]

    ended = subprocess.run([*CHAOS, *words], capture_output=True, text=True, timeout=250, check=False)

    outcome = json.loads(ended.stdout)
    assert outcome["trouble"] is None
    assert outcome["violations"] == []
    assert outcome["rounds"] == 6
    assert outcome["requests"] > 10
    assert outcome["generations"] >= 2 * 3
    assert outcome["folder"] is None
    assert ended.returncode == 0


def test_a_folder_too_long_for_sockets_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    result = CliRunner().invoke(command.chaos, ["--rounds", "1"])

    assert isinstance(result.exception, ConfigError)
    assert "set TMPDIR to a shorter one" in str(result.exception)
    assert list(deep.iterdir()) == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose sockets have paths that are short enough, wherever pytest keeps its own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_stopped_run_leaves_no_process_and_no_folder(short_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short_path)}
    words = ["--rounds", "50", "--jobs", "1"]
    with subprocess.Popen([*CHAOS, *words], env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert any("rounds" in line for line in run.stderr)  # the first progress: everything is up by then

        run.send_signal(signal.SIGINT)

        assert run.wait(60) == 130
    assert list(short_path.iterdir()) == []
    assert not any(str(short_path) in command_line for command_line in running())
