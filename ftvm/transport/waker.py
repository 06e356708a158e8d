"""End a wait from any thread, and wait with a precision below a millisecond.

A Waker is a counter in the kernel (eventfd): waking twice before a wait is one wake, and waking never blocks. The
wait is `select`, not `poll`: poll counts milliseconds, and a checkpoint interval may be shorter than one. Only where
a descriptor is too large for `select` is the time rounded up to whole milliseconds.
"""

import os
import select
import threading
from collections.abc import Sequence
from typing import Final

__all__ = ["Waker", "wait_readable"]

_FD_SETSIZE: Final = 1024
"""Beyond this descriptor number `select` cannot be used."""


class Waker:
    """Something that `wake` makes readable until `drain`."""

    def __init__(self) -> None:
        self._closing = threading.RLock()  # of a kind that a signal's handler may take again
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._fd

    def wake(self) -> None:
        """Make it readable; safe from any thread and from a signal handler; does nothing once closed."""
        with self._closing:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def drain(self) -> None:
        """Forget all wakes so far."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return  # nobody woke it

    def close(self) -> None:
        """Give back the descriptor. Idempotent."""
        with self._closing:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)


def wait_readable(fds: Sequence[int], timeout_ns: int) -> list[int]:
    """Return which of `fds` are readable, as soon as one is or `timeout_ns` nanoseconds are over (0 or less: at
    once)."""
    timeout_ns = max(timeout_ns, 0)
    if max(fds) < _FD_SETSIZE:
        return select.select(fds, (), (), timeout_ns / 1_000_000_000)[0]
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return [fd for fd, _events in poller.poll(-(-timeout_ns // 1_000_000))]
