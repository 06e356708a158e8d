"""Standard streams that outlive their readers.

A host is started with its output closed, or into a pipe whose reader ends or does not read, or onto a disk that fills
up. None of that may stop or delay a guest: what cannot be written is lost, and the host goes on. A command whose
purpose is its output fails instead.
"""

import atexit
import contextlib
import io
import os
import sys
import termios
from collections.abc import Callable
from typing import Final

from ftvm.service.outlet import Outlet, say_lost

__all__ = ["drop_output", "fill_closed", "forget_typed", "outlive_readers"]

STANDARD: Final = (0, 1, 2)
_INPUT: Final = 0
_LAST_SECONDS: Final = 1.0
"""How long to wait until a host's last lines are read."""


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


def outlive_readers(out_lost: Callable[[int], str] = say_lost, err_lost: Callable[[int], str] = say_lost) -> None:
    """From now on printing never blocks and never raises: what cannot be written is lost.

    out_lost, err_lost  say what stands on each stream in the place of so many lost lines (service/outlet.py)

    What is not read by the end is waited for, a moment.
    """
    if sys.stdout is sys.__stdout__:  # else the caller has replaced the stream
        sys.stdout = _lasting(1, out_lost)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(2, err_lost)


def forget_typed() -> None:
    """Throw away what was typed and nobody read, if there is a terminal: the shell would run it next.

    A guest's console takes no input, but who sits before one types; and a terminal answers what a guest asks it.
    """
    with contextlib.suppress(OSError, termios.error):
        if os.tcgetpgrp(_INPUT) == os.getpgrp():  # in the background this would stop the process instead
            termios.tcflush(_INPUT, termios.TCIFLUSH)


def drop_output() -> None:
    """Lose what is printed from now on, and what could not be written: else the interpreter's last flush fails, too."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _lasting(fd: int, say_lost: Callable[[int], str] = say_lost) -> io.TextIOWrapper:
    raw = Outlet(fd, say_lost)
    stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True)
    atexit.register(_drain, stream, raw)
    return stream


def _drain(stream: io.TextIOWrapper, raw: Outlet) -> None:
    stream.flush()
    raw.drain(_LAST_SECONDS)
