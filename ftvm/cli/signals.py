"""Signals that end a command, as an exception of the main thread.

Imports nothing that takes time: ftvm/__main__.py calls it before all else, so that Ctrl-C in the first moments ends as
documented and not in a traceback.
"""

import signal
from types import FrameType
from typing import Final

__all__ = ["EXIT_STOPPED", "Stopped", "stop_on_signals"]

EXIT_STOPPED: Final = 130

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or the end of the terminal; not an Exception, so that nothing swallows it."""


def stop_on_signals() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP raise Stopped in the main thread, once: a second must not break the clean-up.

    SIGHUP stays ignored where it was before: that is what `nohup` is for.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    for each in _ENDING:
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)
