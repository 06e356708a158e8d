"""Builds bench/wire.c once per version of it: the client in C, and what one machine does without Python."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra"]
SOURCE = Path(__file__).with_name("wire.c")
BUILD_SECONDS = 60


class NotBuiltError(Exception):
    """The program in C is not there; the message says why."""


@cache
def wire_program(compiler: str = "cc") -> str:
    """Return the path of the program. Raises NotBuiltError that says why it cannot be built."""
    if shutil.which(compiler) is None:
        raise NotBuiltError(f"no C compiler: {compiler} was not found")
    version = hashlib.sha256(SOURCE.read_bytes() + str(FLAGS).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"ftvm-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    program = folder / f"wire-{version}"
    if not program.exists():
        building = program.with_name(f"{program.name}.{os.getpid()}")
        words = [compiler, *FLAGS, "-o", str(building), str(SOURCE)]
        built = subprocess.run(words, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        if built.returncode != 0:
            raise NotBuiltError(f"{compiler} failed: {(built.stderr.strip().splitlines() or ['no reason given'])[0]}")
        building.rename(program)  # several may build it at once
    return str(program)
