"""What a replica does with a session: it syncs, commits, acknowledges, and takes over when its active falls silent.

It syncs until the first epoch is committed, and stands by from then on; the two differ only in what silence means. Only
messages of this session, from the peer and key that opened it, count for anything, even as a sign of life: heartbeats
of another host must not keep a whole non-member waiting (docs/protocol.md, "Mistakes made once", 3). What is
acknowledged is committed, and what is committed is what a takeover runs from.
"""

from collections import deque
from dataclasses import replace
from operator import attrgetter
from typing import Final

from ftvm.encode.compress import unpack_batch
from ftvm.encode.messages import (
    Ack,
    CacheDigests,
    CacheKept,
    Copy,
    Envelope,
    EpochPart,
    Leave,
    Log,
    Message,
    Ping,
    Pong,
    Prepare,
    Sequenced,
)
from ftvm.errors import BadFrame, GuestEnded, GuestError, LimitExceeded, RemoteProtocolError
from ftvm.interfaces import Lane
from ftvm.protocol import reports
from ftvm.protocol.core import Core, RoleEvent, RoleTable
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.effects import Execute, Follow, Unload, WarmUp
from ftvm.protocol.reports import Persisted, Received
from ftvm.protocol.session import Outbox, SessionOffer, Switchover
from ftvm.protocol.standby import claiming, following
from ftvm.protocol.standby.commit import CommittedState, Inbox, Offering, Staging
from ftvm.protocol.standby.standby_state import ClaimEvent, ClaimState, StandbyState
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.protocol.timers import NEVER, Timers, act_on
from ftvm.units import Nanos

__all__ = ["SYNC_PATIENCE", "TABLE", "begin", "resume"]

SYNC_PATIENCE: Final = 4
"""How many limits of silence are tolerated until the state is whole: the active may be busy with the first copy."""

GOODBYE_LIMITS: Final = 4
"""For how many of its limits of silence a standby waits for the answer to its goodbye."""


