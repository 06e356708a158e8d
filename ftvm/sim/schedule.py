"""Virtual time: a heap of events, and each host's own clock, which starts anywhere and drifts."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from ftvm.units import Nanos

__all__ = ["HostClock", "Schedule"]


class Schedule:
    """Runs what was planned, in order of time, and of planning where times are equal."""

    def __init__(self) -> None:
        self.now = Nanos(0)
        self.events = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Plan an action `delay_ns` from now."""
        heapq.heappush(self._heap, (self.now + max(0, delay_ns), next(self._order), action))

    def run_until(self, end: int) -> None:
        """Run all that is planned up to `end`, and what that plans."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            at, _, action = pop(heap)
            self.now = Nanos(at)
            self.events += 1
            action()
        self.now = Nanos(end)


@dataclass(frozen=True, slots=True)
class HostClock:
    """One host's view of the time: `drift_ppm` too fast, from an arbitrary origin."""

    schedule: Schedule
    origin_ns: int
    drift_ppm: int

    def now(self) -> Nanos:
        """Return the host's time."""
        true_ns = self.schedule.now
        return Nanos(self.origin_ns + true_ns + true_ns * self.drift_ppm // 1_000_000)
