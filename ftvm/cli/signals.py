"""Signals that end a command: an exception of the main thread, or a wish that it looks for.

An exception ends a wait at once, but may come anywhere: between a host's start and the variable that keeps it, say. So
a command that must end in order has signals noted from then on, and looks for them.

Imports nothing that takes time: ftvm/__main__.py calls it before all else, so that Ctrl-C in the first moments ends as
documented and not in a traceback.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Final

__all__ = [
    "EXIT_STOPPED",
    "Stopped",
    "ignore_signals",
    "note_signals",
    "on_second_signal",
    "stop_on_signals",
    "stop_wanted",
]

EXIT_STOPPED: Final = 130

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or the end of the terminal; not an Exception, so that nothing swallows it."""


class _Wish:
    """What to do with the first signal, and what it was."""

    is_noted = False
    name: str | None = None
    again: Callable[[], None] = staticmethod(lambda: None)


def stop_on_signals() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP raise Stopped in the main thread, once: a second must not break the clean-up.

    Where signals are noted, a second one does what `on_second_signal` was given, which ends no step of the clean-up.

    SIGHUP stays ignored where it was before: that is what `nohup` is for.
    """
    _Wish.is_noted, _Wish.name, _Wish.again = False, None, lambda: None

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        is_first, name = _Wish.name is None, signal.Signals(number).name
        _Wish.name = _Wish.name or name
        if not _Wish.is_noted:
            ignore_signals()
            raise Stopped(name)
        if not is_first:
            _Wish.again()

    for each in _ENDING:
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)


def note_signals() -> None:
    """Have no signal raise Stopped any more: from now on `stop_wanted` tells. From any thread."""
    _Wish.is_noted = True


def on_second_signal(act: Callable[[], None]) -> None:
    """Call `act`, in the main thread, at each signal but the first one that is noted."""
    _Wish.again = act


def stop_wanted() -> str | None:
    """Return the name of the signal that has come, None if none has."""
    return _Wish.name


def ignore_signals() -> None:
    """Let no signal change what is decided: at its end Python would give each its default action, which kills."""
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
