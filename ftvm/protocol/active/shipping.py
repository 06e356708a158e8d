"""What an active ships to its standby: the first copy, the log, an epoch with each cut; and what is acknowledged of it.

From the first cut on the outbox keeps all that is under way until it is acknowledged (session.py:Outbox); with the
acknowledgement of the first epoch the standby is proposed (docs/protocol.md, "ADD").
"""

from bisect import bisect_left
from dataclasses import replace

from ftvm.checkpoint import NO_OUTPUTS, Watermarks
from ftvm.encode.messages import Ack, CacheDigests
from ftvm.encode.versions import NOTED_LOG_SINCE
from ftvm.errors import LimitExceeded, must
from ftvm.events import Committed, CopyProgress, HostFailed
from ftvm.interfaces import EngineView
from ftvm.protocol.active import leaving
from ftvm.protocol.active.active_state import QUIET_NS_MAX, ActiveState
from ftvm.protocol.active.link import SHIPPING, LinkEvent, LinkState
from ftvm.protocol.effects import CollectRound, CopyMore, Forget, MatchPages, Tell
from ftvm.protocol.record import add
from ftvm.protocol.reports import (
    NOTHING_EMITTED,
    CaptureFailed,
    CutTaken,
    CutWanted,
    Emitted,
    EngineUsed,
    GuestStirred,
    NothingToCut,
    PagesCopied,
    PagesMatched,
    Persisted,
    RoundCollected,
)
from ftvm.protocol.session import Session
from ftvm.protocol.timers import AT_ONCE, NEVER
from ftvm.units import Nanos

__all__ = [
    "copies_at",
    "copy_on",
    "next_cut",
    "take_ack",
    "take_copied",
    "take_cut",
    "take_digests",
    "take_emitted",
    "take_engine_used",
    "take_failure",
    "take_matched",
    "take_nothing",
    "take_persisted",
    "take_round",
    "take_stirred",
]


def take_round(active: ActiveState, report: RoundCollected, now: Nanos) -> None:
    """Note what a round of the first copy has collected."""
    if active.plan is None:
        return
    if active.plan.collected(report.pages, active.core.settings.limits):
        active.cut(now)
    else:
        copy_on(active)


def take_copied(active: ActiveState, report: PagesCopied, now: Nanos) -> None:
    """Ship what was encoded of the present round."""
    if active.plan is None or active.session is None:
        active.core.do(Forget(report.batches))
        return
    active.plan.copied(report.left)
    for batch in report.batches:
        active.session.ship_copy(batch, active.plan.round)
    guest_id = active.core.settings.guest_id
    active.core.tell(
        CopyProgress(
            at=now,
            guest_id=guest_id,
            round=active.plan.round,
            pages_sent=active.plan.pages_sent,
            pages_left=report.left,
        )
    )
    active.flush(now)


def take_digests(active: ActiveState, session: Session, offered: CacheDigests, now: Nanos) -> None:
    """Have what the joiner still has compared, piece by piece. What comes when there is no room comes again.

    Raises BadFrame, the peer's fault.
    """
    matching = session.matching
    if matching is not None and session.outbox.room and matching.accept(offered, now):
        active.core.do(MatchPages(offered.first, offered.digests, offered.is_last))


def take_matched(active: ActiveState, report: PagesMatched, now: Nanos) -> None:
    """Tell the joiner what it keeps; with the last of it the first round is down to what differs."""
    session, plan = active.session, active.plan
    if session is None or plan is None:
        return
    session.ship_keep(report.first, report.pages, report.kept)
    if report.is_last:
        session.matching, plan.left = None, report.left
    active.flush(now)


def take_emitted(active: ActiveState, emitted: Emitted, now: Nanos) -> None:
    """Take what came from the guest: the log before the outputs that came with it. Release what may leave."""
    session, engine = active.session, active.schedule.engine
    log = emitted.log
    if (
        log.record_count
        and session is not None
        and active.link in SHIPPING
        and (engine.logs or session.id.version >= NOTED_LOG_SINCE)
    ):
        # Before the first cut there is nobody to ship the log to, and the cut will cover it.
        session.log(log)
        active.unshipped.append(log)
        if engine.logs:  # else no output waits for it, and it goes with the epoch
            active.flush(now)
    if not emitted.said:
        return
    active.schedule.is_guest_idle = emitted.is_guest_idle
    if emitted.has_flush:
        active.flushed = active.epoch + 1
    for outputs, log_index in emitted.said:
        # rule: output_needs_its_epoch
        needs = active.schedule.engine.output_needs(epoch=active.epoch + 1, log_index=log_index)
        if needs.epoch < active.flushed:  # rule: output_needs_the_flush_before_it
            needs = Watermarks(active.flushed, needs.log_index)
        active.outputs.hold(outputs, needs, now)
    active.release()


