"""A guest that makes its host's loop wait, as its process does not answer: told, shown in the status, and bounded.

The loop must not go on without the answer: it does not know whether the guest stands still. But whoever asks how things
stand is answered meanwhile (host.py), and a host that is to stop waits no longer than STOP_WAIT_SECONDS in all.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ftvm.errors import GuestError
from ftvm.events import HostStalled
from ftvm.interfaces import Clock
from ftvm.runtime.standing import State
from ftvm.runtime.status import Status
from ftvm.units import Nanos, nanos_to_seconds, seconds_to_nanos

__all__ = ["STOP_WAIT_SECONDS", "GuestWait"]

STOP_WAIT_SECONDS: Final = 10.0
"""How long a host that is to stop waits for answers of its guest's process: a busy machine takes some seconds."""
_TOLD_AGAIN_NS: Final = Nanos(60_000_000_000)
"""A guest that is slow at each checkpoint fills no log."""


class GuestWait:
    """What the loop waits for now, if for anything. `may_wait` and `hurry` may be called from any thread."""

    def __init__(self, clock: Clock, tell: Callable[[str], None]) -> None:
        """Have `tell` say, in the loop's thread, that a wait has begun."""
        self._clock = clock
        self._tell = tell
        self._reason: str | None = None
        self._since = self._over_at = Nanos(0)
        self._last = ""
        self._told_at: Nanos | None = None
        self._ends_at: Nanos | None = None
        self._is_end_told = False
        self._is_loops: Callable[[], bool] = lambda: False
        self._attend: Callable[[], None] = lambda: None

    def begin(self, is_loops: Callable[[], bool], attend: Callable[[], None]) -> None:
        """Have `attend` called while the loop waits; `is_loops` tells whether this is the loop's thread."""
        self._is_loops, self._attend = is_loops, attend

    def may_wait(self, reason: str) -> bool:
        """See OutputSink. Where it is the loop that waits, that is told and shown, and who only looks is served."""
        if self._is_loops():
            self._note(reason)
            self._attend()
        return self._left_ns() > 0

    def _note(self, reason: str) -> None:
        now = self._clock.now()
        is_new, self._reason = self._reason is None, reason
        if is_new:
            self._since = now
        if is_new and (self._told_at is None or now - self._told_at >= _TOLD_AGAIN_NS):
            self._told_at = now
            self._tell(reason)
        if self._ends_at is not None and not self._is_end_told:
            self._is_end_told = True
            left_s = nanos_to_seconds(self._left_ns())
            self._tell(f"{reason}: this host stops, and gives its guest up in {left_s:.0f} s")

    def _left_ns(self) -> int:
        return 1 if self._ends_at is None else max(0, self._ends_at - self._clock.now())

    def over(self) -> None:
        """Note that the loop goes on."""
        if self._reason is not None:
            self._last, self._over_at, self._reason = self._reason, self._clock.now(), None

    def explained(self, stalled: HostStalled) -> HostStalled:
        """Return the event of a stall with what the loop waited for meanwhile, if that was the guest."""
        waited = self._reason or (self._last if self._over_at > stalled.at - stalled.stall_ns else "")
        return replace(stalled, waited=waited)

    def hurry(self, seconds: float) -> None:
        """Have no wait last longer than `seconds` from now, but for the second that each may take."""
        ends_at = Nanos(self._clock.now() + seconds_to_nanos(seconds))
        self._ends_at = ends_at if self._ends_at is None else min(ends_at, self._ends_at)

    def require_over(self) -> None:
        """Raise GuestError if the loop waits now: no order can be carried out."""
        if self._reason is not None:
            raise GuestError(f"{self._reason}; nothing was done")

    def shown_in(self, status: Status) -> Status:
        """Return the status with the wait, if there is one."""
        if self._reason is None:
            return status
        state = State.STANDING_STILL if status.role == "active" else State.STANDBY_UNABLE
        waited = nanos_to_seconds(Nanos(status.at - self._since))
        return replace(status, state=state.value, reason=self._reason, state_seconds=waited)
