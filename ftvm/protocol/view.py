"""What may be seen of a replica from outside: frozen values, made when they are asked for.

Runtime, simulator, service and tests read these and nothing else. No large thing is copied: what is held, what is in
flight and the log are windows on the replica's own, and change with its next step.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ftvm.checkpoint import Footing, GuestPosition, LogRecord, Output, Watermarks
from ftvm.encode.messages import SessionId
from ftvm.interfaces import Engine, Record, Request
from ftvm.protocol.active.active_state import ActiveState, interval_ms_of, settings_of
from ftvm.protocol.active.link import LINKS, NAMED, STANDING, LinkEvent, LinkState
from ftvm.protocol.active.output import Held
from ftvm.protocol.core import Role
from ftvm.protocol.empty import Empty
from ftvm.protocol.session import InFlight, Session
from ftvm.protocol.standby.standby_state import ClaimState, StandbyState
from ftvm.protocol.stop import Stopping
from ftvm.units import Nanos

__all__ = [
    "NAMED",
    "STANDING",
    "ActiveView",
    "ClaimState",
    "LinkState",
    "Role",
    "SessionView",
    "StandbyView",
    "StepEnd",
    "View",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """An active's session with its standby. `acked` is what the standby has acknowledged in it.

    limit_ns  how long the standby may be silent now
    """

    id: SessionId
    peer: str
    standby: str
    acked: Watermarks
    in_flight: Sequence[InFlight]
    limit_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveView:
    """Where the guest runs. `epoch` is the last one cut; `began_at` is when this replica became active.

    engine             under which the guest runs now
    told               the last one of which the listeners know that it is in force
    wanted             the one that is to be, which may be the same
    held               the outputs that wait, in order, by those that wait for the same; held_count of them
    copy_pages_left    of the present round of a first copy
    copy_pages_sent    in all its rounds so far
    copy_round         from 1; 0 without a copy
    may_switch_over    whether a switchover may begin
    may_change_engine  whether the engine may be changed: not while the guest is being handed over
    """

    began_at: Nanos
    link: LinkState
    is_halted: bool
    epoch: int
    engine: Engine
    told: Engine
    wanted: Engine
    interval_ms: float | None
    engine_settings: str
    held: Sequence[Held]
    held_count: int
    held_bytes: int
    copy_pages_left: int
    copy_pages_sent: int
    copy_round: int
    may_switch_over: bool
    may_change_engine: bool
    session: SessionView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyView:
    """Where the guest's state builds up, or stands ready. `session` is that of its active.

    epoch, position, engine, memory_digest, output_next   of what is committed; `epoch` is None before the first
    log, log_bytes    what the guest took since, up to `log_index`
    copied_pages      of the first copy, that have come
    limit_ns          how long the active may be silent now
    outputs           emitted up to `epoch` and not known to have been released
    staged_bytes      of the unfinished checkpoint; at most `staging_limit_bytes`
    """

    session: SessionId
    peer: str
    claim: ClaimState
    is_following: bool
    epoch: int | None
    position: GuestPosition | None
    engine: str
    memory_digest: int
    output_next: int
    outputs: Collection[Output]
    log: Sequence[LogRecord]
    log_index: int
    log_bytes: int
    staged_bytes: int
    staging_limit_bytes: int
    copied_pages: int
    limit_ns: int


class StepEnd(NamedTuple):
    """What is left to do at the end of a step.

    request           to submit to the arbiter; exactly one answer must follow
    must_stand_still  the guest that runs here must not run now
    may_beat          a heartbeat may be repeated: not while this replica claims, or leaves, or has no session
    due               when the next tick is due if nothing comes before: soon enough not to look like a stall of ours
    """

    request: Request | None
    must_stand_still: bool
    may_beat: bool
    due: Nanos


@dataclass(frozen=True, slots=True)
class View:
    """One replica, as it is now. `id` names its lineage of memory, `record` is the newest that the arbiter told us.

    proposal          ours, while it may or may not be in force
    arbiter_error     why the last request failed, or nothing could be written though it did not; else None
    unanswered_since  when the first request was submitted of those without a good answer since, None if all have one
    released          the highest output number known to have left, anywhere
    lineage           of the disks' content here, "" if it is not known
    stop              how far an orderly stop has come, None if none was asked for
    peer              in session, by its name in the transport
    elsewhere         that a peer keeps the record in another place, in a sentence; None if nobody is known to
    """

    role: Role
    id: str
    record: Record
    proposal: Record | None
    arbiter_error: str | None
    unanswered_since: Nanos | None
    released: int
    lineage: str
    stop: Stopping | None
    peer: str | None
    elsewhere: str | None
    _state: Empty | StandbyState | ActiveState = field(repr=False)

    @property
    def must_stand_still(self) -> bool:
        """Whether the guest that runs here must not run now."""
        return isinstance(self._state, ActiveState) and self._state.must_stand_still()

    @property
    def footing(self) -> Footing | None:
        """Where the guest stands here; None while this host has no state of it that is whole."""
        state, record = self._state, self.record
        if isinstance(state, ActiveState):
            return Footing(lineage=self.lineage, generation=record.generation, epoch=0, runs=True)
        if not isinstance(state, StandbyState) or state.committed.epoch is None:
            return None
        generation = record.generation if record.standby == self.id else state.offer.session.generation
        return Footing(lineage=self.lineage, generation=generation, epoch=state.committed.epoch, runs=False)

    @property
    def active(self) -> ActiveView | None:
        """More of an active; None in another role."""
        return _view_of_active(self._state) if isinstance(self._state, ActiveState) else None

    @property
    def standby(self) -> StandbyView | None:
        """More of a replica that syncs or stands by; None in another role."""
        return _view_of_standby(self._state) if isinstance(self._state, StandbyState) else None


def _view_of_active(state: ActiveState) -> ActiveView:
    schedule, plan, session = state.schedule, state.plan, state.session
    return ActiveView(
        began_at=state.began_at,
        link=state.link,
        is_halted=state.is_halted,
        epoch=state.epoch,
        engine=schedule.engine,
        told=schedule.told,
        wanted=schedule.wanted or schedule.engine,
        interval_ms=interval_ms_of(schedule.engine),
        engine_settings=settings_of(schedule.engine),
        held=state.outputs.held,
        held_count=state.outputs.count,
        held_bytes=state.outputs.held_bytes,
        copy_pages_left=plan.left if plan is not None else 0,
        copy_pages_sent=plan.pages_sent if plan is not None else 0,
        copy_round=plan.round if plan is not None else 0,
        may_switch_over=(state.link, LinkEvent.ASKED) in LINKS,
        may_change_engine=state.link not in STANDING,
        session=_view_of_session(session) if session is not None else None,
    )


def _view_of_session(session: Session) -> SessionView:
    return SessionView(
        id=session.id,
        peer=session.peer,
        standby=session.standby,
        acked=session.acked,
        in_flight=session.in_flight,
        limit_ns=session.detector.limit_ns(),
    )


def _view_of_standby(state: StandbyState) -> StandbyView:
    committed = state.committed
    return StandbyView(
        session=state.offer.session,
        peer=state.offer.peer,
        claim=state.claim.state,
        is_following=state.is_following,
        epoch=committed.epoch,
        position=committed.position,
        engine=committed.engine,
        memory_digest=committed.memory.memory_digest,
        output_next=committed.output_next,
        outputs=committed.outputs,
        log=committed.log,
        log_index=committed.log_index,
        log_bytes=committed.log.payload_bytes,
        staged_bytes=state.staging.size_bytes,
        staging_limit_bytes=state.staging.limit_bytes,
        copied_pages=committed.copied_pages,
        limit_ns=state.detector.limit_ns(),
    )
