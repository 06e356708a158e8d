"""A planned switchover, as the active that was asked for it keeps it (docs/protocol.md, "SWITCH").

    settle   the guest runs; the standby copies its memory into the shadow that it will need, one more epoch is cut, so
             that the last pause ships little, and the arbiter is seen to answer
    hand     the guest stands still; the last epoch is cut, acknowledged, and loaded by the standby
    switch   the SWITCH is proposed; the guest stands still until that is resolved, however long it takes, or it is
             certain that it has no effect and never will have one

Nothing is proposed before the standby has said that it loads, so a switchover that cannot work is called off and the
guest goes on where it was. A SWITCH opens the session in the other direction by itself: both sides know its id, the
memory it starts from and each other's address, so no word is needed and no page travels.
"""

from dataclasses import dataclass
from typing import Final

from ftvm.checkpoint import Checkpoint
from ftvm.encode.messages import SessionId
from ftvm.errors import InternalError
from ftvm.interfaces import Record
from ftvm.units import Nanos

__all__ = ["HANDING_LIMITS", "Switchover", "session_after"]

HANDING_LIMITS: Final = 4
"""The guest stands still for at most so many of the primary's limits before anything is proposed."""

_COUNTER: Final = 0
"""Sessions that a JOIN opened count from 1."""


def session_after(record: Record, before: SessionId) -> SessionId:
    """Return the session that a SWITCH to this record opens, from the new active to the old, behind the one before."""
    if record.active is None:
        raise InternalError(f"{record} is not what a SWITCH leads to")
    return SessionId(_COUNTER, record.active, record.generation, before.version)


@dataclass(slots=True)
class Switchover:
    """Mutable; read by the thread that asked, which waits for `is_over`.

    fresh_at    the desk's count of reads from which on the arbiter is known to answer
    warm_epoch  the epoch that is cut while the guest still runs
    ends_at     when it is called off, if nothing was proposed until then
    switched_at when the record was learned that names the standby active
    is_warm     whether the standby has said that its shadow is there
    final       the epoch that the guest stands still at, without its pages
    error       why it failed, once it is over; None if the guest runs on the other host
    """

    asked_at: Nanos
    fresh_at: int
    warm_epoch: int
    ends_at: Nanos
    paused_at: Nanos | None = None
    switched_at: Nanos | None = None
    prepare_at: Nanos | None = None
    is_warm: bool = False
    final: Checkpoint | None = None
    is_over: bool = False
    error: str | None = None

    def pause(self, now: Nanos, primary_limit_ns: Nanos) -> None:
        """Note that the guest stands still from now on, which must not last."""
        self.paused_at = now
        self.ends_at = Nanos(min(self.ends_at, now + HANDING_LIMITS * primary_limit_ns))

    def end(self, error: str | None) -> None:
        """Note how it ended; only the first word counts."""
        if not self.is_over:
            self.error = error
            self.is_over = True
