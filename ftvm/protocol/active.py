"""What an active replica does: run the guest, take a standby in, ship to it, and release what is safe.

Each happening is taken here, and led on to the module of its theme (bond.py names them). How the link to the standby
goes on is a table (link.py). From the first cut on outputs obey the joining standby as well (docs/protocol.md, "ADD").
"""

from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Final

from ftvm.checkpoint import Checkpoint, LogRecord, Output, PageBatch
from ftvm.encode.messages import Ack, Envelope, Join, Leave, Message, Ping, Prepared
from ftvm.errors import ConfigError, LimitExceeded, LocalProtocolError, RemoteProtocolError
from ftvm.events import PeerMisbehaved, Protected, Solo, Suspected
from ftvm.interfaces import Engine, Lane
from ftvm.protocol import admission, handing, parting, shipping
from ftvm.protocol.bond import Bond
from ftvm.protocol.commit import CommittedState
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.detector import beat_of
from ftvm.protocol.effects import Forget, Use
from ftvm.protocol.link import ENDING, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.record import drop
from ftvm.protocol.reports import CutTaken, Emitted
from ftvm.protocol.session import Contact, Session, SessionOffer, Switchover
from ftvm.protocol.timers import Timer, act_on, soonest
from ftvm.units import Nanos

__all__ = ["TIMERS", "Active"]

PROGRESS_PATIENCE: Final = 120
"""So many limits a standby that is heard may make no progress: longer, and it could hold outputs for ever."""


@dataclass(slots=True)
class Active(Bond):
    """The steps of the role; their state is the bond's, and when to send a heartbeat and to read the record next."""

    beat_at: Nanos = field(init=False)
    poll_at: Nanos = field(init=False)

    def __post_init__(self) -> None:
        Bond.__post_init__(self)
        # The clock's origin is arbitrary: no timer may start at 0.
        self.beat_at = self.poll_at = self.began_at

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
        self.schedule.wanted = engine
        if self.link not in SHIPPING and not self.schedule.is_cutting:
            self.core.do(Use(engine))

    def on_engine_used(self, engine: Engine, now: Nanos) -> None:
        """Note that the guest, paused and all its outputs handed on, goes on under `engine`."""
        self.schedule.use(engine)
        if not self.schedule.is_cutting:
            self.tell_engine(engine, now)

    # --- the guest -------------------------------------------------------------------------------------------------

    def on_outputs(self, outputs: list[Output], log_index: int, now: Nanos) -> None:
        """Hold what the guest emitted, and release what may leave."""
        # rule: output_needs_its_epoch
        needs = self.schedule.engine.output_needs(epoch=self.epoch + 1, log_index=log_index)
        for output in outputs:
            self.outputs.hold(output, needs, now)
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
        waits = self.schedule.engine.stands_still or session.is_followed
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

    def resume(self, offer: SessionOffer, committed: CommittedState, now: Nanos) -> None:
        """Go on after a switchover, before the guest runs: the old active holds this very state, as the standby."""
        admission.resume(self, offer, committed, now)

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
        session.detector.heard(now, beat_of(message))
        self.is_waiting &= session.detector.is_silent(now)  # the heartbeat of a loop that hangs ends no waiting
        if self.link is LinkState.SWITCHING:
            return
        if self.core.arbiter.hint(envelope.record.generation, now):
            self.releases.is_held_by_hint = True
        try:
            self._take(session, message, now)
            handing.go_on(self, now)
        except RemoteProtocolError as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
            self.core.tell(PeerMisbehaved(at=now, guest_id=self.core.settings.guest_id, peer=peer, error=error))
            self.backoff.strike(key or peer, now)
            parting.leave(self, error, now)

    def _take(self, session: Session, message: Message, now: Nanos) -> None:
        match message:
            case Ack():
                shipping.take_ack(self, session, message, now)
            case Prepared():
                handing.take_prepared(self, message, now)
            case Leave():
                if self.link in (LinkState.COPYING, LinkState.CATCHING_UP):
                    self.backoff.strike(session.key or session.peer, now)
                session.has_left = True
                # The answer is what it stays for: else its word could be lost with its connection.
                parting.leave(self, f"the standby left: {message.reason}", now)
            case _:
                pass

    # --- the record ------------------------------------------------------------------------------------------------

    def on_record(self, now: Nanos) -> None:
        """Go by what the arbiter says."""
        self.releases.is_held_by_hint = False
        known = self.core.arbiter.known
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
                self.core.end_role(RoleEvent.VACATED, f"the record is vacant (generation {known.generation})")
                return
            reason = f"the record (generation {known.generation}) names {known.active or 'no host'} active"
            handing.end(self, reason, now)
            self.core.end_role(RoleEvent.DEPOSED, reason)  # rule: deposed_active_ends
            return
        if self.core.arbiter.proposal is None:
            self._on_resolved(now)
        self.release()
        handing.go_on(self, now)

    def _on_resolved(self, now: Nanos) -> None:
        known, session, guest_id = self.core.arbiter.known, self.session, self.core.settings.guest_id
        match self.link:
            case LinkState.ADDING if session is not None:
                self.move(LinkEvent.IN_FORCE)
                self.backoff.forgive(session.key or session.peer)
                self.core.tell(
                    Protected(at=now, guest_id=guest_id, generation=known.generation, standby=session.standby)
                )
            case LinkState.ABANDONING if self.core.settings.halts_alone:
                self.move(LinkEvent.HALTED)
                self.session = None
                parting.tell_halted(self, "the standby was lost while it was added", now)
            case LinkState.ABANDONING:
                self.move(LinkEvent.IN_FORCE)
                self.core.arbiter.propose(drop(known, self.core.id))
            case LinkState.DROPPING:
                self.move(LinkEvent.IN_FORCE)
                reason = "the standby left" if session is not None and session.has_left else "the standby was lost"
                self.session = None
                self.core.tell(Solo(at=now, guest_id=guest_id, generation=known.generation, reason=reason))
            case _:
                pass

    def on_arbiter_trouble(self, now: Nanos) -> None:
        """Tell; the arbiter client tries again by itself. The pair goes on as it is, and a mere hint no longer holds
        outputs.

        Only a switchover has better to do than to try again: the guest stands still for it.
        """
        self.releases.is_held_by_hint = False
        self.core.tell_arbiter_trouble(now)
        handing.withdraw(self, now)
        self.release()

    # --- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: Nanos) -> Nanos | None:
        """Do what is due (`TIMERS`), and go on with a switchover as far as that can go."""
        due = act_on(TIMERS, self, now)
        if self.link not in (LinkState.SETTLING, LinkState.HANDING):
            return due
        handing.go_on(self, now)
        return None

    def deadline(self) -> Nanos | None:
        """Return when something is due next."""
        return soonest(TIMERS, self)


