"""The active's side of a planned switchover: settle, hand the last epoch over, propose (docs/protocol.md, "SWITCH").

session.py says in which steps, and what is known of one that is under way. The link's table (link.py) says where it may
begin and be called off; once it is proposed, only the arbiter ends it: by the record, or by the certainty that the
proposal has no effect (`withdraw`).

PREPARE and PREPARED bring the standby along (docs/wire.md, "Messages"): with epoch 0 the standby warms up its
shadow while the guest runs, and says so, or that its arbiter is silent; with the epoch that the guest stands still at
it loads that, and says so or why not. Each PREPARE is repeated with every heartbeat.
"""

from typing import Final

from ftvm.encode.messages import Ping, Prepare, Prepared
from ftvm.errors import LocalProtocolError
from ftvm.events import SwitchFailed
from ftvm.interfaces import Lane
from ftvm.protocol.active.active_state import ActiveState
from ftvm.protocol.active.link import ENDING, LINKS, LinkEvent, LinkState
from ftvm.protocol.core import RoleEvent
from ftvm.protocol.effects import Forget
from ftvm.protocol.record import switch
from ftvm.protocol.session import Session, Switchover, batches_of
from ftvm.units import Nanos

__all__ = ["begin", "call_off", "end", "end_deposed", "finish", "go_on", "take_prepared", "withdraw"]

_OBSTACLES: Final = {
    LinkState.NONE: "no standby is connected: start one with `ftvm standby`",
    LinkState.ABANDONING: "the standby is lost: wait until another has joined",
    LinkState.DROPPING: "the standby is lost: wait until another has joined",
    **dict.fromkeys((LinkState.SETTLING, LinkState.HANDING, LinkState.SWITCHING), "a switchover is under way already"),
    **dict.fromkeys(ENDING, "this host is stopping"),
}
"""Why there can be no switchover, for the operator who asked for one."""


def begin(active: ActiveState, limit_ns: Nanos, now: Nanos) -> Switchover:
    """Start to hand the guest over to the standby; call it off if that takes longer than `limit_ns`.

    Raises LocalProtocolError if there is no standby to hand it to; the guest then runs on.
    """
    if (active.link, LinkEvent.ASKED) not in LINKS:
        raise LocalProtocolError(f"cannot switch over: {_OBSTACLES.get(active.link, 'the standby is still joining')}")
    active.move(LinkEvent.ASKED)
    active.switchover = Switchover(
        asked_at=now,
        fresh_at=active.core.arbiter.want_read(),
        warm_epoch=active.epoch + 1 + active.schedule.is_cutting,
        ends_at=Nanos(now + limit_ns),
    )
    return active.switchover


def go_on(active: ActiveState, now: Nanos) -> None:
    """Continue a switchover, if one is under way, as far as possible now."""
    switchover, session = active.switchover, active.session
    if switchover is None or session is None:
        return
    # rule: proposed_switch_stays
    if active.link in (LinkState.SETTLING, LinkState.HANDING) and now >= switchover.ends_at:
        call_off(active, f"it took too long: {_what_is_missing(active, switchover)}", now)
    elif active.link is LinkState.SETTLING and _has_settled(active, switchover, session):
        active.move(LinkEvent.SETTLED)
        switchover.pause(now, active.core.settings.timing.primary_limit_ns)
        active.cut(now)
        switchover.prepare_at = None
    elif active.link is LinkState.SETTLING and not switchover.is_warm:
        _ask_to_prepare(active, switchover, session, 0, now)
    elif active.link is LinkState.HANDING and _is_handed(active, switchover, session):
        _ask_to_prepare(active, switchover, session, session.acked.epoch, now)


def take_prepared(active: ActiveState, prepared: Prepared, now: Nanos) -> None:
    """Propose, once the standby has loaded what the guest stands still at.

    The epoch belongs to this session and this attempt alone, so no older message can be mistaken for it.
    """
    switchover = active.switchover
    if switchover is not None and active.link is LinkState.SETTLING and prepared.epoch == 0:
        if prepared.error:
            call_off(active, f"the standby cannot run the guest: {prepared.error}", now)
            return
        switchover.is_warm = True
        switchover.prepare_at = None
    if active.link is not LinkState.HANDING or switchover is None or switchover.final is None:
        return
    if prepared.epoch != switchover.final.epoch:
        return
    if prepared.error:
        call_off(active, f"the standby cannot run the guest: {prepared.error}", now)
    elif active.core.arbiter.proposal is None:
        active.move(LinkEvent.READY)
        active.core.arbiter.propose(switch(active.core.arbiter.known, active.core.id))


