"""What an active replica does: run the guest, take a standby in, ship to it, and release what is safe.

Each report is led on to the module of its theme (active_state.py names them). How the link to the standby goes on is a
table (link.py). From the first cut on outputs obey the joining standby as well (docs/protocol.md, "ADD").
"""

from typing import Final

from ftvm.encode.messages import Ack, CacheDigests, Join, Leave, Ping, Pong, Prepared
from ftvm.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from ftvm.events import PeerMisbehaved, Protected, Solo, Suspected
from ftvm.interfaces import Engine, Lane
from ftvm.protocol import reports
from ftvm.protocol.active import handover, joining, leaving, shipping
from ftvm.protocol.active.active_state import ActiveState
from ftvm.protocol.active.link import ENDING, NAMED, SHIPPING, STANDING, LinkEvent, LinkState
from ftvm.protocol.core import RoleEvent, RoleTable
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.effects import Use
from ftvm.protocol.record import drop
from ftvm.protocol.reports import Received
from ftvm.protocol.session import Contact, Session
from ftvm.protocol.timers import NEVER, Timers, act_on
from ftvm.units import Nanos

__all__ = ["TABLE", "set_engine"]

PROGRESS_PATIENCE: Final = 120
"""How many limits a standby that is heard may go without progress: longer, and it could hold outputs for ever."""

_SWITCHING_OVER: Final = (LinkState.SETTLING, LinkState.HANDING)
"""Where a planned switchover can go on, or be called off."""


def set_engine(active: ActiveState, engine: Engine) -> None:
    """Change the engine: with the next checkpoint, or at once where no checkpoint goes to a backup.

    Raises ConfigError if the standby in session has not said that it knows the engine, and LocalProtocolError
    while the guest is being handed over; nothing changes then.
    """
    session = active.session
    if active.link in STANDING:
        raise LocalProtocolError("the guest is being handed over: set the engine on the host that it goes to")
    if session is not None and not session.is_lost and engine.name not in session.engines:
        raise ConfigError(
            f"standby {session.standby} does not know engine {engine.name}, only {', '.join(session.engines)}"
        )
    active.schedule.wanted = engine
    if active.link not in SHIPPING and not active.schedule.is_cutting:
        active.core.do(Use(engine))


def take_message(active: ActiveState, report: Received, now: Nanos) -> None:
    """Take a JOIN from anybody, anything else only from the standby in session."""
    peer, key, envelope, message = report.peer, report.key, report.envelope, report.message
    if isinstance(message, Join):
        joining.answer_join(active, peer, key, envelope, message, now)
        return
    session = active.session
    if session is None or (envelope.session, peer, key) != (session.id, session.peer, session.key):
        return
    if envelope.sender != session.standby:
        return
    session.detector.heard(now, message.number if isinstance(message, Ping | Pong) else None)
    if envelope.record.generation > session.generation:
        session.generation = envelope.record.generation
        active.cover()
    if active.is_waiting and not session.detector.is_silent(now):  # the heartbeat of a loop that hangs ends no waiting
        active.is_waiting = False
        _tell_protected(active, session, now)
    if active.link is LinkState.SWITCHING:
        return
    arbiter = active.core.arbiter
    if envelope.record.generation > arbiter.known.generation and arbiter.hint(envelope.record.generation, now):
        active.releases.is_held_by_hint = True
    try:
        if isinstance(message, Ack):
            shipping.take_ack(active, session, message, now)
        elif isinstance(message, Pong):
            session.take_pong(message.number, now)
        elif isinstance(message, CacheDigests):
            shipping.take_digests(active, session, message, now)
        elif isinstance(message, Prepared):
            handover.take_prepared(active, message, now)
        elif isinstance(message, Leave):
            _take_leave(active, session, message, now)
        if active.link in _SWITCHING_OVER:  # rule: switchover_goes_on_before_it_is_proposed
            handover.go_on(active, now)
    except RemoteProtocolError as wrong:
        error = f"{type(wrong).__name__}: {wrong}"
        guest_id, sender = active.core.settings.guest_id, envelope.sender
        active.core.tell(PeerMisbehaved(at=now, guest_id=guest_id, peer=sender, error=error))
        active.backoff.strike(key or peer, now)
        leaving.leave(active, error, now)


