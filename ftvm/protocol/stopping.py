"""What each role does once its host was asked to stop (stop.py has the terms, and what is kept).

The active's way through the link's table (link.py):

    PROTECTED --a switchover is asked for, as ever--> ... --> SWITCHING --SWITCH in force--> the standby's way
        |
        +--it was called off, or the guest cannot run--> LEAVING --TAKE in force--> deposed: the guest goes on there
                                                            |
    NONE ---------------------------------------------------+--VACATE proposed--> VACATING --in force--> over

What is proposed is waited for: an ADD, then the guest is handed to whom it named; a DROP, then the record is vacated.
VACATE is one step from (g, X, any) to (g+1, none, none). From LEAVING it comes only after a fresh read, and after the
standby has had its time: it then cannot, or would not, take the guest. A silent arbiter leaves the record as it is: the
standby takes over when that answers, and this host says so. Where the guest has failed, what the standby has is all
that is left of it, and is never given up: a DROP that was not sent yet is taken back.

From LEAVING on the guest stands still. What was acknowledged may still be released, as by any active that is late.
"""

from typing import Final

from ftvm.encode.messages import Leave
from ftvm.interfaces import Lane
from ftvm.protocol import claiming, handing, parting
from ftvm.protocol.bond import Bond
from ftvm.protocol.core import Core
from ftvm.protocol.holding import Holding
from ftvm.protocol.link import LinkEvent, LinkState
from ftvm.protocol.record import end_of, force_command
from ftvm.protocol.stop import HAND_OVER_NS, TAKE_NS, StopKind, Stopping
from ftvm.protocol.takeover import ClaimState
from ftvm.units import Nanos

__all__ = ["go_on_active", "go_on_empty", "go_on_standby", "take_goodbye"]

GOODBYE_LIMITS: Final = 4
"""A standby waits for so many of its limits of silence for the answer to its goodbye."""


def go_on_active(bond: Bond, stop: Stopping, now: Nanos) -> None:
    """Go on with the stop of the host where the guest runs."""
    for _ in LinkState:
        before = bond.link
        _move_on(bond, stop, now)
        if bond.link is before:
            break
    session = bond.session
    is_told = bond.link is LinkState.LEAVING or (bond.link is LinkState.VACATING and stop.kind is StopKind.ENDED)
    if is_told and session is not None and _is_due(bond.core, stop, now):
        leave = Leave(reason=stop.reason, is_end=stop.kind is StopKind.ENDED)
        bond.core.send(session.peer, Lane.CONTROL, leave, session.id)
        bond.core.arbiter.want_read()
    if now >= stop.ends_at:  # rule: open_proposal_awaited
        stop.end(_why_not(bond), is_in_order=False)


def _move_on(bond: Bond, stop: Stopping, now: Nanos) -> None:
    match bond.link:
        case LinkState.NONE if not _may_be_taken(bond, stop, now):
            _vacate(bond)
        case LinkState.COPYING | LinkState.CATCHING_UP:
            parting.leave(bond, stop.reason, now)
        case LinkState.PROTECTED if stop.kind is StopKind.ENDED:  # rule: standby_goes_on
            _vacate(bond)
        case LinkState.PROTECTED if stop.kind is StopKind.ASKED and not stop.has_tried:
            stop.has_tried = True
            handing.begin(bond, HAND_OVER_NS, now)
        case LinkState.PROTECTED:
            _leave(bond, stop, now)
        # rule: unsent_drop_withdrawn
        case LinkState.DROPPING if _may_go_on(bond, stop) and bond.core.arbiter.withdraw_unsent():
            _leave(bond, stop, now)  # it fell silent in the very step in which the guest was found to have failed
        case LinkState.SETTLING | LinkState.HANDING if stop.kind is not StopKind.ASKED:
            handing.call_off(bond, stop.reason, now)
        case LinkState.LEAVING if _has_had_its_time(bond, stop, now):
            _vacate(bond)
        case _:
            pass  # a switchover under way, or a proposal: only the arbiter's word ends that


