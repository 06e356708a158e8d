"""One replica of one guest: the door to the protocol. Give it reports with the time; perform the effects it returns.

The caller's duties, in order, for each step:

1. Give `step` a StepBegun; one that comes before `begins_at` may be left out.
2. Give it every message and answer that has come (Received, Answer), then what the guest emitted (Emitted): an output
   given before a message is judged without what that message acknowledged, which is safe but late.
3. Give it a Tick.
4. Perform the effects that `step` returns, in order, and report their results at once: what it returns then comes
   behind the effects that wait.
5. Ask once for `end_step(now)`: have the guest stand still or go on, submit the request to the arbiter, if any, and
   wait until what is due next, or something comes.

`view` is all there is to see. Who takes a report in which role is a table (`_TABLES`).

Nothing here reads a clock, draws a number or does I/O. A step runs to its end.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

from ftvm.checkpoint import joined_outputs
from ftvm.encode.messages import Envelope, Greeting
from ftvm.errors import ConfigError, InternalError, LocalProtocolError, must
from ftvm.events import HostStalled, RecordLearned, RoleChanged
from ftvm.interfaces import Answer, Engine, Record
from ftvm.protocol import active, empty, reports, standby
from ftvm.protocol.active import handover, joining, shipping
from ftvm.protocol.active.active_state import ActiveState, CheckpointSchedule
from ftvm.protocol.active.link import ENDING
from ftvm.protocol.active.output import OutputBuffer
from ftvm.protocol.arbiter import ArbiterClient
from ftvm.protocol.core import ROLES, Core, Role, RoleEvent, RoleTable, Settings
from ftvm.protocol.effects import Effect, EndSession, Measure, RunGuest, Stop
from ftvm.protocol.empty import Empty
from ftvm.protocol.session import Contact, SessionOffer, Switchover, session_after
from ftvm.protocol.standby.commit import CommittedState, Memory
from ftvm.protocol.standby.standby_state import StandbyState
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.view import StepEnd, View
from ftvm.units import Nanos

__all__ = ["Replica"]

HELLO_NS: Final = Nanos(1_000_000_000)
"""How often a host says HELLO to whom it is in no session with."""

NEW_NS: Final = Nanos(10_000_000_000)
"""A record that was made longer ago is an old one: its host goes on, whatever another one says."""

STALL_HEARTBEATS = 4
"""A step that comes this many heartbeats after the last one means that we, not the peer, were silent."""


class Replica:
    """See the module's text for how to drive it. It owns the state of the one role that it has."""

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        *,
        fresh_id: Callable[[], str],
        starts: bool,
        now: Nanos,
        place: str | None = None,
    ) -> None:
        """Begin from nothing, to start the guest (`starts`) or to join; committed pages go to `memory`.

        place  of the record, if that is known yet: what the first JOIN says
        """
        self._core = Core(
            settings=settings,
            fresh_id=fresh_id,
            arbiter=ArbiterClient(settings.timing.read_interval_ns, place=place),
            id=fresh_id(),  # rule: fresh_id_at_start
            lineage=settings.lineage,
            has_cache=settings.has_content,
        )
        self._stall_ns = STALL_HEARTBEATS * settings.timing.heartbeat_ns
        self._role = Role.EMPTY
        self._take_role(Empty(self._core, starts))
        self._committed = CommittedState(memory, settings.limits)
        self._stepped_at = now
        self._view: View | None = None
        self._due: Nanos | None = None
        self._hello_at = Nanos(now + HELLO_NS)
        self.begins_at = now

    def _take_role(self, state: Empty | StandbyState | ActiveState) -> None:
        self._role_state, self._table = state, _TABLES[type(state)]

    # --- the door --------------------------------------------------------------------------------------------------

    def step(self, report: reports.Report, now: Nanos) -> list[Effect]:
        """Take a report; return the effects to perform, in order."""
        core, kind = self._core, type(report)
        self._due = self._view = None
        take = self._table.takes.get(kind)
        if isinstance(report, reports.Received) and isinstance(report.message, Greeting):
            self._take_hello(report, report.message, now)
        elif take is not None:
            take(self._role_state, report, now)
        elif kind is reports.Tick:
            self._stepped_at = now
            self.begins_at = Nanos(min(self._hello_at, now + self._stall_ns + 1))
            if core.stop is None:
                self._due = self._table.tick(self._role_state, now)
            else:
                self._tick_stopping(core.stop, now)
        elif kind is reports.StepBegun:
            if now - self._stepped_at > self._stall_ns:
                self._excuse_stall(now)
            self._stepped_at = now
            if now >= self._hello_at:
                self._say_hello(now)
        elif isinstance(report, Answer):
            self._take_answer(report, now)
        elif isinstance(report, reports.PeerGone):
            self._suspect_at_once(report.peer)
        if core.happened:
            self._follow(now)
            self._due = None
        effects, core.effects = core.effects, []
        return effects

    def view(self) -> View:
        """Return what may be seen of this replica; the same one until the next report or command."""
        if self._view is None:
            core, arbiter = self._core, self._core.arbiter
            self._view = View(
                role=self._role,
                id=core.id,
                record=arbiter.known,
                proposal=arbiter.proposal,
                arbiter_error=arbiter.error,
                unanswered_since=arbiter.unanswered_since,
                released=core.released,
                lineage=core.lineage,
                stop=core.stop,
                peer=self.partner()[0],
                elsewhere=core.places.sentence(core.places.elsewhere) if core.places.elsewhere else None,
                _state=self._role_state,
            )
        return self._view

    def partner(self) -> tuple[str | None, bool]:
        """Return the peer in session, and whether a heartbeat to it may be repeated, without a view."""
        state = self._role_state
        if isinstance(state, ActiveState):
            if state.session is not None and state.session.contact is not Contact.LOST:
                return state.session.peer, state.link not in ENDING
        elif isinstance(state, StandbyState) and not state.is_session_over:
            return state.offer.peer, state.claim.is_watching
        return None, False

    def must_stand_still(self) -> bool:
        """Return whether the guest that runs here must not run now, without a view."""
        return isinstance(self._role_state, ActiveState) and self._role_state.must_stand_still()

    def expects(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of the session that builds up the state here, or
        tells what there still is of it on the other side."""
        state = self._role_state
        if isinstance(state, ActiveState):
            session = state.session
            if session is None or session.matching is None:
                return False
            return (envelope.session, peer, key) == (session.id, session.peer, session.key)
        return isinstance(state, StandbyState) and not state.is_session_over and state.offer.is_of(peer, key, envelope)

    def set_engine(self, engine: Engine) -> list[Effect]:
        """Change the engine, as soon as it can be done without losing protection; return the effects to perform.

        Raises LocalProtocolError if the guest does not run here, ConfigError if the standby does not know the engine.
        """
        if not isinstance(self._role_state, ActiveState):
            raise LocalProtocolError(f"this host is {self._role.value}: the engine is set where the guest runs")
        active.set_engine(self._role_state, engine)
        self._view = self._due = None
        return self._core.take_effects()

    def begin_switchover(self, limit_ns: Nanos, now: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; watch what is returned. Raises LocalProtocolError."""
        if not isinstance(self._role_state, ActiveState):
            raise LocalProtocolError(f"only the active host can switch over; this one is {self._role.value}")
        self._view = self._due = None
        return handover.begin(self._role_state, limit_ns, now)

    def stop(self, kind: StopKind, reason: str, now: Nanos) -> list[Effect]:
        """Stop this host in order: step on until the view's `stop` is over. `reason` is told to the peer.

        Returns the effects to perform.
        """
        stop = self._core.stop
        if stop is None:
            stop = self._core.stop = Stopping(kind, reason, now)
        elif kind is not StopKind.ASKED:
            stop.kind, stop.reason = kind, reason
        self._table.go_on_stopping(self._role_state, stop, now)
        self._follow(now)
        self._view = self._due = None
        return self._core.take_effects()

    def end_step(self, now: Nanos) -> StepEnd:
        """Return what is left to do at the end of a step."""
        core, due, state = self._core, self._due, self._role_state
        arbiter, heartbeat_ns, request = core.arbiter, core.settings.timing.heartbeat_ns, None
        if due is None:
            due = self._table.timers.due(state)[-1]
        if core.stop is not None:
            due = min(due, Nanos(now + heartbeat_ns))
        if arbiter.wants_read or arbiter.proposal is not None:
            self._view = None
            request = arbiter.next_request(now)
            asks_at = arbiter.deadline()
            due = due if asks_at is None else min(due, asks_at)
        due = min(due, Nanos(self._stepped_at + self._stall_ns // 2))
        if not isinstance(state, ActiveState):
            return StepEnd(request, False, self.partner()[1], due)
        session = state.session
        may_beat = session is not None and session.contact is not Contact.LOST and state.link not in ENDING
        return StepEnd(request, state.must_stand_still(), may_beat, due)

    # --- reports that every role takes alike -----------------------------------------------------------------------

    def _excuse_stall(self, now: Nanos) -> None:
        """We stalled ourselves since the last step: do not count that against the peer."""
        stall_ns, detector = now - self._stepped_at, self._table.detector(self._role_state)
        if detector is not None:
            detector.excuse(stall_ns, now)
        if self.partner()[0] is not None:
            self._core.tell(HostStalled(at=now, guest_id=self._core.settings.guest_id, stall_ns=stall_ns))

    def _take_answer(self, answer: Answer, now: Nanos) -> None:
        """Take the arbiter's answer to the request that is outstanding."""
        before = self._core.arbiter.known
        if not self._core.arbiter.take(answer, now):
            self._table.on_arbiter_trouble(self._role_state, now)
        else:
            if self._core.arbiter.known != before:
                self._tell_record(self._core.arbiter.known, now)
            self._table.on_record(self._role_state, now)
            if self._core.places.is_any:
                self._judge_places(now)

    def _suspect_at_once(self, peer: str) -> None:
        """Note that the process of `peer` has ended, which was confirmed (detector.py): suspect it at once.

        A link that was reset is no reason to call this: the peer may live.
        """
        detector = self._table.detector(self._role_state) if peer == self.partner()[0] else None
        if detector is not None:
            detector.hurry(f"{self._table.peer}'s process is gone: connection refused on both lanes")

    def _say_hello(self, now: Nanos) -> None:
        """Say to each peer that this host dials, and is in no session with, which record it reads."""
        self._hello_at = Nanos(now + HELLO_NS)
        self._core.places.forget(now)
        partner, dialled = self.partner()[0], self._core.settings.dialled
        if partner is not None and partner not in dialled and len(dialled) == 1:
            return  # it dialled us: the one that we dial, by another name
        for peer in dialled:
            if peer != partner:
                self._core.say_hello(peer, self._role)

    def _take_hello(self, report: reports.Received, hello: Greeting, now: Nanos) -> None:
        """Note where another host keeps the record; in session or not."""
        self._core.hear_place(report.peer, report.envelope.sender, hello.place, self._role, now)
        self._judge_places(now)

    def _judge_places(self, now: Nanos) -> None:
        """Say who reads another record. If this host has only just made its own, it ends: the other's guest may be
        older, and nobody else has the one here."""
        core, state = self._core, self._role_state
        core.judge_places(now)
        is_new = core.created_at is not None and now < core.created_at + NEW_NS
        is_alone = isinstance(state, ActiveState) and state.session is None
        older = core.places.with_records
        if older and is_new and is_alone and core.stop is None:
            reason = core.places.sentence(older)
            core.fail(ConfigError(f"{reason}; this host has only just made its record, and stops"), StopKind.FAILED)

    def _tick_stopping(self, stop: Stopping, now: Nanos) -> None:
        """Do what is due on a host that was asked to stop."""
        self._table.go_on_stopping(self._role_state, stop, now)
        self._follow(now)
        if not stop.is_over:
            self._due = self._table.tick(self._role_state, now)

    # --- roles -----------------------------------------------------------------------------------------------------

    def _follow(self, now: Nanos) -> None:
        while self._core.happened:
            event, reason = self._core.happened.pop(0)
            role = ROLES.get((self._role, event))
            if role is None:
                raise InternalError(f"a replica that is {self._role.value} cannot be {event.value}")
            self._become(role, event, now)
            self._core.tell(
                RoleChanged(
                    at=now,
                    guest_id=self._core.settings.guest_id,
                    role=role.value,
                    replica_id=self._core.id,
                    reason=reason,
                )
            )

    def _become(self, role: Role, event: RoleEvent, now: Nanos) -> None:
        before, self._role = self._role_state, role
        match role:
            case Role.EMPTY:
                if isinstance(before, StandbyState) and before.switchover is not None:
                    before.switchover.end(None)
                if isinstance(before, ActiveState):
                    before.uncover()
                self._core.do(EndSession())
                self._core.do(Stop())  # rule: guest_stopped_before_it_is_offered
                self._core.id = self._core.fresh_id()  # rule: fresh_id_after_discarding
                self._core.released = self._core.released_told = 0
                self._core.has_cache = not isinstance(before, StandbyState) or before.is_whole
                self._core.happened.clear()
                self._take_role(Empty.again(self._core, now))
            case Role.SYNCING:
                if not isinstance(before, Empty) or before.offer is None:
                    raise InternalError("welcomed without an offer")
                self._take_role(standby.begin(self._core, before.offer, self._committed, now))
            case Role.STANDBY:
                if isinstance(before, ActiveState):
                    self._stand_by_again(before, now)
            case Role.ACTIVE:
                self._activate(event, now)
            case _:
                assert_never(role)

    def _activate(self, event: RoleEvent, now: Nanos) -> None:
        """Go on from the committed state; after a START there is no such state: the memory is as the guest booted
        it."""
        committed = self._committed
        must(
            (event is RoleEvent.STARTED) == (committed.epoch is None),
            "a START begins from nothing, all else from a state",
        )
        must(self._core.released <= committed.output_last, "what has left was made by the state that goes on")
        is_following = isinstance(self._role_state, StandbyState) and self._role_state.is_following
        kept = joined_outputs(committed.outputs.tables)
        outputs = OutputBuffer(released=committed.output_next - 1 - len(kept))
        self._core.released = max(self._core.released, outputs.released)
        settings = self._core.settings
        is_first = event is RoleEvent.STARTED and self._core.arbiter.known.generation == 1
        self._core.created_at = now if is_first else None
        engine = settings.engine if committed.epoch is None else settings.engines[committed.engine]
        state = ActiveState(self._core, outputs, committed.epoch or 0, now, CheckpointSchedule(engine, now))
        if isinstance(self._role_state, StandbyState) and self._role_state.durability.safe is not None:
            state.unsynced = self._core.persist()
        if event is RoleEvent.SWITCHED_HERE and isinstance(self._role_state, StandbyState):
            joining.resume(state, self._role_state.offer, committed, now)
            if settings.keeps_disks:
                state.flushed = state.epoch + 1  # the other host perhaps has on no device yet what was flushed before
        self._take_role(state)
        log = () if is_following else tuple(committed.log)  # rule: log_replayed
        # Before the outputs: a thousand of them take the world as long as all else that the guest would wait for.
        self._core.do(RunGuest(committed.output_next, committed.log_index + 1, log, engine))
        if kept.rows:
            shipping.take_emitted(state, reports.Emitted(said=[(kept, 0)]), now)
        state.announcer.begin(now)

    def _stand_by_again(self, before: ActiveState, now: Nanos) -> None:
        """Be the standby of whom the guest was handed to, with the state that it stands still at here."""
        switchover, session, known = before.switchover, before.session, self._core.arbiter.known
        if switchover is None or switchover.final is None or session is None:
            raise InternalError("switched away without a switchover")
        self._core.do(EndSession())
        self._core.do(Stop())
        offer = SessionOffer(
            session_after(known, session.id), session.peer, session.key, session.staging_bytes, session.engines
        )
        self._committed.adopt(switchover.final)
        self._core.do(Measure())
        self._take_role(standby.resume(self._core, offer, self._committed, switchover, now))

    def _tell_record(self, record: Record, now: Nanos) -> None:
        self._core.tell(
            RecordLearned(
                at=now,
                guest_id=self._core.settings.guest_id,
                generation=record.generation,
                active=record.active,
                standby=record.standby,
            )
        )


_TABLES: Final[Mapping[type, RoleTable[Any]]] = {
    Empty: empty.TABLE,
    StandbyState: standby.TABLE,
    ActiveState: active.TABLE,
}
