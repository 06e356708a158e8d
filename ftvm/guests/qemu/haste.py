"""Gives QEMU's threads real-time priority while a caller with that priority waits for them.

A stop is asked for by a host's loop, which may have real-time priority (ftvm.runtime.urgency). On a busy machine it
would wait all the same: for a processor of the guest to notice, for QEMU's main thread to answer, for the thread that
serves the disk. So each gets the caller's priority: a processor's thread until it stops, the others until the machine
runs again. As long as a guest runs in them, they have the usual one. A caller of usual priority changes nothing.

Source: sched(7). Where the kernel refuses, all is as before.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

__all__ = ["Haste"]

_REAL_TIME: Final = (os.SCHED_RR, os.SCHED_FIFO)


class Haste:
    """Threads by their kernel's number: those that answer, and those that run the guest's processors."""

    def __init__(self, answering: Sequence[int], processors: Sequence[int]) -> None:
        self._answering = tuple(answering)
        self._processors = tuple(processors)
        self._is_lent = False

    def begin(self) -> None:
        """Give all of them the caller's priority, if that is a real-time one."""
        policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        if policy in _REAL_TIME:
            self._is_lent = True
            _schedule((*self._answering, *self._processors), policy, os.sched_getparam(0))

    def stopped(self) -> None:
        """The guest's processors have stopped; nobody waits for them any more."""
        if self._is_lent:
            _schedule(self._processors, os.SCHED_OTHER, os.sched_param(0))

    def end(self) -> None:
        """The guest runs: all are as they were."""
        if self._is_lent:
            self._is_lent = False
            _schedule((*self._answering, *self._processors), os.SCHED_OTHER, os.sched_param(0))


def _schedule(threads: Iterable[int], policy: int, parameters: os.sched_param) -> None:
    for thread in threads:
        with suppress(OSError):  # it has ended, or may not
            os.sched_setscheduler(thread, policy | os.SCHED_RESET_ON_FORK, parameters)