def _take_leave(active: ActiveState, session: Session, message: Leave, now: Nanos) -> None:
    if active.link in (LinkState.COPYING, LinkState.CATCHING_UP):
        active.backoff.strike(session.key or session.peer, now)
    session.has_left = True
    # It waits for this answer, because its goodbye could be lost with its connection.
    leaving.leave(active, f"the standby left: {message.reason}", now)


def on_record(active: ActiveState, now: Nanos) -> None:
    """Follow the arbiter."""
    active.releases.is_held_by_hint = False
    known = active.core.arbiter.known
    if known.active != active.core.id:
        if active.link is LinkState.SWITCHING and known.standby == active.core.id and active.session is not None:
            handover.finish(active, active.session)
            if active.switchover is not None:
                active.switchover.switched_at = now
            return
        if active.link is LinkState.VACATING and known.active is None:
            if active.core.stop is not None:
                ended = f"the guest has ended here, and the record is vacant (generation {known.generation})"
                active.core.stop.end(ended, is_in_order=True)
            active.core.end_role(RoleEvent.VACATED, f"the record is vacant (generation {known.generation})")
            return
        reason = f"the record (generation {known.generation}) names {known.active or 'no host'} active"
        handover.end_deposed(active, reason)
        active.core.end_role(RoleEvent.DEPOSED, reason)  # rule: deposed_active_ends
        return
    if active.core.arbiter.proposal is None:
        _on_resolved(active, now)
    active.release()
    handover.go_on(active, now)


def _on_resolved(active: ActiveState, now: Nanos) -> None:
    known, session, guest_id = active.core.arbiter.known, active.session, active.core.settings.guest_id
    match active.link:
        case LinkState.ADDING if session is not None:
            active.move(LinkEvent.IN_FORCE)
            active.core.created_at = None  # another host agrees that this is the place
            session.is_cached = False  # what it rested on was verified
            if (session.key or session.peer) in active.core.uncached:
                active.core.uncached.remove(session.key or session.peer)
            _tell_protected(active, session, now)
        case LinkState.ABANDONING if active.core.settings.halts_alone:
            active.move(LinkEvent.HALTED)
            active.session = None
            leaving.tell_halted(active, "the standby was lost while it was added", now)
        case LinkState.ABANDONING:
            active.move(LinkEvent.IN_FORCE)
            active.core.arbiter.propose(drop(known, active.core.id))
        case LinkState.DROPPING:
            active.move(LinkEvent.IN_FORCE)
            reason = "the standby left" if session is not None and session.has_left else "the standby was lost"
            active.session = None
            active.persist()  # rule: lost_standbys_flush_is_durable
            active.core.tell(Solo(at=now, guest_id=guest_id, generation=known.generation, reason=reason))
        case _:
            pass


def _tell_protected(active: ActiveState, session: Session, now: Nanos) -> None:
    guest_id, generation = active.core.settings.guest_id, active.core.arbiter.known.generation
    active.core.tell(Protected(at=now, guest_id=guest_id, generation=generation, standby=session.standby))


def on_arbiter_trouble(active: ActiveState, now: Nanos) -> None:
    """Report it; the arbiter client tries again by itself. The pair goes on as it is, and a mere hint no longer holds
    outputs.

    Only a switchover does something better than trying again, because the guest is paused for it.
    """
    active.releases.is_held_by_hint = False
    active.core.tell_arbiter_trouble(now)
    handover.withdraw(active, now)
    active.release()


def _poll(active: ActiveState, now: Nanos) -> None:
    active.poll_at = Nanos(now + active.core.settings.timing.arbiter_poll_ns)
    active.core.arbiter.want_read()


def _suspect(active: ActiveState, now: Nanos) -> None:
    """Go on without a silent standby, or pause the guest until it is heard."""
    session, guest_id = active.session, active.core.settings.guest_id
    if session is None:
        return
    silence_ns, limit_ns = session.detector.silence_ns(now), session.detector.limit_ns()
    reason = session.detector.reason("the standby", now)
    active.core.tell(Suspected(at=now, guest_id=guest_id, silence_ns=silence_ns, limit_ns=limit_ns, reason=reason))
    if active.core.settings.halts_alone and active.link in NAMED:
        leaving.wait_for(active, session, now)
    else:
        leaving.lose(active, reason or f"the standby was silent for {silence_ns / 1e6:.0f} ms", now)


