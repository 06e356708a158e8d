"""A backup that executes the log beside its primary: the guest here must come to the same states, mark by mark.

An epoch then carries no pages, only what to compare. A guest that diverged makes this state worthless: that is
reported, the state is discarded, and this host joins again, or ends (docs/protocol.md, "Roles";
Settings.ends_diverged).
"""

from dataclasses import replace

from ftvm.checkpoint import Checkpoint
from ftvm.errors import BadFrame, GuestError, LimitExceeded
from ftvm.events import Diverged
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Compare, Difference, Rest
from ftvm.protocol.reports import GuestAgreed, GuestDiverged, LogFollowed, MemoryMeasured
from ftvm.protocol.standby.standby_state import StandbyState
from ftvm.units import Nanos

__all__ = ["compare", "take_agreed", "take_diverged", "take_followed", "take_measured"]


def compare(standby: StandbyState, checkpoint: Checkpoint) -> None:
    """Bring the guest to the mark of an epoch, and compare it there."""
    if checkpoint.batches or standby.is_coming_to_rest:
        raise BadFrame(f"epoch {checkpoint.epoch} came with pages to a backup that executes, or before it rested")
    if checkpoint.log_index > standby.committed.log_index or checkpoint.position is None:
        raise BadFrame(f"the mark of epoch {checkpoint.epoch} stands behind a log that has not come")
    standby.is_coming_to_rest = not standby.executes_behind(checkpoint)
    standby.core.do(Compare(checkpoint))


def take_followed(standby: StandbyState, report: LogFollowed, now: Nanos) -> None:
    """Take the outputs that the guest made, executing the log."""
    if standby.core.settings.is_observed:
        standby.made += report.outputs
    try:
        standby.committed.made(report.outputs, standby.core.released)
    except LimitExceeded as wrong:
        standby.end_session(wrong, now)


def take_agreed(standby: StandbyState, report: GuestAgreed, now: Nanos) -> None:
    """Note that the guest, executing here, reached the primary's state."""
    before, checkpoint = standby.committed.engine, report.checkpoint
    if standby.core.settings.is_observed:
        made, standby.made = tuple(standby.made), []
        standby.keep(replace(checkpoint, outputs=made), standby.committed.log, written=report.written)
    safe = standby.safe_before(checkpoint) if standby.core.settings.keeps_disks else None
    standby.committed.agree(checkpoint)
    if safe is not None:
        standby.hold_back(*safe)
    standby.owes_ack = True
    if standby.detector.patience > 1:
        standby.detector.arm(now)
    standby.core.tell_committed(checkpoint, now)
    standby.tell_engine(before, now)
    if not standby.executes_behind(checkpoint):
        standby.is_following = standby.is_coming_to_rest = False
        standby.core.do(Rest())


def take_diverged(standby: StandbyState, report: GuestDiverged, now: Nanos) -> None:
    """Note that it diverged, which makes this state worthless: join again, or end."""
    difference = report.difference
    standby.core.tell(
        Diverged(
            at=now,
            guest_id=standby.core.settings.guest_id,
            epoch=standby.committed.epoch or 0,
            agreed=standby.committed.position,
            seen=difference.seen,
            pages=difference.pages,
            devices=difference.devices,
            reason=difference.reason,
        )
    )
    standby.leave(f"diverged: {difference.reason}", now)
    standby.core.end_role(RoleEvent.DIVERGED, difference.reason)
    if standby.core.settings.ends_diverged:
        standby.core.fail(
            GuestError(
                f"this backup's guest diverged from its primary's between {standby.committed.position} and "
                f"{difference.seen}: {difference.reason}; this host is set to end then (on-divergence)"
            )
        )


def take_measured(standby: StandbyState, _report: MemoryMeasured, now: Nanos) -> None:
    """Stand by only if the memory here is what was handed over: a page that no capture saw would stay wrong."""
    final = standby.switchover.final if standby.switchover is not None else None
    found = standby.committed.memory.memory_digest
    if final is not None and found != final.memory_digest:  # rule: handed_over_memory_compared
        reason = f"the memory digest is {found:032x} here, {final.memory_digest:032x} was handed over"
        take_diverged(standby, GuestDiverged(Difference(reason=reason)), now)