def take_engine_used(active: ActiveState, report: EngineUsed, now: Nanos) -> None:
    """Note that the guest, paused and all its outputs handed on, goes on under an engine."""
    active.schedule.use(report.engine)
    if not active.schedule.is_cutting:
        active.tell_engine(report.engine, now)


def take_wish(active: ActiveState, _report: CutWanted, _now: Nanos) -> None:
    """Have the next cut come as soon as one may come at all."""
    active.schedule.is_cut_wanted = True


def take_cut(active: ActiveState, cut: CutTaken, now: Nanos) -> None:
    """Take all that a cut has brought, and ship it: what was emitted before it, the engine behind it, the checkpoint.

    In this order: each output is judged by the engine under which it was made.
    """
    core, schedule, session, checkpoint = active.core, active.schedule, active.session, cut.checkpoint
    is_next = checkpoint.base == active.epoch and checkpoint.epoch == active.epoch + 1
    must(is_next, "a checkpoint extends the last epoch cut by one")
    if cut.emitted is not NOTHING_EMITTED:
        take_emitted(active, cut.emitted, cut.paused_at)
    outputs, limits = active.pending_outputs(), core.settings.limits
    if cut.engine is not schedule.engine or schedule.wanted is not None:
        schedule.use(cut.engine)
    longest = len(outputs.payloads)
    if longest > limits.output_bytes and (longest := max(outputs.lengths)) > limits.output_bytes:
        # Refused here, as the standby would refuse to read it: it would be sent again and again.
        core.do(Forget(checkpoint.batches))
        too_long = LimitExceeded("bytes of one output", limit=limits.output_bytes, wanted=longest)
        take_failure(active, CaptureFailed(f"{type(too_long).__name__}: {too_long}"), now)
        return
    schedule.is_cutting, schedule.is_at_rest = False, cut.is_at_rest
    active.epoch = checkpoint.epoch
    if checkpoint.has_flush:
        active.flushed = checkpoint.epoch
    if session is None or not (active.link in SHIPPING or active.link is LinkState.COPYING):
        core.do(Forget(checkpoint.batches))
        return
    if session.is_followed:
        # Pages stay here: the backup executes. Records that were logged up to the cut must precede the mark.
        core.do(Forget(checkpoint.batches))
        checkpoint, outputs = replace(checkpoint, batches=()), NO_OUTPUTS
    if active.unshipped and (session.is_followed or core.settings.is_observed):
        session.ship_log(active.unshipped)
    active.unshipped.clear()
    schedule.shipped_at, schedule.pause_ns, schedule.dirty_pages = now, cut.pause_ns, checkpoint.dirty_pages
    session.ship_epoch(checkpoint, outputs, schedule.engine, cut.pause_ns, now)
    if active.link is LinkState.HANDING and active.switchover is not None:
        active.switchover.final = replace(checkpoint, batches=(), page_digests=b"")
        active.persist()  # rule: handed_over_flush_is_durable
    elif active.link is LinkState.COPYING:
        active.move(LinkEvent.CUT)  # rule: first_cut_shipped
        active.plan = None
    active.flush(now)


def take_persisted(active: ActiveState, report: Persisted, now: Nanos) -> None:
    """Let out what waited for the disks of this host. If they fail, the guest has no better."""
    if report.number != active.unsynced:
        return
    active.unsynced = None
    if report.error is not None:
        active.core.tell(HostFailed(at=now, guest_id=active.core.settings.guest_id, error=report.error))
    active.release()


def take_nothing(active: ActiveState, report: NothingToCut, _now: Nanos) -> None:
    """The guest has written nothing: the next cut looks again an interval later, so a write waits no longer. A guest at
    rest is not looked at before it goes on."""
    active.schedule.is_cutting = False
    active.schedule.dirty_pages = 0
    active.schedule.is_at_rest = report.is_at_rest


def take_stirred(active: ActiveState, _report: GuestStirred, now: Nanos) -> None:
    """The guest was at rest, and goes on: the next cut comes when it would, had there been a look each interval."""
    schedule = active.schedule
    if not schedule.is_at_rest:
        return
    schedule.is_at_rest = False
    interval_ns = next_cut(active) - schedule.last_cut_at
    if 0 < interval_ns <= now - schedule.last_cut_at:
        schedule.last_cut_at = Nanos(now - (now - schedule.last_cut_at) % interval_ns)


