"""A backup that executes the log beside its primary: the guest here must come to the same states, mark by mark.

An epoch then carries no pages, only what to compare. A guest that came to another state makes what is here worthless:
it is reported, discarded, and this host joins afresh, or ends (docs/protocol.md, "Roles"; Settings.ends_diverged).
"""

from ftvm.checkpoint import Checkpoint, Output
from ftvm.errors import BadFrame, GuestError, LimitExceeded
from ftvm.events import Diverged
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Compare, Difference, Rest
from ftvm.protocol.holding import Holding
from ftvm.units import Nanos

__all__ = ["compare", "take_agreed", "take_diverged", "take_followed", "take_measured"]


def compare(holding: Holding, checkpoint: Checkpoint) -> None:
    """Have the guest brought to the mark of an epoch and compared there."""
    if checkpoint.batches or holding.is_coming_to_rest:
        raise BadFrame(f"epoch {checkpoint.epoch} came with pages to a backup that executes, or before it rested")
    if checkpoint.log_index > holding.committed.log_index or checkpoint.position is None:
        raise BadFrame(f"the mark of epoch {checkpoint.epoch} stands behind a log that has not come")
    holding.is_coming_to_rest = not holding.executes_behind(checkpoint)
    holding.core.do(Compare(checkpoint))


def take_followed(holding: Holding, outputs: list[Output], now: Nanos) -> None:
    """Take the outputs that the guest made, executing the log."""
    try:
        holding.committed.made(outputs, holding.core.released)
    except LimitExceeded as wrong:
        holding.end_session(wrong, now)


def take_agreed(holding: Holding, checkpoint: Checkpoint, now: Nanos) -> None:
    """Note that the guest, executing here, came to the same state as the primary's."""
    before = holding.committed.engine
    holding.committed.agree(checkpoint)
    holding.owes_ack = True
    holding.take_committed(checkpoint, now)
    holding.tell_engine(before, now)
    if not holding.executes_behind(checkpoint):
        holding.is_following = holding.is_coming_to_rest = False
        holding.core.do(Rest())


def take_diverged(holding: Holding, difference: Difference, now: Nanos) -> None:
    """Note that it came to another state, which makes what is here worthless: begin afresh, or end."""
    holding.core.tell(
        Diverged(
            at=now,
            guest_id=holding.core.settings.guest_id,
            epoch=holding.committed.epoch or 0,
            agreed=holding.committed.position,
            seen=difference.seen,
            pages=difference.pages,
            devices=difference.devices,
            reason=difference.reason,
        )
    )
    holding.leave(f"diverged: {difference.reason}", now)
    holding.core.end_role(RoleEvent.DIVERGED, difference.reason)
    if holding.core.settings.ends_diverged:
        holding.core.fail(
            GuestError(
                f"this backup's guest diverged from its primary's between {holding.committed.position} and "
                f"{difference.seen}: {difference.reason}; it was told to end rather than to join afresh"
            )
        )


def take_measured(holding: Holding, now: Nanos) -> None:
    """Stand by only if the memory here is what was handed over: a page that no capture saw would stay wrong."""
    final = holding.switchover.final if holding.switchover is not None else None
    found = holding.committed.memory.memory_digest
    if final is not None and found != final.memory_digest:  # rule: handed_over_memory_compared
        reason = f"the memory digest is {found:032x} here, {final.memory_digest:032x} was handed over"
        take_diverged(holding, Difference(reason=reason), now)
