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

from ftvm.checkpoint import Checkpoint, LogRecord, Output, PageBatch
from ftvm.encode.messages import Envelope, Message
from ftvm.errors import FtvmError, InternalError, LocalProtocolError
from ftvm.events import HostStalled, RecordLearned, RoleChanged
from ftvm.interfaces import Answer, Engine, Record, Request
from ftvm.protocol import reports, stopping
from ftvm.protocol.active import Active
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import ROLES, Core, Role, RoleEvent, Settings, Steps
from ftvm.protocol.desk import Desk
from ftvm.protocol.effects import Difference, Effect, EndSession, Measure, Run, Stop
from ftvm.protocol.empty import Empty, Opening
from ftvm.protocol.link import ENDING
from ftvm.protocol.output import Gate
from ftvm.protocol.pace import Pace
from ftvm.protocol.standby import Standby
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.switchover import Switchover, session_after
from ftvm.protocol.view import View, view_of
from ftvm.units import Nanos

__all__ = ["Replica"]

STALL_HEARTBEATS = 4
"""A step that comes this many heartbeats after the last one means that we, not the peer, were silent."""


class Replica:
    """See the module's text for how to drive it. `role` and `steps` say where it stands."""

    def __init__(
        self, settings: Settings, committed: Committed, *, fresh_id: Callable[[], str], starts: bool, now: Nanos
    ) -> None:
        self.core = Core(
            settings=settings,
            fresh_id=fresh_id,
            desk=Desk(settings.timing.read_interval_ns),
            id=fresh_id(),  # rule: fresh_id_at_start
        )
        self.role = Role.EMPTY
        self.steps: Empty | Standby | Active = Empty(self.core, starts)
        self._committed = committed
        self._stepped_at = now

    # --- the door --------------------------------------------------------------------------------------------------

    def step(self, report: reports.Report, now: Nanos) -> list[Effect]:
        """Take a report; return the effects to perform, in order."""
        match report:
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
                    self._follow(now)
        return self.core.take_effects()

    def view(self) -> View:
        """Return what may be seen of this replica."""
        return view_of(self.role, self.steps)

    def begin_step(self, now: Nanos) -> None:
        """Start a step. If we stalled ourselves since the last one, do not count the stall against the peer."""
        stall_ns = now - self._stepped_at
        if stall_ns > STALL_HEARTBEATS * self.core.settings.timing.heartbeat_ns:
            self._excuse(stall_ns, now)
            if self.partner is not None:
                self.core.tell(HostStalled(at=now, guest_id=self.core.settings.guest_id, stall_ns=stall_ns))
        self._stepped_at = now

    # --- events ----------------------------------------------------------------------------------------------------

    def expects(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of the session that builds up the state here."""
        return isinstance(self.steps, Standby) and self.steps.is_in_session(peer, key, envelope)

    def on_message(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a message for this guest that came from `peer`, authenticated by `key`."""
        self.steps.on_message(peer, key, envelope, message, now)
        self._follow(now)

    def on_refused(self, peer: str, error: FtvmError, now: Nanos) -> None:
        """Take note that a peer can never take this host as its standby. Only who asks to join cares."""
        if isinstance(self.steps, Empty):
            self.steps.on_refused(peer, error, now)

    def on_answer(self, answer: Answer, now: Nanos) -> None:
        """Take the arbiter's answer to the request that is outstanding."""
        before = self.core.desk.known
        if not self.core.desk.take(answer, now):
            self.steps.on_arbiter_trouble(now)
        else:
            if self.core.desk.known != before:
                self._tell_record(self.core.desk.known, now)
            self.steps.on_record(now)
        self._follow(now)

    def on_outputs(self, outputs: list[Output], log_index: int, now: Nanos) -> None:
        """Take what the guest emitted, in order, when `log_index` records were logged. Who is not active forgets it."""
        if isinstance(self.steps, Active):
            self.steps.on_outputs(outputs, log_index, now)

    def on_log(self, records: list[LogRecord], now: Nanos) -> None:
        """Take what was logged since the last time; before the outputs that came with it."""
        if isinstance(self.steps, Active):
            self.steps.on_log(records, now)

    def on_engine_used(self, engine: Engine, now: Nanos) -> None:
        """Take note that the guest stood still and goes on under `engine`; after all outputs made before."""
        if isinstance(self.steps, Active):
            self.steps.on_engine_used(engine, now)

    def on_round(self, pages: int, now: Nanos) -> None:
        """Take the size of a round of the first copy that was collected."""
        if isinstance(self.steps, Active):
            self.steps.on_round(pages, now)

    def on_copied(self, batches: tuple[PageBatch, ...], left: int, now: Nanos) -> None:
        """Take batches of the first copy; `left` pages of the round are still to come."""
        if isinstance(self.steps, Active):
            self.steps.on_copied(batches, left, now)

    def on_cut(self, checkpoint: Checkpoint, pause_ns: int, now: Nanos) -> None:
        """Take a checkpoint that was captured; the guest stood still for `pause_ns`."""
        if isinstance(self.steps, Active):
            self.steps.on_cut(checkpoint, pause_ns, now)

    def on_capture_failed(self, error: str, now: Nanos) -> None:
        """Take note that a round or an epoch could not be captured; the guest runs on."""
        if isinstance(self.steps, Active):
            self.steps.on_capture_failed(error, now)

    def on_loaded(self, now: Nanos) -> None:
        """Take note that the committed state was loaded into the paused guest."""
        if isinstance(self.steps, Standby):
            self.steps.on_loaded(now)
        self._follow(now)

    def on_load_failed(self, error: str, now: Nanos) -> None:
        """Take note that the committed state does not load."""
        if isinstance(self.steps, Standby):
            self.steps.on_load_failed(error, now)
        self._follow(now)

    def on_warm(self) -> None:
        """Take note that the shadow holds what this host may soon run from."""
        if isinstance(self.steps, Standby):
            self.steps.on_warm()

    def on_measured(self, now: Nanos) -> None:
        """Take note that the memory's digest is that of what the guest left behind here."""
        if isinstance(self.steps, Standby):
            self.steps.on_measured(now)
        self._follow(now)

    def on_followed(self, outputs: list[Output], now: Nanos) -> None:
        """Take outputs that the guest made, executing the log; none of them may leave from here."""
        if isinstance(self.steps, Standby):
            self.steps.on_followed(outputs, now)
        self._follow(now)

    def on_agreed(self, checkpoint: Checkpoint, now: Nanos) -> None:
        """Take note that the guest that follows came to the state of `checkpoint`."""
        if isinstance(self.steps, Standby):
            self.steps.on_agreed(checkpoint, now)

    def on_diverged(self, difference: Difference, now: Nanos) -> None:
        """Take note that the guest that follows went another way."""
        if isinstance(self.steps, Standby):
            self.steps.on_diverged(difference, now)
        self._follow(now)

    @property
    def partner(self) -> str | None:
        """The peer in session, by its name in the transport."""
        steps = self.steps
        if isinstance(steps, Standby):
            return None if steps.is_session_over else steps.opening.peer
        if isinstance(steps, Active) and steps.session is not None and not steps.session.is_lost:
            return steps.session.peer
        return None

    @property
    def may_beat(self) -> bool:
        """Whether a heartbeat may be repeated: not while this replica claims, or leaves, or stands in no session."""
        steps = self.steps
        if isinstance(steps, Active) and steps.link in ENDING:
            return False
        return self.partner is not None and (not isinstance(steps, Standby) or steps.claim.is_watching)

    def on_peer_gone(self, peer: str) -> None:
        """Take note that the process of `peer` has ended, which was confirmed (question.py): suspect it at once.

        A link that was reset is no reason to call this: the peer may live.
        """
        steps = self.steps
        if peer != self.partner:
            return
        if isinstance(steps, Standby):
            steps.watch.hurry("the active's process is gone: connection refused on both lanes")
        elif isinstance(steps, Active) and steps.session is not None:
            steps.session.watch.hurry("the standby's process is gone: connection refused on both lanes")

    def tick(self, now: Nanos) -> None:
        """Do what is due."""
        stop = self.core.stop
        if stop is not None:
            self._go_on_stopping(stop, now)
            self._follow(now)
        if stop is None or not stop.is_over:
            self.steps.tick(now)
        self._follow(now)

    def set_engine(self, engine: Engine) -> None:
        """Change the engine, as soon as it can be done without losing protection.

        Raises LocalProtocolError if the guest does not run here, ConfigError if the standby does not know the engine.
        """
        if not isinstance(self.steps, Active):
            raise LocalProtocolError(f"this host is {self.role.value}: the engine is set where the guest runs")
        self.steps.set_engine(engine)

    def stop(self, kind: StopKind, reason: str, now: Nanos) -> Stopping:
        """Stop this host in order: step on until what is returned is over. `reason` is told to the peer."""
        stop = self.core.stop
        if stop is None:
            stop = self.core.stop = Stopping(kind, reason, now)
        elif kind is not StopKind.ASKED:
            stop.kind, stop.reason = kind, reason
        self._go_on_stopping(stop, now)
        self._follow(now)
        return stop

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
        return self.core.desk.next_request(now)

    def take_effects(self) -> list[Effect]:
        """Return the effects to perform, in order, and forget them."""
        effects, self.core.effects = self.core.effects, []
        return effects

    def deadline(self, now: Nanos) -> Nanos | None:
        """Return when the next `tick` is due if nothing comes before: soon enough not to look like a stall of ours."""
        look_at = Nanos(self._stepped_at + STALL_HEARTBEATS * self.core.settings.timing.heartbeat_ns // 2)
        stop_at = Nanos(now + self.core.settings.timing.heartbeat_ns) if self.core.stop is not None else None
        times = (self.steps.deadline(now), self.core.desk.deadline(), look_at, stop_at)
        return min((time for time in times if time is not None), default=None)

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
                if not isinstance(before, Empty) or before.opening is None:
                    raise InternalError("welcomed without an opening")
                self.steps = Standby.open(self.core, before.opening, self._committed, now)
            case Role.STANDBY:
                if isinstance(before, Active):
                    self._stand_by_again(before, now)
            case Role.ACTIVE:
                self._activate(event, now)
            case _:
                assert_never(role)

    def _activate(self, event: RoleEvent, now: Nanos) -> None:
        """Go on from the committed state; after a START there is none, and the memory is as the guest booted it."""
        committed = self._committed
        if event is RoleEvent.STARTED and committed.epoch is not None:
            raise InternalError("started with a state of another lineage")
        is_following = isinstance(self.steps, Standby) and self.steps.is_following
        outputs = list(committed.outputs)
        gate = Gate(released=committed.output_next - 1 - len(outputs))
        settings = self.core.settings
        engine = settings.engine if committed.epoch is None else settings.engines[committed.engine]
        active = Active(self.core, gate, committed.epoch or 0, now, Pace(engine, now))
        if event is RoleEvent.SWITCHED_HERE and isinstance(self.steps, Standby):
            active.resume(self.steps.opening, committed, now)
        self.steps = active
        active.on_outputs(outputs, 0, now)
        log = () if is_following else tuple(committed.log)  # rule: log_replayed
        self.core.do(Run(committed.output_next, committed.log_index + 1, log, engine))
        active.announce(now)

    def _stand_by_again(self, before: Active, now: Nanos) -> None:
        """Be the standby of whom the guest was handed to, with the state that it stands still at here."""
        switchover, session, known = before.switchover, before.session, self.core.desk.known
        if switchover is None or switchover.final is None or session is None:
            raise InternalError("switched away without a switchover")
        self.core.do(EndSession())
        self.core.do(Stop())
        opening = Opening(
            session_after(known, session.id), session.peer, session.key, session.staging_bytes, session.engines
        )
        self._committed.adopt(switchover.final)
        self.core.do(Measure())
        self.steps = Standby.resume(self.core, opening, self._committed, switchover, now)

    def begin_switchover(self, limit_ns: Nanos, now: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; watch what is returned. Raises LocalProtocolError."""
        if not isinstance(self.steps, Active):
            raise LocalProtocolError(f"only the active host can switch over; this one is {self.role.value}")
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
            steps.watch.excuse(stall_ns, now)
        elif isinstance(steps, Active) and steps.session is not None:
            steps.session.watch.excuse(stall_ns, now)


_Take = Callable[[Any, Any, Nanos], None]

_TAKES: Final[Mapping[tuple[type, type], _Take]] = {
    (Empty, reports.Received): lambda empty, it, now: empty.on_message(it.peer, it.key, it.envelope, it.message, now),
    (Empty, reports.PeerRefused): lambda empty, it, now: empty.on_refused(it.peer, it.error, now),
    (Standby, reports.Received): lambda stands, it, now: stands.on_message(
        it.peer, it.key, it.envelope, it.message, now
    ),
    (Standby, reports.StateLoaded): lambda stands, _, now: stands.on_loaded(now),
    (Standby, reports.LoadFailed): lambda stands, it, now: stands.on_load_failed(it.error, now),
    (Standby, reports.ShadowWarmed): lambda stands, _, __: stands.on_warm(),
    (Standby, reports.MemoryMeasured): lambda stands, _, now: stands.on_measured(now),
    (Standby, reports.LogFollowed): lambda stands, it, now: stands.on_followed(it.outputs, now),
    (Standby, reports.GuestAgreed): lambda stands, it, now: stands.on_agreed(it.checkpoint, now),
    (Standby, reports.GuestDiverged): lambda stands, it, now: stands.on_diverged(it.difference, now),
    (Active, reports.Received): lambda active, it, now: active.on_message(
        it.peer, it.key, it.envelope, it.message, now
    ),
    (Active, reports.Emitted): lambda active, it, now: active.on_emitted(it, now),
    (Active, reports.EngineUsed): lambda active, it, now: active.on_engine_used(it.engine, now),
    (Active, reports.RoundCollected): lambda active, it, now: active.on_round(it.pages, now),
    (Active, reports.PagesCopied): lambda active, it, now: active.on_copied(it.batches, it.left, now),
    (Active, reports.CutTaken): lambda active, it, now: active.on_epoch_cut(it, now),
    (Active, reports.CaptureFailed): lambda active, it, now: active.on_capture_failed(it.error, now),
}
"""Who takes a report, by role. A pair that is absent is a report that came too late, for a role that is over."""


def _conforms(empty: Empty, standby: Standby, active: Active) -> tuple[Steps, ...]:
    """Let the type checker prove that every role has all the steps."""
    return empty, standby, active
