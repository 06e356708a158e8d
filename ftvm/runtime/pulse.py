"""The last heartbeat that a guest's loop sent, to be repeated by a thread while the loop is busy.

A repeated heartbeat carries the number of the first: the peer sees that this process lives, and whether its loop goes
on (protocol/detector.py). So a loop in a long step is tolerated for longer than a silent host, and a hanging loop is
not tolerated for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ftvm.checkpoint import Buffer
from ftvm.units import Nanos

__all__ = ["Pulse", "late_ns"]


def late_ns(interval_ns: Nanos) -> Nanos:
    """Return how long after a heartbeat the loop is late with the next: a quarter of the interval, so that it comes
    first."""
    return Nanos(interval_ns * 5 // 4)


@dataclass(slots=True)
class Pulse:
    """What was sent to whom. `sent_at` is when it was sent last, by the loop or by the thread that repeats it."""

    peer: str
    frames: Sequence[Buffer]
    sent_at: Nanos
    interval_ns: Nanos

    @property
    def due_at(self) -> Nanos:
        """When the loop is late with the next one."""
        return Nanos(self.sent_at + late_ns(self.interval_ns))
