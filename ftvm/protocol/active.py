"""What an active replica does: run the guest, take a standby in, ship to it, and release what is safe.

Each happening is taken here, and led on to the module of its theme (bond.py names them). How the link to the standby
goes on is a table (link.py). From the first cut on outputs obey the joining standby as well (docs/protocol.md, "ADD").
"""

from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Final

from ftvm.checkpoint import Checkpoint, LogRecord, Output, PageBatch
from ftvm.encode.messages import Ack, Envelope, Join, Leave, Message, Ping, Prepared
from ftvm.errors import ConfigError, LimitExceeded, LocalProtocolError, RemoteProtocolError
from ftvm.events import PeerMisbehaved, Protected, Solo, Suspected
from ftvm.interfaces import Engine, Lane
from ftvm.protocol import admission, handing, parting, shipping
from ftvm.protocol.bond import Bond
from ftvm.protocol.commit import Committed
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Forget, Use
from ftvm.protocol.empty import Opening
from ftvm.protocol.link import ENDING, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.record import drop
from ftvm.protocol.reports import CutTaken, Emitted
from ftvm.protocol.session import Session
from ftvm.protocol.suspicion import beat_of
from ftvm.protocol.switchover import Switchover
from ftvm.units import Nanos

__all__ = ["Active"]

PROGRESS_PATIENCE: Final = 120
"""So many limits a standby that is heard may make no progress: longer, and it could hold outputs for ever."""


