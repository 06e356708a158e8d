"""What an active ships to its standby: the first copy, the log, an epoch with each cut; and what is acknowledged of it.

From the first cut on the outbox keeps all that is under way until it is acknowledged (channel.py); with the
acknowledgement of the first epoch the standby is proposed (docs/protocol.md, "ADD").
"""

from dataclasses import replace

from ftvm.checkpoint import Checkpoint, LogRecord, PageBatch
from ftvm.encode.messages import Ack
from ftvm.events import Committed, CopyProgress, HostFailed
from ftvm.protocol import parting
from ftvm.protocol.bond import Bond
from ftvm.protocol.effects import CollectRound, CopyMore, Forget
from ftvm.protocol.link import SHIPPING, LinkEvent, LinkState
from ftvm.protocol.record import add
from ftvm.protocol.session import Session, batches_of
from ftvm.protocol.timers import AT_ONCE
from ftvm.units import Nanos

__all__ = [
    "copies_at",
    "copy_on",
    "next_cut",
    "take_ack",
    "take_copied",
    "take_cut",
    "take_failure",
    "take_log",
    "take_round",
]


def take_round(bond: Bond, pages: int, now: Nanos) -> None:
    """Take note of what a round of the first copy has collected."""
    if bond.plan is None:
        return
    if bond.plan.collected(pages, bond.core.settings.limits):
        bond.cut(now)
    else:
        copy_on(bond)


def take_copied(bond: Bond, batches: tuple[PageBatch, ...], left: int, now: Nanos) -> None:
    """Ship what was encoded of the present round."""
    if bond.plan is None or bond.session is None:
        bond.core.do(Forget(batches))
        return
    bond.plan.copied(left)
    for batch in batches:
        bond.session.ship_copy(batch, bond.plan.round)
    guest_id = bond.core.settings.guest_id
    bond.core.tell(
        CopyProgress(
            at=now,
            guest_id=guest_id,
            round=bond.plan.round,
            pages_sent=bond.plan.pages_sent,
            pages_left=left,
        )
    )
    bond.flush(now)


def take_cut(bond: Bond, checkpoint: Checkpoint, pause_ns: int, now: Nanos) -> None:
    """Ship a checkpoint that was captured."""
    bond.schedule.is_cutting = False
    bond.epoch = checkpoint.epoch
    session = bond.session
    if session is None or bond.link not in (LinkState.COPYING, *SHIPPING):
        bond.core.do(Forget(checkpoint.batches))
        return
    if session.is_followed:
        # Pages stay here: the backup executes. Records that were logged up to the cut must precede the mark.
        bond.core.do(Forget(checkpoint.batches))
        checkpoint = replace(checkpoint, batches=(), outputs=())
        if bond.unshipped:
            session.ship_log(tuple(bond.unshipped))
    bond.unshipped.clear()
    bond.schedule.cut(pause_ns=pause_ns, dirty_pages=checkpoint.dirty_pages)
    session.ship_epoch(checkpoint, bond.schedule.engine, pause_ns, now)
    if bond.link is LinkState.HANDING and bond.switchover is not None:
        bond.switchover.final = replace(checkpoint, batches=(), outputs=(), page_digests=b"")
    if bond.link is LinkState.COPYING:
        bond.move(LinkEvent.CUT)  # rule: first_cut_shipped
        bond.plan = None
    bond.flush(now)


def take_failure(bond: Bond, error: str, now: Nanos) -> None:
    """End the session: the shadow no longer tells what the standby has. A new one copies afresh."""
    bond.schedule.is_cutting = False
    bond.core.tell(HostFailed(at=now, guest_id=bond.core.settings.guest_id, error=f"capture failed: {error}"))
    if bond.session is not None:
        parting.leave(bond, f"capture failed: {error}", now)


def take_log(bond: Bond, records: list[LogRecord], now: Nanos) -> None:
    """Ship what was logged; before the first cut there is nobody to ship it to, and the cut will cover it."""
    if bond.link in SHIPPING and bond.session is not None:
        bond.session.log(records)
        bond.unshipped.extend(records)
        bond.flush(now)


def take_ack(bond: Bond, session: Session, ack: Ack, now: Nanos) -> None:
    """Go by what the standby has; with the first epoch that is acknowledged it is proposed."""
    let_go, committed = session.acknowledge(ack, now)
    bond.core.do(Forget(batches_of(let_go)))
    for epoch in committed:
        bond.core.tell(
            Committed(
                at=now,
                guest_id=bond.core.settings.guest_id,
                epoch=epoch.epoch,
                dirty_pages=epoch.dirty_pages,
                sent_bytes=epoch.sent_bytes,
                pause_ns=epoch.pause_ns,
            )
        )
        bond.tell_engine(epoch.engine, now)
    if committed and session.detector.patience > 1:
        session.detector.arm(now)
    if committed and bond.link is LinkState.CATCHING_UP:
        bond.move(LinkEvent.CAUGHT_UP)
        bond.core.arbiter.propose(add(bond.core.arbiter.known, bond.core.id, session.standby))
    bond.release()
    bond.flush(now)


def copies_at(bond: Bond) -> Nanos | None:
    """Return when the first copy can go on: at once if there is room, else with what else comes."""
    plan, session = bond.plan, bond.session
    if plan is None or session is None or plan.is_collecting or bond.schedule.is_cutting:
        return None
    can_go_on = session.has_answered and session.outbox.room if plan.left else session.outbox.is_empty
    return AT_ONCE if can_go_on else None


def copy_on(bond: Bond) -> None:
    """Go on with the first copy as far as there is room."""
    plan, session = bond.plan, bond.session
    if plan is None or session is None or copies_at(bond) is None:
        return
    if plan.left:
        bond.core.do(CopyMore(session.outbox.room))
    else:
        plan.is_collecting = True
        bond.core.do(CollectRound())


def next_cut(bond: Bond) -> Nanos | None:
    """Return when the next cut is due, None if none may come now."""
    session = bond.session
    limit = bond.core.settings.limits.epochs_in_flight
    stop = bond.core.stop
    if session is None or bond.link not in SHIPPING or bond.schedule.is_cutting or (stop and stop.is_guest_gone):
        return None
    if len(session.in_flight) >= limit or session.is_coming_to_rest or bond.link is LinkState.HANDING:
        return None
    if bond.link is LinkState.SETTLING and bond.switchover is not None and bond.epoch < bond.switchover.warm_epoch:
        return bond.schedule.last_cut_at
    if session.is_log_long(bond.core.settings.limits):
        return bond.schedule.last_cut_at  # the guest stands still until a checkpoint covers some of it
    return bond.schedule.next_cut(session, bond.outputs)
