"""Announces the guest's address when it has come to this host, and a few times more.

Late frames of the old host may lead the switches astray again after the first announcement.
"""

from dataclasses import dataclass

from ftvm.protocol.core import Core
from ftvm.protocol.effects import Announce
from ftvm.units import Nanos

__all__ = ["Announcer"]


@dataclass(slots=True)
class Announcer:
    """`due_at` is when the next announcement is due, None if there is none to come."""

    core: Core
    due_at: Nanos | None = None
    _left: int = 0

    def begin(self, now: Nanos) -> None:
        """Announce now, and as often again as configured."""
        timing = self.core.settings.timing
        self.core.do(Announce())
        self._left = timing.announce_count - 1
        self.due_at = Nanos(now + timing.announce_interval_ns)

    def tick(self, now: Nanos) -> None:
        """Announce again if that is due."""
        if self.due_at is None or now < self.due_at:
            return
        self.core.do(Announce())
        self._left -= 1
        self.due_at = Nanos(now + self.core.settings.timing.announce_interval_ns) if self._left > 0 else None
