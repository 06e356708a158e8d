"""The only place where ftvm reads a clock."""

import time

from ftvm.units import Nanos

__all__ = ["MonotonicClock"]


class MonotonicClock:
    """The host's monotonic clock: its origin is arbitrary, it never goes back, and it runs on while the process is
    stopped."""

    __slots__ = ()

    def now(self) -> Nanos:
        """Return the time now, in nanoseconds."""
        return Nanos(time.monotonic_ns())
