"""When silence becomes suspicion (PROTOCOL.md, "Time"). Nothing safe depends on it: the arbiter decides, this only
asks.

Once the peer is expected to be prompt, the limit adapts: it is never under four times the longest recent gap between
messages, and never over ten times what was configured, so that neither a jittery link nor a slow peer on purpose sets
it at will.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ftvm.units import Nanos

__all__ = ["Watch"]

GAPS_KEPT: Final = 16
GAP_FACTOR: Final = 4
LIMIT_FACTOR_MAX: Final = 10


@dataclass(slots=True)
class Watch:
    """Watches one peer. `patience` multiplies the limit while the peer is not yet expected to be prompt (first
    copy)."""

    configured_ns: Nanos
    heard_at: Nanos
    patience: int = 1
    reason: str = ""
    """Why the peer is suspected at once; empty while only silence would tell."""
    _gaps_ns: deque[int] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))
    _longest_gap_ns: int = 0

    def heard(self, now: Nanos) -> None:
        """Note a sign of life."""
        self._gaps_ns.append(now - self.heard_at)
        self._longest_gap_ns = max(self._gaps_ns)
        self.heard_at = now
        self.reason = ""

    def excuse(self, now: Nanos) -> None:
        """Start the silence anew: we were not listening ourselves, so the peer may have spoken."""
        self.heard_at = now

    def hurry(self, reason: str) -> None:
        """Suspect at once, and say why: the peer said that it leaves, or its process is known to be gone.

        Any sign of life undoes it.
        """
        self.reason = reason

    def arm(self, now: Nanos) -> None:
        """Expect the peer to be prompt from now on; gaps of the time before do not count."""
        self.patience = 1
        self._gaps_ns.clear()
        self._longest_gap_ns = 0
        self.heard_at = now

    def limit_ns(self) -> Nanos:
        """Return how long a silence is tolerated now."""
        if self.reason:
            return Nanos(0)
        if self.patience > 1:
            return Nanos(self.configured_ns * self.patience)
        adapted_ns = max(self.configured_ns, self._longest_gap_ns * GAP_FACTOR)
        return Nanos(min(adapted_ns, self.configured_ns * LIMIT_FACTOR_MAX))

    def silence_ns(self, now: Nanos) -> Nanos:
        """Return how long the peer has been silent."""
        return Nanos(now - self.heard_at)

    def is_silent(self, now: Nanos) -> bool:
        """Tell whether the silence has passed the limit."""
        return self.silence_ns(now) >= self.limit_ns()

    def deadline(self) -> Nanos:
        """Return when the silence will have passed the limit."""
        return Nanos(self.heard_at + self.limit_ns())