def take_failure(active: ActiveState, report: CaptureFailed, now: Nanos) -> None:
    """End the session: the shadow no longer tells what the standby has. A new session starts with a fresh copy."""
    active.schedule.is_cutting = False
    active.core.tell(
        HostFailed(at=now, guest_id=active.core.settings.guest_id, error=f"capture failed: {report.error}")
    )
    if active.session is not None:
        leaving.leave(active, f"capture failed: {report.error}", now)


def take_ack(active: ActiveState, session: Session, ack: Ack, now: Nanos) -> None:
    """Take what the standby has; with the first acknowledged epoch, propose it.

    Raises BadFrame or DigestMismatch, the peer's fault.
    """
    core = active.core
    let_go, committed = session.acknowledge(ack, now)
    if let_go:
        core.effects.append(Forget(let_go))
    for epoch in committed:
        core.effects.append(
            Tell(
                Committed(
                    at=now,
                    guest_id=core.settings.guest_id,
                    epoch=epoch.epoch,
                    dirty_pages=epoch.dirty_pages,
                    sent_bytes=epoch.sent_bytes,
                    pause_ns=epoch.pause_ns,
                )
            )
        )
        if epoch.engine is not active.schedule.told:
            active.tell_engine(epoch.engine, now)
    if committed:
        if session.detector.patience > 1:
            session.detector.arm(now)
        if active.link is LinkState.CATCHING_UP:
            active.move(LinkEvent.CAUGHT_UP)
            core.arbiter.propose(add(core.arbiter.known, core.id, session.standby))
    active.release()
    if active.unshipped or session.outbox.waiting or session.outbox.flying:
        active.flush(now)


def copies_at(active: ActiveState) -> Nanos:
    """Return when the first copy can go on: at once if there is room, else with what else comes."""
    plan, session = active.plan, active.session
    if plan is None or session is None or plan.is_collecting or active.schedule.is_cutting:
        return NEVER
    if session.matching is not None:
        return NEVER
    can_go_on = session.has_answered and session.outbox.room if plan.left else session.outbox.is_empty
    return AT_ONCE if can_go_on else NEVER


def copy_on(active: ActiveState) -> None:
    """Go on with the first copy as far as there is room."""
    plan, session = active.plan, active.session
    if plan is None or session is None or copies_at(active) == NEVER:
        return
    if plan.left:
        active.core.do(CopyMore(session.outbox.room))
    else:
        plan.is_collecting = True
        active.core.do(CollectRound())


def next_cut(active: ActiveState) -> Nanos:
    """Return when the next cut is due, NEVER if none may come now.

    A change of engine waits for nothing, nor does a cut that the guest asked for.
    """
    session, schedule, core = active.session, active.schedule, active.core
    if session is None or schedule.is_cutting or active.link not in SHIPPING or active.link is LinkState.HANDING:
        return NEVER
    if len(session.in_flight) >= core.settings.limits.epochs_in_flight or session.rest_epoch is not None:
        return NEVER
    if core.stop is not None and core.stop.is_guest_gone:
        return NEVER
    if (
        active.link is LinkState.SETTLING
        and active.switchover is not None
        and active.epoch < active.switchover.warm_epoch
    ):
        return schedule.last_cut_at
    if session.is_log_long:
        return schedule.last_cut_at  # the guest stands still until a checkpoint covers some of it
    if schedule.wanted is not None or schedule.is_cut_wanted:
        return schedule.last_cut_at
    if schedule.engine.logs and active.flushed > active.epoch and not session.in_flight:
        return schedule.last_cut_at  # outputs wait for it; those that come while one is under way share the next
    held, uncut = active.outputs.held, session.shipped_next
    oldest_uncut_at = None
    if held and held[-1].outputs.last >= uncut:
        place = 0
        if held[0].outputs.last < uncut:
            place = bisect_left(held, uncut, key=lambda each: each.outputs.last)
        oldest_uncut_at = held[place].since
    cuts_at = schedule.engine.next_cut(
        EngineView(
            last_cut_at=schedule.last_cut_at,
            epochs_in_flight=len(session.in_flight),
            outputs_waiting=active.outputs.count,
            oldest_output_at=held[0].since if held else None,
            oldest_uncut_at=oldest_uncut_at,
            is_guest_idle=schedule.is_guest_idle,
            epoch_ns=schedule.epoch_ns,
            dirty_pages=schedule.dirty_pages,
            pause_ns=schedule.pause_ns,
            commit_ns=session.commit_ns,
            round_trip_ns=session.round_trip_ns,
        )
    )
    if schedule.is_at_rest and not held:
        return Nanos(max(cuts_at, schedule.shipped_at + QUIET_NS_MAX))
    return cuts_at