def _partner(active: Active) -> Session | None:
    """Return the session, unless it is lost or about to end."""
    session = active.session
    return None if session is None or session.contact is Contact.LOST or active.link in ENDING else session


def _poll(active: Active, now: Nanos) -> None:
    active.poll_at = Nanos(now + active.core.settings.timing.arbiter_poll_ns)
    active.core.arbiter.want_read()


def _suspects_at(active: Active) -> Nanos | None:
    session = _partner(active)
    if session is None or active.is_waiting or active.core.stop is not None or active.link is LinkState.SWITCHING:
        return None
    return session.detector.deadline()


def _suspect(active: Active, now: Nanos) -> None:
    """Go on without a standby that is silent, or stand still beside it."""
    session, guest_id = active.session, active.core.settings.guest_id
    if session is None:
        return
    silence_ns, limit_ns = session.detector.silence_ns(now), session.detector.limit_ns()
    reason = session.detector.reason("the standby", now)
    active.core.tell(Suspected(at=now, guest_id=guest_id, silence_ns=silence_ns, limit_ns=limit_ns, reason=reason))
    if active.core.settings.halts_alone and active.link in NAMED:
        parting.wait_for(active, session, now)
    else:
        parting.lose(active, reason or f"the standby was silent for {silence_ns / 1e6:.0f} ms", now)


def _gives_up_at(active: Active) -> Nanos | None:
    session = _partner(active)
    since = session.owes_since if session is not None and not active.is_waiting else None
    return None if since is None else Nanos(since + PROGRESS_PATIENCE * active.core.settings.timing.primary_limit_ns)


def _give_up(active: Active, now: Nanos) -> None:
    """Leave a standby that is heard, and does not come forward."""
    session = active.session
    if session is not None and session.owes_since is not None:
        active.backoff.strike(session.key or session.peer, now)
        owes_s = (now - session.owes_since) / 1e9
        parting.leave(active, f"the standby made no progress for {owes_s:.0f} s, though it is heard", now)


def _has_reason_to_beat(active: Active) -> bool:
    session = active.session
    has_partner = session is not None and session.contact is not Contact.LOST and active.link not in ENDING
    return has_partner or active.releases.has_untold


def _beat(active: Active, now: Nanos) -> None:
    """Send a heartbeat; what was released a heartbeat ago is told from now on."""
    active.beat_at = Nanos(now + active.core.settings.timing.heartbeat_ns)
    active.releases.tell()
    session = _partner(active)
    if session is not None:
        session.ping_number += 1
        active.core.send(session.peer, Lane.CONTROL, Ping(number=session.ping_number), session.id)


def _goes_on_handing_at(active: Active) -> Nanos | None:
    switchover = active.switchover
    if switchover is None or active.link not in (LinkState.SETTLING, LinkState.HANDING):
        return None
    return switchover.ends_at if switchover.prepare_at is None else min(switchover.ends_at, switchover.prepare_at)


def _repeats_at(active: Active) -> Nanos | None:
    session = _partner(active)
    return None if session is None else session.outbox.repeats_at


TIMERS: Final[tuple[Timer[Active], ...]] = (
    Timer(attrgetter("poll_at"), _poll),
    Timer(attrgetter("announcer.due_at"), lambda active, now: active.announcer.tick(now)),
    Timer(_suspects_at, _suspect),
    Timer(_gives_up_at, _give_up),
    Timer(attrgetter("beat_at"), _beat, wakes=_has_reason_to_beat),
    Timer(shipping.copies_at, lambda active, _: shipping.copy_on(active)),
    Timer(shipping.next_cut, Active.cut),
    Timer(_goes_on_handing_at, handing.go_on),
    Timer(_repeats_at, Active.flush),
)
"""In this order: who is lost gets no heartbeat, and no epoch is cut for it."""
