"""What tests/conftest.py promises of every run: no skip by accident in CI, and as many processes as make sense."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

SKIPS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_it(number):
    pytest.skip("{reason}")
"""
WHERE = """
import os

def test_it():
    assert os.environ.get("PYTEST_XDIST_WORKER") {comparison} None
"""
MISSING, KNOWN = "needs a tool that should be here", "needs root, and /dev/net/tun"


def run(folder: Path, text: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra -n auto --dist worksteal\n")
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FTVM_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env=outer | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_skip_that_ci_is_set_up_to_run_is_a_failure_there(tmp_path: Path) -> None:
    ended = run(tmp_path, SKIPS.format(reason=MISSING), FTVM_CI="1")

    assert ended.returncode == 1
    assert f"skipped in CI, where nothing should be missing: Skipped: {MISSING}" in ended.stdout
    assert "2 failed" in ended.stdout


def test_what_ci_lacks_may_be_skipped_there(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPS.format(reason=KNOWN), "-n", "0", FTVM_CI="1").returncode == 0


def test_elsewhere_a_skip_is_told_with_its_reason_even_if_quiet(tmp_path: Path) -> None:
    ended = run(tmp_path, SKIPS.format(reason=MISSING), "-n", "0")

    assert ended.returncode == 0
    assert f"SKIPPED [2] test_it.py:6: {MISSING}" in ended.stdout


@pytest.mark.parametrize(("words", "comparison"), [([], "is not"), (["test_it.py::test_it"], "is")])
def test_a_folder_runs_in_processes_of_its_own_and_a_named_test_does_not(
    words: list[str], comparison: str, tmp_path: Path
) -> None:
    assert run(tmp_path, WHERE.format(comparison=comparison), *words).returncode == 0
