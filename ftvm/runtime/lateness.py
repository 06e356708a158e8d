"""How late a host's loop is: how long after something was due it came to it. A late loop looks like a dead host.

Bounded whatever happens: of each second of the last minute that has one longer than all later ones, the longest. Pure.
"""

from collections import deque
from typing import Final

from ftvm.units import Nanos, nanos_to_millis

__all__ = ["Lateness"]

MEMORY_SECONDS: Final = 60
_SECOND_NS: Final = 1_000_000_000


class Lateness:
    """Notes how late each step was."""

    def __init__(self) -> None:
        self._longest: deque[tuple[int, int]] = deque()

    def note(self, due: Nanos | None, asked_at: Nanos, now: Nanos) -> None:
        """Note that the loop came at `now` to what was due, None if nothing was; it was told so at `asked_at`.

        What is due at once bears any time of the past, and is late only from when that was told.
        """
        late_ns = 0 if due is None else now - max(due, asked_at)
        if late_ns <= 0:
            return
        second = now // _SECOND_NS
        while self._longest and self._longest[-1][0] <= late_ns:
            self._longest.pop()
        if not self._longest or self._longest[-1][1] != second:
            self._longest.append((late_ns, second))
        self._forget(second)

    def worst_ms(self, now: Nanos) -> float:
        """Return the latest step of the last minute, in milliseconds; 0 if none was late."""
        self._forget(now // _SECOND_NS)
        return nanos_to_millis(self._longest[0][0]) if self._longest else 0.0

    def _forget(self, second: int) -> None:
        while self._longest and self._longest[0][1] <= second - MEMORY_SECONDS:
            self._longest.popleft()