@dataclass(slots=True)
class Active(Bond):
    """The steps of the role; their state is the bond's, and two timers."""

    _ping_at: Nanos = field(init=False)
    _poll_at: Nanos = field(init=False)

    def __post_init__(self) -> None:
        Bond.__post_init__(self)
        # The clock's origin is arbitrary: no timer may start at 0.
        self._ping_at = self._poll_at = self.began_at

    # --- the engine ------------------------------------------------------------------------------------------------

    def set_engine(self, engine: Engine) -> None:
        """Change the engine: with the next checkpoint, or at once where no checkpoint goes to a backup.

        Raises ConfigError if the standby in session has not said that it knows the engine, and LocalProtocolError
        while the guest is being handed over; nothing changes then.
        """
        session = self.session
        if self.link in STANDING:
            raise LocalProtocolError("the guest is being handed over: set the engine on the host that it goes to")
        if session is not None and not session.is_lost and engine.name not in session.engines:
            raise ConfigError(
                f"standby {session.standby} does not know engine {engine.name}, only {', '.join(session.engines)}"
            )
        self.pace.wanted = engine
        if self.link not in SHIPPING and not self.pace.is_cutting:
            self.core.do(Use(engine))

    def on_engine_used(self, engine: Engine, now: Nanos) -> None:
        """Take note that the guest, paused and all its outputs handed on, goes on under `engine`."""
        self.pace.use(engine)
        if not self.pace.is_cutting:
            self.tell_engine(engine, now)

    # --- the guest -------------------------------------------------------------------------------------------------

    def on_outputs(self, outputs: list[Output], log_index: int, now: Nanos) -> None:
        """Hold what the guest emitted, and release what may leave."""
        needs = self.pace.engine.output_needs(epoch=self.epoch + 1, log_index=log_index)  # rule: output_needs_its_epoch
        for output in outputs:
            self.gate.hold(output, needs, now)
        self.release()

    def on_emitted(self, emitted: Emitted, now: Nanos) -> None:
        """Take what came from the guest: the log before the outputs that came with it."""
        if emitted.log:
            self.on_log(list(emitted.log), now)
        for log_index, group in groupby(emitted.outputs, key=itemgetter(1)):
            self.on_outputs([output for output, _ in group], log_index, now)

    def must_stand_still(self) -> bool:
        """Whether the guest must not run now: too much is held, the engine has it wait, or it is being handed over."""
        session = self.session
        if self.link in STANDING or self.is_halted:  # rule: stands_still_while_a_switch_is_open
            return True
        if session is None or self.link not in SHIPPING:
            return self.releases.is_stalled
        limits = self.core.settings.limits
        allowed = limits.epochs_in_flight if session.is_followed else 1
        waits = self.pace.engine.stands_still or session.is_followed
        return self.releases.is_stalled or session.is_log_long(limits) or (waits and len(session.in_flight) >= allowed)

    def pending_outputs(self) -> tuple[Output, ...]:
        """Return what the next checkpoint must carry: outputs in no epoch of this session yet and not told as released.

        Under a log engine an output may have left before a checkpoint carried it.
        """
        return self.releases.above(self.session.shipped_next - 1) if self.session is not None else ()

    def on_log(self, records: list[LogRecord], now: Nanos) -> None:
        """Ship what was logged."""
        shipping.take_log(self, records, now)

    def on_round(self, pages: int, now: Nanos) -> None:
        """Take note of what a round of the first copy has collected."""
        shipping.take_round(self, pages, now)

    def on_copied(self, batches: tuple[PageBatch, ...], left: int, now: Nanos) -> None:
        """Ship what was encoded of the present round."""
        shipping.take_copied(self, batches, left, now)

    def on_cut(self, checkpoint: Checkpoint, pause_ns: int, now: Nanos) -> None:
        """Ship a checkpoint that was captured."""
        shipping.take_cut(self, checkpoint, pause_ns, now)

    def on_epoch_cut(self, cut: CutTaken, now: Nanos) -> None:
        """Take all that a cut has brought: what was emitted before it, the engine behind it, the checkpoint."""
        self.on_emitted(cut.emitted, cut.paused_at)
        outputs = self.pending_outputs()
        self.on_engine_used(cut.engine, cut.paused_at)
        longest, limit = max((len(output.payload) for output in outputs), default=0), self.core.settings.limits
        if longest > limit.output_bytes:
            # Refused here, as the standby would refuse to read it: it would be sent again and again.
            self.core.do(Forget(cut.checkpoint.batches))
            too_long = LimitExceeded("bytes of one output", limit=limit.output_bytes, wanted=longest)
            self.on_capture_failed(f"{type(too_long).__name__}: {too_long}", now)
            return
        self.on_cut(replace(cut.checkpoint, outputs=outputs), cut.pause_ns, now)

    def on_capture_failed(self, error: str, now: Nanos) -> None:
        """End the session: the shadow no longer tells what the standby has."""
        shipping.take_failure(self, error, now)

    def announce(self, now: Nanos) -> None:
        """Announce the guest's address now and a few times more."""
        self.announcer.begin(now)

    # --- beginning and end -----------------------------------------------------------------------------------------

    def resume(self, opening: Opening, committed: Committed, now: Nanos) -> None:
        """Go on after a switchover, before the guest runs: the old active holds this very state, as the standby."""
        admission.resume(self, opening, committed, now)

    def begin_switchover(self, limit_ns: Nanos, now: Nanos) -> Switchover:
        """Start to hand the guest over to the standby; it is called off if that takes longer than `limit_ns`.

        Raises LocalProtocolError if there is no standby to hand it to; the guest then runs on.
        """
        return handing.begin(self, limit_ns, now)

    # --- messages --------------------------------------------------------------------------------------------------

    def on_message(self, peer: str, key: str | None, envelope: Envelope, message: Message, now: Nanos) -> None:
        """Take a JOIN from anybody, anything else only from the standby in session."""
        if isinstance(message, Join):
            admission.answer_join(self, peer, key, envelope, message, now)
            return
        session = self.session
        if session is None or (envelope.session, peer, key) != (session.id, session.peer, session.key):
            return
        if envelope.sender != session.standby:
            return
        session.watch.heard(now, beat_of(message))
        self.is_waiting &= session.watch.is_silent(now)  # the heartbeat of a loop that hangs ends no waiting
        if self.link is LinkState.SWITCHING:
            return
        if self.core.desk.hint(envelope.record.generation, now):
            self.releases.is_held_by_hint = True
        try:
            self._take(session, message, now)
            handing.go_on(self, now)
        except RemoteProtocolError as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
            self.core.tell(PeerMisbehaved(at=now, guest_id=self.core.settings.guest_id, peer=peer, error=error))
            self.patience.strike(key or peer, now)
            parting.leave(self, error, now)

    def _take(self, session: Session, message: Message, now: Nanos) -> None:
        match message:
            case Ack():
                shipping.take_ack(self, session, message, now)
            case Prepared():
                handing.take_prepared(self, message, now)
            case Leave():
                if self.link in (LinkState.COPYING, LinkState.CATCHING_UP):
                    self.patience.strike(session.key or session.peer, now)
                session.has_left = True
                # The answer is what it stays for: else its word could be lost with its connection.
                parting.leave(self, f"the standby left: {message.reason}", now)
            case _:
                pass

    # --- the record ------------------------------------------------------------------------------------------------

    def on_record(self, now: Nanos) -> None:
        """Go by what the arbiter says."""
        self.releases.is_held_by_hint = False
        known = self.core.desk.known
        if known.active != self.core.id:
            if self.link is LinkState.SWITCHING and known.standby == self.core.id and self.session is not None:
                handing.finish(self, self.session)
                if self.switchover is not None:
                    self.switchover.switched_at = now
                return
            if self.link is LinkState.VACATING and known.active is None:
                if self.core.stop is not None:
                    ended = f"the guest has ended here, and the record is vacant (generation {known.generation})"
                    self.core.stop.end(ended, is_in_order=True)
                self.core.end_role(RoleEvent.VACATED, f"VACATE is in force: generation {known.generation}")
                return
            reason = f"generation {known.generation} names {known.active or 'no host'} active"
            handing.end(self, reason, now)
            self.core.end_role(RoleEvent.DEPOSED, reason)  # rule: deposed_active_ends
            return
        if self.core.desk.proposal is None:
            self._on_resolved(now)
        self.release()
        handing.go_on(self, now)

    def _on_resolved(self, now: Nanos) -> None:
        known, session, guest_id = self.core.desk.known, self.session, self.core.settings.guest_id
        match self.link:
            case LinkState.ADDING if session is not None:
                self.move(LinkEvent.IN_FORCE)
                self.patience.forgive(session.key or session.peer)
                self.core.tell(
                    Protected(at=now, guest_id=guest_id, generation=known.generation, standby=session.standby)
                )
            case LinkState.ABANDONING if self.core.settings.halts_alone:
                self.move(LinkEvent.HALTED)
                self.session = None
                parting.tell_halted(self, "the standby was lost while it was added", now)
            case LinkState.ABANDONING:
                self.move(LinkEvent.IN_FORCE)
                self.core.desk.propose(drop(known, self.core.id))
            case LinkState.DROPPING:
                self.move(LinkEvent.IN_FORCE)
                self.session = None
                self.core.tell(
                    Solo(at=now, guest_id=guest_id, generation=known.generation, reason="the standby was lost")
                )
            case _:
                pass

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Tell; the desk tries again by itself. The pair goes on as it is, and a mere hint no longer holds outputs.

        Only a switchover has better to do than to try again: the guest stands still for it.
        """
        self.releases.is_held_by_hint = False
        self.core.tell_arbiter_trouble(now)
        handing.withdraw(self, now)
        self.release()

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: Nanos) -> None:
        """Send heartbeats, notice silence, copy on, cut; a host that stops goes by its own limits of time."""
        timing, session = self.core.settings.timing, self.session
        if now >= self._poll_at:
            self._poll_at = Nanos(now + timing.arbiter_poll_ns)
            self.core.desk.want_read()
        self.announcer.tick(now)
        is_ping_due = now >= self._ping_at
        if is_ping_due:
            self._ping_at = Nanos(now + timing.heartbeat_ns)
            self.releases.tell()
        if session is None or session.is_lost or self.link in ENDING:
            return
        if session.watch.is_silent(now) and self._may_suspect:
            silence_ns, limit_ns = session.watch.silence_ns(now), session.watch.limit_ns()
            reason = session.watch.reason("the standby", now)
            guest_id = self.core.settings.guest_id
            self.core.tell(
                Suspected(at=now, guest_id=guest_id, silence_ns=silence_ns, limit_ns=limit_ns, reason=reason)
            )
            if not (self.core.settings.halts_alone and self.link in NAMED):
                parting.lose(self, reason or f"the standby was silent for {silence_ns / 1e6:.0f} ms", now)
                return
            parting.wait_for(self, session, now)
        if not self.is_waiting and session.stuck_ns(now) >= PROGRESS_PATIENCE * timing.primary_limit_ns:
            self.patience.strike(session.key or session.peer, now)
            parting.leave(
                self, f"the standby made no progress for {session.stuck_ns(now) / 1e9:.0f} s, though it is heard", now
            )
            return
        if is_ping_due:
            session.ping_number += 1
            self.core.send(session.peer, Lane.CONTROL, Ping(number=session.ping_number), session.id)
        shipping.copy_on(self)
        due = shipping.next_cut(self)
        if due is not None and now >= due:
            self.cut(now)
        handing.go_on(self, now)
        self.flush(now)

    @property
    def _may_suspect(self) -> bool:
        return self.link is not LinkState.SWITCHING and not self.is_waiting and self.core.stop is None

    def deadline(self, now: Nanos) -> Nanos | None:
        """Return when something is due next."""
        times = [self._poll_at, self.announcer.due_at, shipping.next_cut(self)]
        session = self.session
        is_in_session = session is not None and not session.is_lost and self.link not in ENDING
        if is_in_session or self.releases.has_untold:
            times.append(self._ping_at)
        if session is not None and is_in_session:
            if self._may_suspect:
                times.append(session.watch.deadline())
            if self.link in (LinkState.SETTLING, LinkState.HANDING) and self.switchover is not None:
                times += [self.switchover.ends_at, self.switchover.prepare_at]
            if session.outbox.is_waiting_for_acknowledgement:
                times.append(session.outbox.deadline())
            if self.plan is not None and self.plan.left and session.has_answered and session.outbox.room:
                times.append(now)  # zero pages make no batch, so no acknowledgement will call for more of the copy
        return min(time for time in times if time is not None)
