"""Standard streams that outlive whoever reads them.

A host is started with its output closed, or into a pipe whose reader ends, or onto a disk that fills up. None of that
is a reason to end a guest: what cannot be written is lost, and the host goes on. A command that is asked for its output
fails instead.
"""

import io
import os
import sys
from typing import Final

__all__ = ["drop_output", "fill_closed", "outlive_readers"]

STANDARD: Final = (0, 1, 2)


def fill_closed() -> None:
    """Open the standard streams that were closed before the start, leading nowhere.

    Else the next file or socket gets such a number, and what is printed goes there.
    """
    for fd in STANDARD:
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = _lasting(1)
    if sys.stderr is None:
        sys.stderr = _lasting(2)


def outlive_readers() -> None:
    """Let what is printed from now on be lost where it cannot be written, instead of raising."""
    if sys.stdout is sys.__stdout__:  # else somebody has put something of his own there
        sys.stdout = _lasting(1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(2)


def drop_output() -> None:
    """Lose what is printed from now on, and what could not be written: else the interpreter's last flush fails, too."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _LastingFile(io.FileIO):
    """Takes everything, and loses what cannot be written."""

    def write(self, content: object) -> int:
        size = memoryview(content).nbytes  # type: ignore[arg-type]
        try:
            return super().write(content) or size  # type: ignore[arg-type]
        except OSError:
            return size


def _lasting(fd: int) -> io.TextIOWrapper:
    raw = _LastingFile(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True)
