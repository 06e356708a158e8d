"""The only place where ftvm reads a clock."""

import time

from ftvm.units import Nanos

__all__ = ["MonotonicClock", "time_of_day_ns", "time_text", "wall_time"]


def time_text(seconds: float) -> str:
    """Return a time in seconds since 1970 as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}"


def wall_time(ago_ns: int = 0) -> str:
    """Return the time of day as RFC 3339 has it, in UTC to the microsecond: for people who read logs, and nothing
    else. With `ago_ns`, that of so long ago."""
    seconds, nanos = divmod(time.time_ns() - ago_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanos // 1000:06d}Z"


def time_of_day_ns() -> int:
    """Return the time of day, in nanoseconds since 1970: it may jump, so that it is for what people look up by it."""
    return time.time_ns()


class MonotonicClock:
    """The host's monotonic clock: its origin is arbitrary, it never goes back, and it runs on while the process is
    stopped."""

    __slots__ = ()

    def now(self) -> Nanos:
        """Return the time now, in nanoseconds."""
        return Nanos(time.monotonic_ns())
