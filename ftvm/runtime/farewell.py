"""The goodbye of a standby that stops: it stays, and listens, until its active has answered.

The active holds its outputs for a standby that is gone until it knows that, by the LEAVE or after a silence of seconds.
A host that closed its connection right behind the LEAVE could lose it: what the active sends meanwhile is never read,
so TCP ends the connection by a reset, and a reset drops what is still under way. So the active answers a LEAVE with one
of its own (protocol/active.py), and the connection is closed after that, or after a while.

An active that stops need not wait: it stands still, and its standby takes over after a short silence at the latest.
"""

from dataclasses import dataclass

from ftvm.encode.messages import Envelope, Leave, Message
from ftvm.protocol.empty import Opening
from ftvm.protocol.replica import Replica
from ftvm.protocol.standby import Standby
from ftvm.units import Nanos

__all__ = ["Farewell"]


@dataclass(frozen=True, slots=True)
class Farewell:
    """A LEAVE in this session that is not answered yet, and how long its answer is waited for."""

    opening: Opening
    ends_at: Nanos

    @classmethod
    def of(cls, replica: Replica, now: Nanos) -> "Farewell | None":
        """Return what to wait for once this replica has left; None if it is in nobody's session.

        The wait is bounded by the silence that the backup tolerates: who needs longer than that counts as gone.
        """
        steps = replica.steps
        if not isinstance(steps, Standby) or steps.is_session_over:
            return None
        return cls(steps.opening, Nanos(now + replica.core.settings.timing.backup_limit_ns))

    def is_answered_by(self, peer: str, key: str | None, envelope: Envelope, message: Message) -> bool:
        """Tell whether this message is the active's own LEAVE, or of the guest's end."""
        opening = self.opening
        is_ours = (envelope.session, peer, key) == (opening.session, opening.peer, opening.key)
        return is_ours and envelope.sender == opening.session.active and isinstance(message, Leave)
