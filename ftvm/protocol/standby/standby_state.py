"""The state of a replica in session with an active, for the modules of this package that act on it.

    claiming.py    how it comes to run the guest        following.py   how it executes along
    commit.py      what is staged and committed

Those are functions over a StandbyState, one theme each. Here are the state and the few steps that several of them need.
The claim is a table:

    WATCHING --suspected--> CHECKING --fresh read says (g, X, me), state loaded--> CLAIMING --TAKE in force--> over
        ^                      |                                                      |
        +--- heard again, load failed, arbiter silent                                 |
        +--- another change won, this replica is still named -------------------------+

A planned switchover needs no claim, only a state that is seen to load before the active proposes (docs/protocol.md,
"SWITCH"):

    WATCHING --asked--> PREPARED --the record names this replica active--> over
        ^                  |
        +--- the active ships on, or the state does not load; a silent active is suspected as ever (to CHECKING)

Loading comes before claiming: a state that does not load is never claimed. From CHECKING on nothing is acknowledged. A
claim that was proposed is never abandoned before it is resolved; until then the guest is loaded and paused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ftvm.checkpoint import Checkpoint, Commit, LogRecord, Output
from ftvm.encode.messages import Leave
from ftvm.errors import InternalError, LimitExceeded, RemoteProtocolError
from ftvm.events import EngineChanged, PeerMisbehaved, SessionEnded
from ftvm.interfaces import Lane
from ftvm.protocol.core import Core, RoleEvent
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.effects import ShowCommit
from ftvm.protocol.session import SessionOffer, Switchover
from ftvm.protocol.standby.commit import CommittedState, Durability, Inbox, NotedLog, Offering, Staging
from ftvm.units import Nanos

__all__ = ["CLAIMS", "Claim", "ClaimEvent", "ClaimState", "StandbyState"]


class ClaimState(Enum):
    """Where a claim stands."""

    WATCHING = "watching"
    PREPARED = "prepared"
    CHECKING = "checking"
    CLAIMING = "claiming"


class ClaimEvent(Enum):
    """What moves a claim."""

    ASKED = "asked to prepare"
    SUSPECTED = "suspected"
    CALLED_OFF = "called off"
    PROPOSED = "proposed"
    LOST = "lost"


CLAIMS: Final[dict[tuple[ClaimState, ClaimEvent], ClaimState]] = {
    (ClaimState.WATCHING, ClaimEvent.ASKED): ClaimState.PREPARED,
    (ClaimState.PREPARED, ClaimEvent.CALLED_OFF): ClaimState.WATCHING,
    (ClaimState.PREPARED, ClaimEvent.SUSPECTED): ClaimState.CHECKING,
    (ClaimState.WATCHING, ClaimEvent.SUSPECTED): ClaimState.CHECKING,
    (ClaimState.CHECKING, ClaimEvent.CALLED_OFF): ClaimState.WATCHING,
    (ClaimState.CHECKING, ClaimEvent.PROPOSED): ClaimState.CLAIMING,
    (ClaimState.CLAIMING, ClaimEvent.LOST): ClaimState.WATCHING,
}
"""Every pair that is absent is illegal; reaching one is a bug in ftvm."""


@dataclass(slots=True)
class Claim:
    """One standby's claim, with the times that TookOver reports.

    is_watching   whether epochs may be committed and acknowledged
    fresh_at      the arbiter client's count of reads from which on the record read is fresh
    is_loaded     the committed state is in the guest
    suspected_at  when the active was suspected first since it last shipped anything; claims that were called off count
    silence_ns    how long it had been silent then
    """

    state: ClaimState = ClaimState.WATCHING
    is_watching: bool = True
    fresh_at: int = 0
    is_loaded: bool = False
    began_at: Nanos = Nanos(0)
    loaded_at: Nanos = Nanos(0)
    suspected_at: Nanos | None = None
    silence_ns: int = 0
    not_before: Nanos | None = None

    def step(self, event: ClaimEvent) -> None:
        """Move by the table."""
        state = CLAIMS.get((self.state, event))
        if state is None:
            raise InternalError(f"a claim that is {self.state.value} cannot be {event.value}")
        self.state = state
        self.is_watching = state in (ClaimState.WATCHING, ClaimState.PREPARED)

    def prepare(self, now: Nanos) -> None:
        """Load for a planned switchover, which nobody has proposed yet."""
        self.step(ClaimEvent.ASKED)
        self.is_loaded = False
        self.began_at = now

    def begin(self, *, fresh_at: int, silence_ns: int, now: Nanos) -> None:
        """Start checking: the active has been silent for `silence_ns`."""
        self.step(ClaimEvent.SUSPECTED)
        self.fresh_at = fresh_at
        self.is_loaded = False
        self.began_at = now
        if self.suspected_at is None:
            self.suspected_at, self.silence_ns = now, silence_ns
        self.not_before = None


@dataclass(slots=True)
class StandbyState:
    """What is staged and committed, whom it comes from, and where the claim to run it stands.

    is_following       the guest here executes the log; is_coming_to_rest  it will stop at the next mark
    switchover         the one by which this replica, active before, gave the guest away
    fresh_at           the arbiter client's count of reads from which on the record read is later than the session
    guest_end          why the guest came to its own end, told while a TAKE was proposed and may be in force
    owes_ack           something has come since the last acknowledgement
    noted              the log since the last epoch where the engine does not need it, for who looks on
    made               outputs that the guest, executing here, has made since the last mark; kept for who looks on
    offering           what this host still has, until a first copy that rests on it is whole
    durability         what may be acknowledged of what is committed
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
    noted: NotedLog = field(default_factory=NotedLog)
    made: list[Output] = field(default_factory=list)
    offering: Offering | None = None
    durability: Durability = field(default_factory=Durability)
    poll_at: Nanos = Nanos(0)

    @property
    def is_whole(self) -> bool:
        """Whether there is a state to take over from."""
        return self.committed.epoch is not None

    @property
    def is_named_active(self) -> bool:
        """Whether the record names this replica active: from then on it commits and acknowledges nothing."""
        return self.core.arbiter.known.active == self.core.id

    def safe_before(self, checkpoint: Checkpoint) -> tuple[int | None, int] | None:
        """Return what may be acknowledged, where disks are kept, until the checkpoint to be committed is durable there;
        None: all."""
        committed = self.committed
        if checkpoint.has_flush or committed.epoch is None:
            return committed.epoch, committed.memory.memory_digest
        return None

    def hold_back(self, epoch: int | None, digest: int) -> None:
        """What was just committed has to be durable: until it is, acknowledge what was committed before."""
        self.durability.hold(*((0, 0) if epoch is None else (epoch, digest)))
        self.persist(self.inbox.expected)

    def persist(self, received: int) -> None:
        """Have the disks put on their devices what has to be there, unless that is under way: then it is next.

        received  so many messages have been taken
        """
        if self.durability.must_ask:
            committed = self.committed
            epoch, digest = committed.epoch or 0, committed.memory.memory_digest
            self.durability.ask(self.core.persist(), epoch, digest, received)

    def executes_behind(self, checkpoint: Checkpoint) -> bool:
        """Whether the guest executes here from this checkpoint on."""
        return self.core.settings.engines[checkpoint.engine].executes

    def keep(
        self,
        checkpoint: Checkpoint,
        log: Iterable[LogRecord],
        *,
        is_first: bool = False,
        written: Sequence[int] | None = None,
    ) -> None:
        """Show what is committed here to whoever looks on; `log` is what was kept before.

        written  where the guest executes here: the pages that it has written
        """
        session = self.offer.session
        commit = Commit(
            checkpoint=checkpoint,
            log=tuple(record for record in log if record.index <= checkpoint.log_index),
            is_first=is_first,
            is_executed=written is not None,
            written=written or (),
            lineage=session.active,
            generation=session.generation,
        )
        self.core.do(ShowCommit(commit))

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
