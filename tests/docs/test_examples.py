"""Each whole program in the manual runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..test_readme import Block, blocks

EXAMPLES = [each for each in blocks() if each.marker == "example"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_of_the_manual_runs(example: Block, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(example.text)

    ran = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )

    assert ran.stderr == ""
    assert ran.returncode == 0


def test_no_two_examples_have_one_name() -> None:
    names = [each.name for each in EXAMPLES]

    assert len(names) >= 8
    assert sorted(names) == sorted(set(names))
