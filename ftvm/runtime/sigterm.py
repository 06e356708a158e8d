"""SIGTERM while a program waits for its host: the host is left in order, as by Ctrl-C, not with the guest in its hands.

Python dies of a SIGTERM that nobody handles, without leaving a `with` block. A program that handles it is let alone.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ending_on_sigterm"]


@contextmanager
def ending_on_sigterm(close: Callable[[], None]) -> Iterator[None]:
    """While the block runs, have SIGTERM leave it, call `close`, and end the program with status 0 (SystemExit).

    Nothing is changed outside of the main thread, or where SIGTERM is handled or ignored already. A second SIGTERM,
    while `close` runs, ends the program at once. What `close` raises is raised instead.
    """
    was_asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal was_asked
        was_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(0)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not the main thread: signals are not ours
        yield
        return
    try:
        yield
    except SystemExit:
        if was_asked:
            close()
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
