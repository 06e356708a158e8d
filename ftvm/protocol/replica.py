"""One replica of one guest: the door to the protocol. Give it reports with the time; perform the effects it returns.

The caller's duties, in order, for each step:

1. Give `step` a StepBegun.
2. Give it every message and answer that has come (Received, Answer), then what the guest emitted (Emitted): an output
   given before a message is judged without what that message acknowledged, which is safe but late.
3. Give it a Tick.
4. Submit `next_request(now)`, if any, to the arbiter.
5. Perform the effects that `step` returns, in order, and report their results at once: what it returns then comes
   behind the effects that wait.
6. Wait until `deadline(now)`, or something comes.

`view` is all there is to see. Which function takes a report in which role is a table (`_TAKES`).

Nothing here reads a clock, draws a number or does I/O. A step runs to its end.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

from ftvm.errors import InternalError, LocalProtocolError
from ftvm.events import HostStalled, RecordLearned, RoleChanged
from ftvm.interfaces import Answer, Engine, Record, Request
from ftvm.protocol import reports, stopping
from ftvm.protocol.active import Active
from ftvm.protocol.arbiter import ArbiterClient
from ftvm.protocol.commit import CommittedState, Memory
from ftvm.protocol.core import ROLES, Core, Role, RoleEvent, Settings, Steps
from ftvm.protocol.effects import Effect, EndSession, Measure, RunGuest, Stop
from ftvm.protocol.empty import Empty
from ftvm.protocol.link import ENDING
from ftvm.protocol.output import OutputBuffer
from ftvm.protocol.schedule import CheckpointSchedule
from ftvm.protocol.session import Contact, SessionOffer, Switchover, session_after
from ftvm.protocol.standby import Standby
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.view import View
from ftvm.units import Nanos

__all__ = ["Replica"]

STALL_HEARTBEATS = 4
"""A step that comes this many heartbeats after the last one means that we, not the peer, were silent."""


class Replica:
    """See the module's text for how to drive it. `role` and `steps` say where it stands."""

    def __init__(
        self, settings: Settings, memory: Memory, *, fresh_id: Callable[[], str], starts: bool, now: Nanos
    ) -> None:
        """Begin from nothing, to start the guest (`starts`) or to join; committed pages go to `memory`."""
        self.core = Core(
            settings=settings,
            fresh_id=fresh_id,
            arbiter=ArbiterClient(settings.timing.read_interval_ns),
            id=fresh_id(),  # rule: fresh_id_at_start
        )
        self.role = Role.EMPTY
        self.steps: Empty | Standby | Active = Empty(self.core, starts)
        self._committed = CommittedState(memory, settings.limits)
        self._stepped_at = now
        self._view: View | None = None
        self._due: Nanos | None = None

    # --- the door --------------------------------------------------------------------------------------------------

    def step(self, report: reports.Report, now: Nanos) -> list[Effect]:
        """Take a report; return the effects to perform, in order."""
        self._due = None
        match report:
            case reports.Received():
                self.steps.on_message(report.peer, report.key, report.envelope, report.message, now)
            case reports.Tick():
                self.tick(now)
            case reports.StepBegun():
                self.begin_step(now)
            case Answer():
                self.on_answer(report, now)
            case reports.PeerGone():
                self.on_peer_gone(report.peer)
            case _:
                take = _TAKES.get((type(self.steps), type(report)))
                if take is not None:
                    take(self.steps, report, now)
        if self.core.happened:
            self._follow(now)
            self._due = None
        self._view = None
        effects, self.core.effects = self.core.effects, []
        return effects

    def view(self) -> View:
        """Return what may be seen of this replica; the same one until the next report or command."""
        if self._view is None:
            core, arbiter, state = self.core, self.core.arbiter, self.steps
            peer, may_beat = None, False
            if isinstance(state, Active):
                if state.session is not None and state.session.contact is not Contact.LOST:
                    peer, may_beat = state.session.peer, state.link not in ENDING
            elif isinstance(state, Standby) and not state.is_session_over:
                peer, may_beat = state.offer.peer, state.claim.is_watching
            self._view = View(
                role=self.role,
                id=core.id,
                record=arbiter.known,
                proposal=arbiter.proposal,
                arbiter_error=arbiter.error,
                released=core.released,
                stop=core.stop,
                peer=peer,
                may_beat=may_beat,
                _state=state,
            )
        return self._view

    def begin_step(self, now: Nanos) -> None:
        """Start a step. If we stalled ourselves since the last one, do not count the stall against the peer."""
        stall_ns = now - self._stepped_at
        if stall_ns > STALL_HEARTBEATS * self.core.settings.timing.heartbeat_ns:
            self._excuse(stall_ns, now)
            if self.view().peer is not None:
                self.core.tell(HostStalled(at=now, guest_id=self.core.settings.guest_id, stall_ns=stall_ns))
        self._stepped_at = now

    # --- events ----------------------------------------------------------------------------------------------------

    def on_answer(self, answer: Answer, now: Nanos) -> None:
        """Take the arbiter's answer to the request that is outstanding."""
        before = self.core.arbiter.known
        if not self.core.arbiter.take(answer, now):
            self.steps.on_arbiter_trouble(now)
        else:
            if self.core.arbiter.known != before:
                self._tell_record(self.core.arbiter.known, now)
            self.steps.on_record(now)

    def on_peer_gone(self, peer: str) -> None:
        """Note that the process of `peer` has ended, which was confirmed (detector.py): suspect it at once.

        A link that was reset is no reason to call this: the peer may live.
        """
        steps = self.steps
        if peer != self.view().peer:
            return
        if isinstance(steps, Standby):
            steps.detector.hurry("the active's process is gone: connection refused on both lanes")
        elif isinstance(steps, Active) and steps.session is not None:
            steps.session.detector.hurry("the standby's process is gone: connection refused on both lanes")

    def tick(self, now: Nanos) -> None:
        """Do what is due."""
        stop = self.core.stop
        if stop is not None:
            self._go_on_stopping(stop, now)
            self._follow(now)
        if stop is None or not stop.is_over:
            self._due = self.steps.tick(now)

    def set_engine(self, engine: Engine) -> list[Effect]:
        """Change the engine, as soon as it can be done without losing protection; return the effects to perform.

        Raises LocalProtocolError if the guest does not run here, ConfigError if the standby does not know the engine.
        """
        if not isinstance(self.steps, Active):
            raise LocalProtocolError(f"this host is {self.role.value}: the engine is set where the guest runs")
        self.steps.set_engine(engine)
        self._view = self._due = None
        return self.core.take_effects()

    def stop(self, kind: StopKind, reason: str, now: Nanos) -> list[Effect]:
        """Stop this host in order: step on until the view's `stop` is over. `reason` is told to the peer.

        Returns the effects to perform.
        """
        stop = self.core.stop
        if stop is None:
            stop = self.core.stop = Stopping(kind, reason, now)
        elif kind is not StopKind.ASKED:
            stop.kind, stop.reason = kind, reason
        self._go_on_stopping(stop, now)
        self._follow(now)
        self._view = self._due = None
        return self.core.take_effects()

    def _go_on_stopping(self, stop: Stopping, now: Nanos) -> None:
        match self.steps:
            case Active():
                stopping.go_on_active(self.steps, stop, now)
            case Standby():
                stopping.go_on_standby(self.steps, stop, now)
            case Empty():
                stopping.go_on_empty(self.core, stop, now)

    # --- what to do ------------------------------------------------------------------------------------------------

    def next_request(self, now: Nanos) -> Request | None:
        """Return what to submit to the arbiter now, if anything; exactly one answer must follow."""
        return self.core.arbiter.next_request(now)

    def deadline(self, now: Nanos) -> Nanos:
        """Return when the next `tick` is due if nothing comes before: soon enough not to look like a stall of ours."""
        look_at = Nanos(self._stepped_at + STALL_HEARTBEATS * self.core.settings.timing.heartbeat_ns // 2)
        stop_at = Nanos(now + self.core.settings.timing.heartbeat_ns) if self.core.stop is not None else None
        due = self.steps.deadline() if self._due is None else self._due
        return min(time for time in (due, self.core.arbiter.deadline(), look_at, stop_at) if time is not None)

    # --- roles -----------------------------------------------------------------------------------------------------

    def _follow(self, now: Nanos) -> None:
        while self.core.happened:
            event, reason = self.core.happened.pop(0)
            role = ROLES.get((self.role, event))
            if role is None:
                raise InternalError(f"a replica that is {self.role.value} cannot be {event.value}")
            self._become(role, event, now)
            self.core.tell(
                RoleChanged(
                    at=now,
                    guest_id=self.core.settings.guest_id,
                    role=role.value,
                    replica_id=self.core.id,
                    reason=reason,
                )
            )

    def _become(self, role: Role, event: RoleEvent, now: Nanos) -> None:
        before, self.role = self.steps, role
        match role:
            case Role.EMPTY:
                if isinstance(before, Standby) and before.switchover is not None:
                    before.switchover.end(None)
                self.core.do(EndSession())
                self.core.do(Stop())
                self.core.id = self.core.fresh_id()  # rule: fresh_id_after_discarding
                self.core.released = self.core.released_told = 0
                self.core.happened.clear()
                self.steps = Empty.again(self.core, now)
            case Role.SYNCING:
                if not isinstance(before, Empty) or before.offer is None:
                    raise InternalError("welcomed without an offer")
                self.steps = Standby.open(self.core, before.offer, self._committed, now)
            case Role.STANDBY:
                if isinstance(before, Active):
                    self._stand_by_again(before, now)
            case Role.ACTIVE:
                self._activate(event, now)
            case _:
                assert_never(role)

    def _activate(self, event: RoleEvent, now: Nanos) -> None:
        """Go on from the committed state; after a START there is no such state: the memory is as the guest booted
        it."""
        committed = self._committed
        if event is RoleEvent.STARTED and committed.epoch is not None:
            raise InternalError("started with a state of another lineage")
        is_following = isinstance(self.steps, Standby) and self.steps.is_following
        kept = list(committed.outputs)
        outputs = OutputBuffer(released=committed.output_next - 1 - len(kept))
        settings = self.core.settings
        engine = settings.engine if committed.epoch is None else settings.engines[committed.engine]
        active = Active(self.core, outputs, committed.epoch or 0, now, CheckpointSchedule(engine, now))
        if event is RoleEvent.SWITCHED_HERE and isinstance(self.steps, Standby):
            active.resume(self.steps.offer, committed, now)
        self.steps = active
        active.on_outputs(kept, 0, now)
        log = () if is_following else tuple(committed.log)  # rule: log_replayed
        self.core.do(RunGuest(committed.output_next, committed.log_index + 1, log, engine))
        active.announce(now)

    def _stand_by_again(self, before: Active, now: Nanos) -> None:
        """Be the standby of whom the guest was handed to, with the state that it stands still at here."""
        switchover, session, known = before.switchover, before.session, self.core.arbiter.known
        if switchover is None or switchover.final is None or session is None:
            raise InternalError("switched away without a switchover")
        self.core.do(EndSession())
        self.core.do(Stop())
        offer = SessionOffer(
            session_after(known, session.id), session.peer, session.key, session.staging_bytes, session.engines
        )
        self._committed.adopt(switchover.final)
        self.core.do(Measure())
        self.steps = Standby.resume(self.core, offer, self._committed, switchover, now)

    def begin_switchover(self, limit_ns: Nanos, now: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; watch what is returned. Raises LocalProtocolError."""
        if not isinstance(self.steps, Active):
            raise LocalProtocolError(f"only the active host can switch over; this one is {self.role.value}")
        self._view = self._due = None
        return self.steps.begin_switchover(limit_ns, now)

    def _tell_record(self, record: Record, now: Nanos) -> None:
        self.core.tell(
            RecordLearned(
                at=now,
                guest_id=self.core.settings.guest_id,
                generation=record.generation,
                active=record.active,
                standby=record.standby,
            )
        )

    def _excuse(self, stall_ns: int, now: Nanos) -> None:
        steps = self.steps
        if isinstance(steps, Standby):
            steps.detector.excuse(stall_ns, now)
        elif isinstance(steps, Active) and steps.session is not None:
            steps.session.detector.excuse(stall_ns, now)


_Take = Callable[[Any, Any, Nanos], None]

_TAKES: Final[Mapping[tuple[type, type], _Take]] = {
    (Empty, reports.PeerRefused): lambda empty, it, now: empty.on_refused(it.peer, it.error, now),
    (Standby, reports.StateLoaded): lambda stands, _, now: stands.on_loaded(now),
    (Standby, reports.LoadFailed): lambda stands, it, now: stands.on_load_failed(it.error, now),
    (Standby, reports.ShadowWarmed): lambda stands, _, __: stands.on_warm(),
    (Standby, reports.MemoryMeasured): lambda stands, _, now: stands.on_measured(now),
    (Standby, reports.LogFollowed): lambda stands, it, now: stands.on_followed(it.outputs, now),
    (Standby, reports.GuestAgreed): lambda stands, it, now: stands.on_agreed(it.checkpoint, now),
    (Standby, reports.GuestDiverged): lambda stands, it, now: stands.on_diverged(it.difference, now),
    (Active, reports.Emitted): Active.on_emitted,
    (Active, reports.EngineUsed): lambda active, it, now: active.on_engine_used(it.engine, now),
    (Active, reports.RoundCollected): lambda active, it, now: active.on_round(it.pages, now),
    (Active, reports.PagesCopied): lambda active, it, now: active.on_copied(it.batches, it.left, now),
    (Active, reports.CutTaken): Active.on_epoch_cut,
    (Active, reports.CaptureFailed): lambda active, it, now: active.on_capture_failed(it.error, now),
}
"""Who takes a report, by role. A pair that is absent is a report that came too late, for a role that is over."""


def _conforms(empty: Empty, standby: Standby, active: Active) -> tuple[Steps, ...]:
    """Let the type checker prove that every role has all the steps."""
    return empty, standby, active
