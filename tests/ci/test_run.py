""".ci/run tells the minutes of each of its steps, and fails when they come to more than thirty."""

import re
import subprocess

import pytest

from .conftest import CI

QUICK, SLOW = 1_200, 1_900


def run(seconds: int, *, load: float = 1.0, end: str = "true") -> subprocess.CompletedProcess[str]:
    """Run two steps that seem to have taken so long together."""
    script = f"""
        . {CI}/lib
        . {CI}/steps
        load_average() {{ echo {load}; }}
        step Build it
        SECONDS=600
        step Try it
        SECONDS={seconds}
        {end}
    """
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("end", ["true", "false"])
def test_the_minutes_of_each_step_are_told_however_it_ends(end: str) -> None:
    ended = run(QUICK, end=end)

    assert re.findall(r"^ +(\d+\.\d)  (\w+ \w+|all)", ended.stdout, re.MULTILINE) == [
        ("10.0", "Build it"),
        ("10.0", "Try it"),
        ("20.0", "all"),
    ]


def test_a_failed_step_fails_the_run() -> None:
    assert run(QUICK, end="(exit 3)").returncode == 3


def test_a_run_of_less_than_thirty_minutes_passes() -> None:
    assert run(QUICK).returncode == 0


def test_a_run_of_more_than_thirty_minutes_fails_and_says_what_to_do() -> None:
    ended = run(SLOW)

    assert ended.returncode == 1
    assert "FAILED: more than 30 minutes; move what takes long into a part of .ci/full" in ended.stdout


def test_on_a_busy_machine_a_long_run_is_a_warning() -> None:
    ended = run(SLOW, load=99.0)

    assert ended.returncode == 0
    assert "WARNING: more than 30 minutes, on a busy machine" in ended.stdout


def test_the_first_step_after_the_packages_is_the_readmes_test_command() -> None:
    steps = re.findall(r'^step "(.*)"$', (CI / "run").read_text(), re.MULTILINE)

    assert steps[:2] == ["System packages", "The README's test command"]