def begin(core: Core, offer: SessionOffer, committed: CommittedState, now: Nanos) -> StandbyState:
    """Begin a session from nothing: zero memory, or what is here still, as a cache."""
    standby = _session(core, offer, committed, now)
    if not offer.takes_cache:
        committed.clear()
        return standby
    limits = core.settings.limits
    window, repeat_ns = max(1, limits.batches_in_flight // 2), Nanos(4 * core.settings.timing.heartbeat_ns)
    outbox: Outbox[CacheDigests] = Outbox(window=window, repeat_ns=repeat_ns)
    left = deque(committed.hold())
    standby.offering = Offering(committed.memory, outbox, limits.digests_per_message, left)
    return standby


def resume(
    core: Core, offer: SessionOffer, committed: CommittedState, switchover: Switchover, now: Nanos
) -> StandbyState:
    """Begin a session after a switchover, from the state that this replica, active until now, stands still at."""
    standby = _session(core, offer, committed, now)
    standby.switchover = switchover
    if core.settings.keeps_disks:
        standby.hold_back(None, 0)  # what the guest wrote here may not be on the device yet
    if core.settings.engines[committed.engine].executes:
        standby.is_following = True
        core.do(Follow(None, committed.output_next))
    return standby


def _session(core: Core, offer: SessionOffer, committed: CommittedState, now: Nanos) -> StandbyState:
    limits = core.settings.limits
    return StandbyState(
        core=core,
        offer=offer,
        committed=committed,
        inbox=Inbox(window=limits.batches_in_flight),
        staging=Staging(limit_bytes=min(limits.staging_bytes, offer.staging_bytes)),
        # rule: silence_counted_from_now
        detector=FailureDetector(core.settings.timing.backup_limit_ns, now, patience=SYNC_PATIENCE),
        fresh_at=core.arbiter.want_read(),
        poll_at=Nanos(now + core.settings.timing.arbiter_poll_ns),
    )


def take_message(standby: StandbyState, report: Received, now: Nanos) -> None:
    """Take a message of this session; drop any other."""
    core, claim, envelope, message = standby.core, standby.claim, report.envelope, report.message
    if not standby.offer.is_of(report.peer, report.key, envelope):
        return
    if core.stop is not None and isinstance(message, Leave):
        _take_goodbye(standby, core.stop)
    if standby.is_session_over:
        return
    if standby.switchover is not None and not standby.switchover.is_over:
        claiming.tell_switched_away(standby, standby.switchover, now)
    standby.detector.heard(now, message.number if isinstance(message, Ping | Pong) else None)
    if envelope.record.generation > core.arbiter.known.generation:
        core.arbiter.hint(envelope.record.generation, now)
    if claim.state is ClaimState.CHECKING and not (isinstance(message, Leave) or standby.detector.is_silent(now)):
        claiming.call_off(standby, now)  # not for a goodbye, nor for the heartbeat of a loop that hangs
    try:
        if isinstance(message, Copy | EpochPart | Log | CacheKept):
            if claim.is_watching:  # rule: claimant_takes_nothing
                standby.owes_ack = True
                for ready in standby.inbox.take(message):
                    _apply(standby, ready, now)
                _note_released(standby, envelope.released)
        else:
            _take(standby, message, envelope, now)
    except (RemoteProtocolError, LimitExceeded) as wrong:
        standby.end_session(wrong, now)


def _take(standby: StandbyState, message: Message, envelope: Envelope, now: Nanos) -> None:
    """Take what builds up no state."""
    match message:
        case Ping() if standby.claim.is_watching:
            standby.owes_ack = True  # one that was lost is thus repeated
            pong = Pong(number=message.number)
            standby.core.send(standby.offer.peer, Lane.CONTROL, pong, standby.offer.session)
            _note_released(standby, envelope.released)
        case Prepare(epoch=0) if standby.is_whole:
            standby.core.do(WarmUp())
        case Prepare() if standby.claim.is_watching and message.epoch == standby.committed.epoch:
            claiming.prepare(standby, now)
        case Leave(is_end=True) if standby.claim.state is ClaimState.CLAIMING:
            standby.guest_end = message.reason  # ending now could leave a record that names a dead host
        case Leave(is_end=True):
            standby.core.fail(GuestEnded(message.reason))
        case Leave():
            standby.detector.hurry(f"the active said goodbye: {message.reason}")
        case _:
            pass


def _note_released(standby: StandbyState, released: int) -> None:
    standby.committed.forget_released(released)
    standby.core.released = max(standby.core.released, released)


def _apply(standby: StandbyState, message: Sequenced, now: Nanos) -> None:
    """Take the next message in order: keep records of the log, stage a part of an epoch, commit the whole."""
    core, committed, limits = standby.core, standby.committed, standby.core.settings.limits
    if standby.claim.state is ClaimState.PREPARED:
        claiming.call_off(standby, now)  # the active ships on: its switchover failed
    standby.claim.suspected_at = None  # the guest ran there after all that was suspected before
    if isinstance(message, Log):
        if committed.epoch is not None and not core.settings.engines[committed.engine].logs:
            if core.settings.is_observed:
                standby.noted.append(message.records, limits)
            return
        committed.append(message.records)
        if standby.is_following:
            core.do(Execute(message.records))
        return
    offering = standby.offering
    if isinstance(message, CacheKept):
        if offering is None:
            raise BadFrame("pages are to be kept, and nothing was offered")
        offering.take(message, now)
        _copied(standby, message)
        return
    if offering is not None and not offering.is_over:
        raise BadFrame("pages came before it was said which of those offered are kept")
    if isinstance(message, Copy):
        committed.copy(unpack_batch(message.batch, limits))
        _copied(standby, message)
        return
    if message.batch is not None and message.batch.unpacked_bytes:
        message = replace(message, batch=unpack_batch(message.batch, limits))
    checkpoint = standby.staging.add(message)
    if checkpoint is None:
        return
    if checkpoint.engine not in core.settings.engines:
        raise BadFrame(f"epoch {checkpoint.epoch} asks for engine {checkpoint.engine!r}, which was not offered")
    if standby.is_following:
        following.compare(standby, checkpoint)
        return
    was_whole, before = committed.epoch is not None, committed.engine
    safe = standby.safe_before(checkpoint) if core.settings.keeps_disks else None
    log = (*committed.log, *standby.noted.take()) if core.settings.is_observed else ()
    committed.commit(checkpoint)
    if safe is not None:
        standby.hold_back(*safe)
    if core.settings.is_observed:
        standby.keep(checkpoint, log, is_first=not was_whole)
    if standby.detector.patience > 1:
        # Not before: after a first copy or a switchover, what the active has to do for that epoch may take it a while.
        standby.detector.arm(now)
    core.tell_committed(checkpoint, now)
    if not was_whole:
        kept = f"; {offering.kept_pages} pages of it were here" if offering is not None else ""
        standby.offering = None
        core.end_role(RoleEvent.WHOLE, f"epoch {checkpoint.epoch} completes the first copy{kept}")
    elif committed.engine != before:
        standby.tell_engine(before, now)
    if core.settings.engines[checkpoint.engine].executes:
        standby.is_following = True
        core.do(Follow(checkpoint.devices, checkpoint.output_next))


def _copied(standby: StandbyState, message: Copy | CacheKept) -> None:
    """Acknowledge a part of a first copy once the disks have it: no faster than they take it."""
    if standby.core.settings.keeps_disks:
        standby.durability.hold_copy(message.sequence)
        standby.persist(message.sequence + 1)


def take_persisted(standby: StandbyState, report: Persisted, _now: Nanos) -> None:
    """Acknowledge what is durable by now; a host whose disk cannot be written is no standby."""
    if report.error is not None:
        standby.core.fail(GuestError(report.error), StopKind.FAILED)
    elif standby.durability.take(report.number):
        standby.owes_ack = True
        standby.persist(standby.inbox.expected)


def on_record(standby: StandbyState, now: Nanos) -> None:
    """Follow the arbiter, which alone makes this replica active or removes it."""
    known, me = standby.core.arbiter.known, standby.core.id
    if known.active == me:
        claiming.win(standby, known, now)
    elif standby.guest_end is not None and standby.core.arbiter.proposal is None:
        standby.core.fail(GuestEnded(standby.guest_end))
    elif standby.core.end_with_guest(standby.offer.session.generation):
        return
    elif known.generation > standby.offer.session.generation and known.standby != me:  # rule: unnamed_standby_ends
        standby.core.end_role(
            RoleEvent.EXPELLED, f"the record of generation {known.generation} does not name this replica"
        )
    elif standby.core.arbiter.reads >= standby.fresh_at and known.generation < standby.offer.session.generation:
        # The record of a session is older than the session, or any peer could keep us for ever.
        standby.core.end_role(
            RoleEvent.EXPELLED,
            f"the active is at generation {standby.offer.session.generation}, but our arbiter's record is of "
            f"generation {known.generation}: do both hosts use the same arbiter?",
        )
    elif standby.claim.state is ClaimState.CLAIMING and standby.core.arbiter.proposal is None:
        standby.claim.step(ClaimEvent.LOST)
        standby.claim.is_loaded = False
        standby.core.do(Unload())
    elif standby.claim.state is ClaimState.CHECKING:
        claiming.propose_if_ready(standby, now)


def on_arbiter_trouble(standby: StandbyState, now: Nanos) -> None:
    """Report it; the arbiter client tries again by itself. Without the arbiter nobody takes over."""
    standby.core.tell_arbiter_trouble(now)


def tick(standby: StandbyState, now: Nanos) -> Nanos | None:
    """Acknowledge what came, and do what is due (`TIMERS`)."""
    # rule: claimant_acknowledges_nothing
    if standby.owes_ack and not standby.is_session_over and standby.claim.is_watching:
        standby.owes_ack = False
        committed, durability = standby.committed, standby.durability
        digest = committed.memory.memory_digest if committed.epoch is not None else 0
        # rule: durable_is_acknowledged
        epoch, digest = (committed.epoch or 0, digest) if durability.safe is None else durability.safe
        ack = Ack(
            received=standby.inbox.expected if durability.received is None else durability.received,
            epoch=epoch,  # rule: committed_is_acknowledged
            log_index=committed.log_index,
            memory_digest=digest,
        )
        standby.core.send(standby.offer.peer, Lane.CONTROL, ack, standby.offer.session)
    due = _due(standby)
    if now < min(due):
        return due[-1]
    act_on(TIMERS, standby, due, now)
    return None


def go_on_stopping(standby: StandbyState, stop: Stopping, now: Nanos) -> None:
    """Continue the stop of a host that syncs or stands by.

    A claim is called off if it may be, and else waited for; so is a SWITCH that may be proposed, until the record or
    the active says what became of it.
    """
    claim, core = standby.claim, standby.core
    if claim.state is ClaimState.CHECKING:
        claiming.call_off(standby, now)
    if not claim.is_watching or standby.is_named_active:
        is_late = now >= stop.ends_at
    else:
        if stop.speaks_again(now, core.settings.timing.heartbeat_ns):
            stop.left_at = now if stop.left_at is None else stop.left_at
            standby.say_goodbye(stop.reason)
            core.arbiter.want_read()
        wait_ns = GOODBYE_LIMITS * core.settings.timing.backup_limit_ns  # rule: goodbye_answered
        # rule: prepared_standby_stays
        may_be_active = claim.state is ClaimState.PREPARED or standby.switchover is not None
        is_done_waiting = not may_be_active and stop.left_at is not None and now >= stop.left_at + wait_ns
        is_late = is_done_waiting or now >= stop.ends_at
    if is_late:
        is_named = core.id in (core.arbiter.known.active, core.arbiter.known.standby)
        why = core.naming() if is_named else "the active host has not answered its goodbye"
        if core.arbiter.proposal is not None:
            why = (
                f"this host has asked to run the guest, and may still get it: {core.arbiter_silence()}; {core.naming()}"
            )
        stop.end(why, is_in_order=not is_named and core.arbiter.proposal is None)


def _take_goodbye(standby: StandbyState, stop: Stopping) -> None:
    """Take the active's LEAVE: the answer to ours, or its own; it may wait for ours, and is told once more."""
    if standby.claim.is_watching:
        standby.say_goodbye(stop.reason)
        stop.end(f"the other host knows of it; {standby.core.whereabouts()}", is_in_order=True)


def _poll(standby: StandbyState, now: Nanos) -> None:
    timing = standby.core.settings.timing
    is_prepared = standby.claim.state is ClaimState.PREPARED
    standby.poll_at = Nanos(now + (timing.heartbeat_ns if is_prepared else timing.arbiter_poll_ns))
    standby.core.arbiter.want_read()


def _due(standby: StandbyState) -> tuple[Nanos, ...]:
    """Return when each of TIMERS is due. A host that stops suspects nobody."""
    core, claim = standby.core, standby.claim
    wins_at = suspects_at = NEVER
    if core.arbiter.known.active == core.id:
        wins_at = NEVER if claim.not_before is None else claim.not_before
    elif core.stop is None and claim.is_watching:
        suspects_at = standby.detector.suspects_at
        if claim.not_before is not None and claim.not_before > suspects_at:
            suspects_at = claim.not_before
    offers_at = NEVER if standby.offering is None or standby.is_session_over else standby.offering.due_at
    return standby.poll_at, wins_at, offers_at, suspects_at, min(standby.poll_at, wins_at, offers_at, suspects_at)


def _offer(standby: StandbyState, now: Nanos) -> None:
    if standby.offering is not None:
        for message in standby.offering.offer(now):
            standby.core.send(standby.offer.peer, Lane.DATA, message, standby.offer.session)


def _suspect(standby: StandbyState, now: Nanos) -> None:
    if standby.is_whole:
        claiming.suspect(standby, now)
    else:
        standby.core.end_role(RoleEvent.SESSION_LOST, "the active fell silent before the first copy was whole")


TIMERS: Final[Timers[StandbyState]] = Timers(
    _due,
    (
        _poll,
        lambda standby, now: claiming.win(standby, standby.core.arbiter.known, now),
        _offer,
        _suspect,
    ),
    apart_from=2,
)

TABLE: Final[RoleTable[StandbyState]] = RoleTable(
    takes={
        reports.Received: take_message,
        reports.StateLoaded: claiming.take_loaded,
        reports.LoadFailed: claiming.take_load_failure,
        reports.ShadowWarmed: claiming.take_warm,
        reports.MemoryMeasured: following.take_measured,
        reports.Persisted: take_persisted,
        reports.LogFollowed: following.take_followed,
        reports.GuestAgreed: following.take_agreed,
        reports.GuestDiverged: following.take_diverged,
    },
    on_record=on_record,
    on_arbiter_trouble=on_arbiter_trouble,
    tick=tick,
    timers=TIMERS,
    go_on_stopping=go_on_stopping,
    detector=attrgetter("detector"),
    peer="the active",
)
