"""The benchmarks' own modules, which are scripts in bench/ and import one another by bare names."""

import sys
from importlib import import_module
from pathlib import Path

BENCH = str(Path(__file__).parents[2] / "bench")

# For this moment alone: bench/qemu.py would stand before the package of that name.
sys.path.insert(0, BENCH)
try:
    import_module("engines")
    import_module("disk")
finally:
    sys.path.remove(BENCH)