def call_off(active: ActiveState, reason: str, now: Nanos) -> None:
    """Go on here: nothing was proposed."""
    active.move(LinkEvent.CALLED_OFF)  # rule: call_off_by_the_table
    end(active, reason, now)


def withdraw(active: ActiveState, now: Nanos) -> None:
    """Go on here if the SWITCH cannot be in force: the arbiter answers, but cannot be written just now.

    Settling has only shown that it can be read, and the guest must not be paused for what nobody can decide.
    """
    if active.link is LinkState.SWITCHING and active.core.arbiter.withdraw():
        active.move(LinkEvent.WITHDRAWN)
        end(active, f"the record was certainly not changed: {active.core.arbiter.error}", now)


def end(active: ActiveState, reason: str, now: Nanos) -> None:
    """Note that a switchover, if one was under way, has failed, and tell."""
    if active.switchover is not None and not active.switchover.is_over:
        active.switchover.end(reason)
        guest_id, is_stopping = active.core.settings.guest_id, active.core.stop is not None
        active.core.tell(SwitchFailed(at=now, guest_id=guest_id, reason=reason, is_stopping=is_stopping))


def end_deposed(active: ActiveState, reason: str) -> None:
    """Note that the guest runs elsewhere: where it was to go, if its standby took it meanwhile by itself."""
    if active.switchover is not None:
        has_come = active.session is not None and active.core.arbiter.known.active == active.session.standby
        active.switchover.end(None if has_come else reason)


def finish(active: ActiveState, session: Session) -> None:
    """End the role: the SWITCH is in force, and the guest goes on at the standby."""
    known = active.core.arbiter.known
    active.move(LinkEvent.IN_FORCE)
    active.core.do(Forget(batches_of(session.outbox.clear())))
    # A last message in the old session: its record makes the standby read the new one at once.
    active.core.send(session.peer, Lane.CONTROL, Ping(number=session.ping_number), session.id)
    active.core.end_role(RoleEvent.SWITCHED_AWAY, f"switched over (generation {known.generation})")


def _ask_to_prepare(active: ActiveState, switchover: Switchover, session: Session, epoch: int, now: Nanos) -> None:
    if switchover.prepare_at is None or now >= switchover.prepare_at:
        switchover.prepare_at = Nanos(now + active.core.settings.timing.heartbeat_ns)
        active.core.send(session.peer, Lane.CONTROL, Prepare(epoch=epoch), session.id)


def _has_settled(active: ActiveState, switchover: Switchover, session: Session) -> bool:
    is_free = not active.schedule.is_cutting and session.rest_epoch is None
    has_room = is_free and len(session.in_flight) < active.core.settings.limits.epochs_in_flight
    is_warm = switchover.is_warm and session.acked.epoch >= switchover.warm_epoch
    return is_warm and has_room and active.core.arbiter.reads >= switchover.fresh_at


def _what_is_missing(active: ActiveState, switchover: Switchover) -> str:
    arbiter = active.core.arbiter
    if arbiter.reads < switchover.fresh_at:
        return f"the arbiter has not answered ({arbiter.error or 'nor failed'})"
    if not switchover.is_warm:
        return "the standby has not said that it is ready: run `ftvm status` there"
    if active.link is LinkState.SETTLING:
        return "the checkpoints under way have not been acknowledged"
    if active.unsynced is not None:
        return "this host's disks do not have yet what the guest has flushed"
    return "the standby has not loaded the last checkpoint"


def _is_handed(active: ActiveState, switchover: Switchover, session: Session) -> bool:
    """Tell whether the standby has all there is, and every output has left."""
    final = switchover.final
    is_durable = active.unsynced is None  # also here: this host is to be the standby
    return final is not None and session.acked.epoch == final.epoch and not active.outputs.held and is_durable
