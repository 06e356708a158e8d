"""End a wait from any thread, and wait with a precision below a millisecond.

A Waker is a counter in the kernel (eventfd): waking twice before a wait is one wake, and waking never blocks. The
wait is `select`, not `poll`: poll counts milliseconds, and a checkpoint interval may be shorter than one. Only where
a descriptor is too large for `select` is the time rounded up to whole milliseconds.
"""

import os
import select
from collections.abc import Sequence
from typing import Final

__all__ = ["Waker", "wait_readable"]

_FD_SETSIZE: Final = 1024
"""Beyond this descriptor number `select` cannot be used."""


class _Counter:
    """An eventfd that is closed when nobody holds it any more: not while a thread writes to it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)


class Waker:
    """Something that `wake` makes readable until `drain`."""

    def __init__(self) -> None:
        self._counter: _Counter | None = _Counter()

    def fileno(self) -> int:
        """Return the descriptor to wait for; -1 once closed."""
        return -1 if self._counter is None else self._counter.fd

    def wake(self) -> None:
        """Make it readable; safe from any thread and from a signal handler; does nothing once closed."""
        counter = self._counter
        if counter is not None:
            os.eventfd_write(counter.fd, 1)

    def drain(self) -> None:
        """Forget all wakes so far."""
        try:
            os.eventfd_read(self.fileno())
        except BlockingIOError:
            return  # nobody woke it

    def close(self) -> None:
        """Give back the descriptor. Idempotent."""
        self._counter = None


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
