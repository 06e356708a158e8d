"""When silence becomes suspicion (docs/protocol.md, "Suspicion"). Nothing safe depends on it: the arbiter decides, this
only asks.

Once the peer is expected to be prompt, the limit adapts: it is never under four times the longest gap between two
heartbeats of the last minute, and never over ten times what was configured, so that neither a jittery link nor a slow
peer on purpose sets it at will. Only heartbeats count for that: they are sent evenly, the other messages in bursts.

A heartbeat says that the peer's process lives, and by its number whether its loop goes on: a thread repeats the last
one while the loop is busy (runtime/host.py). A loop that makes no progress for four limits is as good as silent.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ftvm.encode.messages import Message, Ping, Pong
from ftvm.units import Nanos

__all__ = ["Watch", "beat_of"]

GAP_FACTOR: Final = 4
LIMIT_FACTOR_MAX: Final = 10
PROGRESS_FACTOR: Final = 4
MEMORY_NS: Final = 60_000_000_000
BUCKET_NS: Final = 1_000_000_000
"""Gaps are remembered by the second, each second's longest: bounded, whatever the peer sends."""
EXCUSES_MAX: Final = 8
"""So many stalls of our own are excused before the peer must be heard: stopped again and again, we would wait for a
dead one for ever."""


def beat_of(message: Message) -> int | None:
    """Return the number of a heartbeat, or None if the message is not one."""
    return message.number if isinstance(message, Ping | Pong) else None


@dataclass(slots=True)
class _Gaps:
    """The longest gaps between heartbeats: of each second that has one longer than all later ones."""

    last_at: Nanos | None = None
    _longest: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def longest_ns(self) -> int:
        """The longest of the last minute, as of the last heartbeat."""
        return self._longest[0][1] if self._longest else 0

    def note(self, now: Nanos) -> None:
        """Note a heartbeat."""
        last_at, self.last_at = self.last_at, now
        if last_at is None:
            return
        gap_ns, second = now - last_at, now // BUCKET_NS
        while self._longest and self._longest[-1][1] <= gap_ns:
            self._longest.pop()
        if not self._longest or self._longest[-1][0] != second:
            self._longest.append((second, gap_ns))
        while self._longest[0][0] < second - MEMORY_NS // BUCKET_NS:
            self._longest.popleft()


@dataclass(slots=True)
class Watch:
    """Watches one peer. `patience` multiplies the limit while the peer is not yet expected to be prompt (first
    copy)."""

    configured_ns: Nanos
    heard_at: Nanos
    patience: int = 1
    _progressed_at: Nanos = field(init=False)
    _reason: str = ""
    _beat: int | None = None
    _excuses: int = 0
    _gaps: _Gaps = field(default_factory=_Gaps)

    def __post_init__(self) -> None:
        self._progressed_at = self.heard_at

    def heard(self, now: Nanos, beat: int | None = None) -> None:
        """Note a sign of life; `beat` is its number if it is a heartbeat, which counts what the peer's loop does."""
        self.heard_at = now
        self._reason = ""
        self._excuses = 0
        if beat is None:
            self._progressed_at = now
            return
        self._gaps.note(now)
        if self._beat is None or beat > self._beat:  # rule: beat_must_grow
            self._beat, self._progressed_at = beat, now

    def excuse(self, stall_ns: int, now: Nanos) -> None:
        """Leave out of the silence that we were not listening ourselves for `stall_ns`, until now.

        What the silence was before stays. After a few such stalls without a sign of life no more are left out.
        """
        if self._excuses >= EXCUSES_MAX:  # rule: excuses_bounded
            return
        self._excuses += 1
        self.heard_at = Nanos(min(now, self.heard_at + stall_ns))  # rule: only_the_stall_excused
        self._progressed_at = Nanos(min(now, self._progressed_at + stall_ns))
        if self._gaps.last_at is not None:
            self._gaps.last_at = Nanos(min(now, self._gaps.last_at + stall_ns))

    def hurry(self, reason: str) -> None:
        """Suspect at once, and say why: the peer said that it leaves, or its process is known to be gone.

        Any sign of life undoes it.
        """
        self._reason = reason

    def arm(self, now: Nanos) -> None:
        """Expect the peer to be prompt from now on; gaps of the time before do not count."""
        self.patience = 1
        self._gaps = _Gaps()
        self.heard_at = self._progressed_at = now

    def limit_ns(self) -> Nanos:
        """Return how long a silence is tolerated now."""
        if self._reason:
            return Nanos(0)
        if self.patience > 1:
            return Nanos(self.configured_ns * self.patience)
        adapted_ns = max(self.configured_ns, self._gaps.longest_ns * GAP_FACTOR)
        return Nanos(min(adapted_ns, self.configured_ns * LIMIT_FACTOR_MAX))

    def silence_ns(self, now: Nanos) -> Nanos:
        """Return how long the peer has been silent."""
        return Nanos(now - self.heard_at)

    def is_silent(self, now: Nanos) -> bool:
        """Tell whether the silence has passed the limit, or the peer's loop has made no progress for too long."""
        return now >= self.deadline()

    def deadline(self) -> Nanos:
        """Return when the peer will be suspected."""
        limit_ns = self.limit_ns()
        return Nanos(min(self.heard_at + limit_ns, self._progressed_at + limit_ns * PROGRESS_FACTOR))

    def reason(self, whom: str, now: Nanos) -> str:
        """Return why the peer, called `whom`, is suspected, where that is not its silence; empty if it is."""
        if self._reason or self.silence_ns(now) >= self.limit_ns():
            return self._reason
        stuck_ms = (now - self._progressed_at) / 1e6
        return f"{whom}'s process lives, but its loop has made no progress for {stuck_ms:.0f} ms"
