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
        self._left = self.core.settings.timing.announce_count
        self._announce(now)

    def tick(self, now: Nanos) -> None:
        """Announce again if that is due."""
        if self.due_at is not None and now >= self.due_at:
            self._announce(now)

    def _announce(self, now: Nanos) -> None:
        self.core.do(Announce())
        self._left -= 1
        self.due_at = Nanos(now + self.core.settings.timing.announce_interval_ns) if self._left > 0 else None
