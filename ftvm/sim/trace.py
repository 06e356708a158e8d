"""What a run reports: how often each event was told, and, if it is wanted, a line for each thing that happens.

legend.py says what the lines mean.
"""

from collections import Counter

from ftvm.sim.schedule import Schedule

__all__ = ["Trace"]

_MS = 1_000_000


class Trace:
    """The lines, if tracing `is_on`, and `told`: how often each event of the production code was told."""

    def __init__(self, schedule: Schedule, *, is_on: bool) -> None:
        self.is_on = is_on
        self.lines: list[str] = []
        self.told: Counter[str] = Counter()
        self._schedule = schedule

    def write(self, line: str) -> None:
        """Keep a line, if one is wanted."""
        if self.is_on:
            self.lines.append(f"{self._schedule.now / _MS:12.3f} {line}")
