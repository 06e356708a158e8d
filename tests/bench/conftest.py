"""The benchmarks' own modules, which are scripts in bench/ and import one another by bare names."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"

sys.path.insert(0, str(BENCH))