def go_on_standby(holding: Holding, stop: Stopping, now: Nanos) -> None:
    """Go on with the stop of a host that syncs or stands by.

    A claim is called off if it may be, and else waited for; so is a SWITCH that may be proposed, until the record or
    the active says what became of it.
    """
    claim, core = holding.claim, holding.core
    if claim.state is ClaimState.CHECKING:
        claiming.call_off(holding, now)
    if not claim.is_watching or holding.is_named_active:
        is_late = now >= stop.ends_at
    else:
        if _is_due(core, stop, now):
            stop.left_at = now if stop.left_at is None else stop.left_at
            holding.say_goodbye(stop.reason)
            core.arbiter.want_read()
        wait_ns = GOODBYE_LIMITS * core.settings.timing.backup_limit_ns  # rule: goodbye_answered
        # rule: prepared_standby_stays
        may_be_active = claim.state is ClaimState.PREPARED or holding.switchover is not None
        is_done_waiting = not may_be_active and stop.left_at is not None and now >= stop.left_at + wait_ns
        is_late = is_done_waiting or now >= stop.ends_at
    if is_late:
        is_named = core.id in (core.arbiter.known.active, core.arbiter.known.standby)
        why = _naming(core) if is_named else "the active host has not answered its goodbye"
        if core.arbiter.proposal is not None:
            why = f"this host has asked to run the guest, and may still get it: {_silence_of(core)}; {_naming(core)}"
        stop.end(why, is_in_order=not is_named and core.arbiter.proposal is None)


def take_goodbye(holding: Holding, stop: Stopping) -> None:
    """Take the active's LEAVE: the answer to ours, or its own; it may wait for ours, and is told once more."""
    if holding.claim.is_watching:
        holding.say_goodbye(stop.reason)
        stop.end(f"the other host knows of it; {_where_the_guest_is(holding.core)}", is_in_order=True)


def go_on_empty(core: Core, stop: Stopping, now: Nanos) -> None:
    """Go once nothing is proposed."""
    if core.arbiter.proposal is None:
        stop.end(_where_the_guest_is(core), is_in_order=True)
    elif now >= stop.ends_at:
        stop.end(f"it has asked to start the guest, and may still get it: {_silence_of(core)}", is_in_order=False)


def _may_go_on(bond: Bond, stop: Stopping) -> bool:
    """Whether the standby that was lost is all that is left of the guest, and may live."""
    return stop.kind is StopKind.FAILED and bond.session is not None and not bond.session.has_left


def _leave(bond: Bond, stop: Stopping, now: Nanos) -> None:
    bond.move(LinkEvent.LEFT)
    stop.left_at, stop.fresh_at = now, bond.core.arbiter.want_read()


def _vacate(bond: Bond) -> None:
    if bond.core.arbiter.proposal is None:  # rule: vacated_before_it_goes
        bond.move(LinkEvent.VACATED)
        bond.core.arbiter.propose(end_of(bond.core.arbiter.known, bond.core.id))


def _may_be_taken(bond: Bond, stop: Stopping, now: Nanos) -> bool:
    """Whether the record still names a standby that is out of touch, as under `halt`: it may come back and take."""
    if bond.core.arbiter.known.standby is None or stop.kind is StopKind.ENDED:
        return False
    return stop.kind is StopKind.FAILED or now < stop.began_at + TAKE_NS


def _has_had_its_time(bond: Bond, stop: Stopping, now: Nanos) -> bool:
    """Whether the standby had time to take over, and the arbiter has answered since: then nothing else can come."""
    if stop.kind is StopKind.FAILED or stop.left_at is None or now < stop.left_at + TAKE_NS:
        return False
    return bond.core.arbiter.reads >= stop.fresh_at and bond.core.arbiter.error is None


def _is_due(core: Core, stop: Stopping, now: Nanos) -> bool:
    if stop.tell_at is not None and now < stop.tell_at:
        return False
    stop.tell_at = Nanos(now + core.settings.timing.heartbeat_ns)
    return True


def _why_not(bond: Bond) -> str:
    core = bond.core
    if bond.link is LinkState.LEAVING and core.arbiter.error is None:
        return f"the standby has not taken over yet, and may still do so; {_naming(core)}"
    if bond.link is LinkState.LEAVING:
        return f"{_silence_of(core)}: the standby cannot take over until it does; {_naming(core)}"
    return f"a change of the record may still take effect: {_silence_of(core)}; {_naming(core)}"


def _naming(core: Core) -> str:
    known = core.arbiter.known
    return (
        f"the record still names this host (generation {known.generation}, active {known.active or 'none'}, standby "
        f"{known.standby or 'none'}). If no host runs the guest any more, run "
        f"{force_command(core.settings.guest_id)}"
    )


def _where_the_guest_is(core: Core) -> str:
    """Say what is known of the record, and no more: a host that only asked to join may never have read it."""
    known = core.arbiter.known
    if known.active is not None:
        return f"the record names the other host active: {known.active} (generation {known.generation})"
    if known.generation > 0:
        return f"the record is vacant (generation {known.generation})"
    return "the arbiter has no record of the guest" if core.arbiter.reads > 0 else "this host had no part in the guest"


def _silence_of(core: Core) -> str:
    return f"the arbiter has not answered ({core.arbiter.error or 'it is slow'})"
