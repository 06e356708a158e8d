import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "failover_demo.py"


def test_example_survives_both_kills_and_says_so() -> None:
    ended = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=120, check=False)

    assert ended.stderr == ""
    assert ended.returncode == 0
    assert "host A is protected; it is killed now" in ended.stdout
    assert "host B is protected; it is killed now" in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith("outputs, none lost, over two dead hosts")


def test_example_reads_like_a_tutorial() -> None:
    text = EXAMPLE.read_text()

    assert len(text.splitlines()) < 90
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["import multiprocessing", "import tempfile", "import ftvm"]