def _give_up(active: ActiveState, now: Nanos) -> None:
    """Leave a standby that is heard but makes no progress."""
    session = active.session
    if session is not None:
        active.backoff.strike(session.key or session.peer, now)
        owes_s = (now - session.owes_since) / 1e9
        leaving.leave(active, f"the standby made no progress for {owes_s:.0f} s, though it is heard", now)


def _beat(active: ActiveState, now: Nanos) -> None:
    """Send a heartbeat; what was released a heartbeat ago is told from now on."""
    active.beat_at = Nanos(now + active.core.settings.timing.heartbeat_ns)
    active.releases.tell()
    session = active.session
    if session is not None and session.contact is not Contact.LOST and active.link not in ENDING:
        active.core.send(session.peer, Lane.CONTROL, session.ping(now), session.id)


def _due(active: ActiveState) -> tuple[Nanos, ...]:
    """Return when each of TIMERS is due. Nothing is expected of a session that is lost or about to end."""
    core, session, link, switchover = active.core, active.session, active.link, active.switchover
    suspects_at = gives_up_at = repeats_at = hands_on_at = NEVER
    has_partner = session is not None and session.contact is not Contact.LOST and link not in ENDING
    if session is not None and has_partner:
        outbox = session.outbox
        if outbox.flying:
            repeats_at = outbox.repeats_at
        if not active.is_waiting:
            if core.stop is None and link is not LinkState.SWITCHING:
                suspects_at = session.detector.suspects_at
            if outbox.flying or session.in_flight or session.contact is Contact.WELCOMED or session.matching:
                patience_ns = PROGRESS_PATIENCE * core.settings.timing.primary_limit_ns
                gives_up_at = Nanos(session.owes_since + patience_ns)
    if switchover is not None and link in _SWITCHING_OVER:
        hands_on_at = switchover.ends_at
        if switchover.prepare_at is not None and switchover.prepare_at < hands_on_at:
            hands_on_at = switchover.prepare_at
    announces_at = NEVER if active.announcer.due_at is None else active.announcer.due_at
    copies_at = NEVER if active.plan is None else shipping.copies_at(active)
    cuts_at, poll_at, beat_at = shipping.next_cut(active), active.poll_at, active.beat_at
    first = min(poll_at, announces_at, suspects_at, gives_up_at, copies_at, cuts_at, repeats_at, hands_on_at)
    if beat_at < first and (has_partner or active.releases.untold):
        first = beat_at
    earlier = (poll_at, announces_at, suspects_at, gives_up_at, beat_at)
    return *earlier, copies_at, cuts_at, hands_on_at, repeats_at, first


TIMERS: Final[Timers[ActiveState]] = Timers(
    _due,
    (
        _poll,
        lambda active, now: active.announcer.tick(now),
        _suspect,
        _give_up,
        _beat,
        lambda active, _: shipping.copy_on(active),
        ActiveState.cut,
        handover.go_on,
        ActiveState.flush,
    ),
    apart_from=6,
)
"""In this order: a lost standby gets no heartbeat, and no epoch is cut for it."""


def tick(active: ActiveState, now: Nanos) -> Nanos | None:
    """Do what is due (`TIMERS`), and go on with a switchover as far as that can go."""
    due = _due(active)
    next_due = due[-1] if now < min(due) else None
    if next_due is None:
        act_on(TIMERS, active, due, now)
    if active.link not in _SWITCHING_OVER:
        return next_due
    handover.go_on(active, now)
    return None


def _detector(active: ActiveState) -> FailureDetector | None:
    return active.session.detector if active.session is not None else None


TABLE: Final[RoleTable[ActiveState]] = RoleTable(
    takes={
        reports.Received: take_message,
        reports.Emitted: shipping.take_emitted,
        reports.EngineUsed: shipping.take_engine_used,
        reports.RoundCollected: shipping.take_round,
        reports.PagesCopied: shipping.take_copied,
        reports.PagesMatched: shipping.take_matched,
        reports.CutWanted: shipping.take_wish,
        reports.CutTaken: shipping.take_cut,
        reports.NothingToCut: shipping.take_nothing,
        reports.GuestStirred: shipping.take_stirred,
        reports.CaptureFailed: shipping.take_failure,
        reports.Persisted: shipping.take_persisted,
    },
    on_record=on_record,
    on_arbiter_trouble=on_arbiter_trouble,
    tick=tick,
    timers=TIMERS,
    go_on_stopping=leaving.go_on_stopping,
    detector=_detector,
    peer="the standby",
)
