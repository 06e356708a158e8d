"""What a replica in session holds of its active's guest, as the modules see it that act on it.

    claiming.py    how it comes to run the guest        following.py   how it executes along

Those are functions over a Holding, each of one theme; standby.py calls them and keeps the time. Here is what all of
them need: the state, and the few steps that more than one takes.
"""

from dataclasses import dataclass, field

from ftvm.checkpoint import Checkpoint
from ftvm.encode.messages import Leave
from ftvm.errors import LimitExceeded, RemoteProtocolError
from ftvm.events import Committed, EngineChanged, PeerMisbehaved, SessionEnded
from ftvm.interfaces import Lane
from ftvm.protocol.channel import Inbox
from ftvm.protocol.commit import CommittedState, Staging
from ftvm.protocol.core import Core, RoleEvent
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.session import SessionOffer, Switchover
from ftvm.protocol.takeover import Claim
from ftvm.units import Nanos

__all__ = ["Holding"]


@dataclass(slots=True)
class Holding:
    """What is staged and committed, whom it comes from, and where the claim to run it stands.

    is_following       the guest here executes the log; is_coming_to_rest  it will stop at the next mark
    switchover         the one by which this replica, active before, gave the guest away
    fresh_at           the arbiter client's count of reads from which on the record read is later than the session
    guest_end          why the guest came to its own end, told while a TAKE was proposed and may be in force
    owes_ack           something has come since the last acknowledgement
    """

    core: Core
    offer: SessionOffer
    committed: CommittedState
    inbox: Inbox
    staging: Staging
    detector: FailureDetector
    claim: Claim = field(default_factory=Claim)
    is_session_over: bool = False
    is_following: bool = False
    is_coming_to_rest: bool = False
    switchover: Switchover | None = None
    fresh_at: int = 0
    guest_end: str | None = None
    owes_ack: bool = True
    poll_at: Nanos = Nanos(0)

    @property
    def is_whole(self) -> bool:
        """Whether there is a state to take over from."""
        return self.committed.epoch is not None

    @property
    def is_named_active(self) -> bool:
        """Whether the record names this replica active: from then on it commits and acknowledges nothing."""
        return self.core.arbiter.known.active == self.core.id

    def executes_behind(self, checkpoint: Checkpoint) -> bool:
        """Whether the guest executes here from this checkpoint on."""
        return self.core.settings.engines[checkpoint.engine].executes

    def take_committed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        """Tell that an epoch is committed here. With the first one, the active is expected to be prompt.

        Not before: after a first copy or a switchover, what it has to do for that epoch may take it a while.
        """
        if self.detector.patience > 1:
            self.detector.arm(now)
        self.core.tell(
            Committed(
                at=now,
                guest_id=self.core.settings.guest_id,
                epoch=checkpoint.epoch,
                dirty_pages=checkpoint.dirty_pages,
                sent_bytes=sum(batch.size_bytes for batch in checkpoint.batches),
                pause_ns=0,
            )
        )

    def tell_engine(self, before: str, now: Nanos) -> None:
        """Tell that the active's engine has changed, if it has."""
        if self.committed.engine != before:
            guest_id, engine = self.core.settings.guest_id, self.committed.engine
            self.core.tell(EngineChanged(at=now, guest_id=guest_id, before=before, engine=engine))

    def end_session(self, wrong: RemoteProtocolError | LimitExceeded, now: Nanos) -> None:
        """Leave a peer that broke the protocol. The committed state stays, and with it the right to take over."""
        guest_id = self.core.settings.guest_id
        error = f"{type(wrong).__name__}: {wrong}"
        self.core.tell(PeerMisbehaved(at=now, guest_id=guest_id, peer=self.offer.peer, error=error))
        self.leave(error, now)

    def say_goodbye(self, reason: str) -> None:
        """Tell the active that this host stops, and take nothing more in; the role goes on until it is answered."""
        self.core.send(self.offer.peer, Lane.CONTROL, Leave(reason=reason), self.offer.session)
        self.is_session_over = True
        self.staging.clear()

    def leave(self, reason: str, now: Nanos) -> None:
        """End the session from this side."""
        self.core.send(self.offer.peer, Lane.CONTROL, Leave(reason=reason), self.offer.session)
        self.core.tell(SessionEnded(at=now, guest_id=self.core.settings.guest_id, reason=reason))
        self.is_session_over = True
        self.staging.clear()
        if not self.is_whole:
            self.core.end_role(RoleEvent.SESSION_LOST, reason)
