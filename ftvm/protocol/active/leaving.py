"""How an active and its standby part: one leaves, falls silent, or breaks the protocol (docs/protocol.md, "DROP").

A standby that the record names is dropped by proposal, and its hold on the outputs ends only when that is in force; one
that the guest may not run without is waited for instead, and the guest is paused.

How an active stops in order (stop.py has the terms, and what is kept), by the link's table (link.py):

    PROTECTED --a switchover is asked for, as ever--> ... --> SWITCHING --SWITCH in force--> the standby's way
        |
        +--it was called off, or the guest cannot run--> LEAVING --TAKE in force--> deposed: the guest goes on there
                                                            |
    NONE ---------------------------------------------------+--VACATE proposed--> VACATING --in force--> over

An open proposal is waited for: after an ADD the guest is handed to the standby that it named; after a DROP the record
is vacated. VACATE is one step from (g, X, any) to (g+1, none, none). From LEAVING it comes only after a fresh read, and
after the standby has had its time: it then cannot, or would not, take the guest. If the arbiter is silent, the record
stays as it is: the standby takes over when the arbiter answers, and this host says so. If the guest has failed, the
standby has all that is left of it, and is never given up: a DROP that was not sent yet is taken back.

If the guest has ended for good, the record that VACATE leaves says so: a standby that was stopped or cut off, and did
not hear the goodbye, ends when it reads that.

From LEAVING on the guest stands still. What was acknowledged may still be released, as by any active that is late.
"""

from ftvm.encode.messages import Leave
from ftvm.events import Halted, SessionEnded
from ftvm.interfaces import Lane
from ftvm.protocol.active import handover
from ftvm.protocol.active.active_state import ActiveState
from ftvm.protocol.active.link import NAMED, LinkEvent, LinkState
from ftvm.protocol.effects import EndSession, Forget, Use
from ftvm.protocol.record import drop, end_of
from ftvm.protocol.session import Contact, Session, batches_of
from ftvm.protocol.stop import HAND_OVER_NS, TAKE_NS, StopKind, Stopping
from ftvm.units import Nanos

__all__ = ["go_on_stopping", "leave", "lose", "tell_halted", "wait_for"]


def leave(active: ActiveState, reason: str, now: Nanos) -> None:
    """End the session, if there is one, and say why."""
    if active.session is not None:
        active.core.send(active.session.peer, Lane.CONTROL, Leave(reason=reason), active.session.id)
    lose(active, reason, now)


def lose(active: ActiveState, reason: str, now: Nanos) -> None:
    """Go on without the standby: at once if the record does not name it, else as soon as a DROP is in force."""
    session = active.session
    if session is None or session.is_lost or active.link in (LinkState.SWITCHING, LinkState.VACATING):
        return
    has_answered, session.contact = session.has_answered, Contact.LOST
    handover.end(active, reason, now)
    if has_answered:
        # One that never answered may never have heard its welcome: its id was not in use yet, and may join again.
        active.core.retired.append(session.standby)
    else:
        active.backoff.strike(session.key or session.peer, now)
    if session.is_cached:
        active.core.uncached.append(session.key or session.peer)
    active.plan = None
    active.unshipped.clear()
    active.core.tell(SessionEnded(at=now, guest_id=active.core.settings.guest_id, reason=reason))
    active.core.do(Forget(batches_of(session.outbox.clear())))
    active.core.do(EndSession())
    halts = active.core.settings.halts_alone and active.link in NAMED
    active.move(LinkEvent.HALTED if halts else LinkEvent.LOST)
    active.tell_engine(active.schedule.engine, now)
    if active.schedule.wanted is not None:
        active.core.do(Use(active.schedule.wanted))  # there is no checkpoint any more that could carry it
    if active.link is LinkState.NONE:
        active.session, active.is_waiting = None, False
        tell_halted(active, reason, now)
        active.release()
    elif active.link is LinkState.DROPPING:
        active.core.arbiter.propose(drop(active.core.arbiter.known, active.core.id))


def wait_for(active: ActiveState, session: Session, now: Nanos) -> None:
    """Pause the guest while the standby is silent: it may be heard again, and continue where it was."""
    if active.link is not LinkState.PROTECTED:
        handover.call_off(active, "the standby is silent", now)
    if not active.is_waiting:
        active.is_waiting = True
        silence = f"the standby was silent for {session.detector.silence_ns(now) / 1e6:.0f} ms"
        tell_halted(active, session.detector.reason("the standby", now) or silence, now)


def tell_halted(active: ActiveState, reason: str, now: Nanos) -> None:
    """Tell that the guest stands still, if it does."""
    if active.is_halted:
        active.core.tell(Halted(at=now, guest_id=active.core.settings.guest_id, reason=reason))


def go_on_stopping(active: ActiveState, stop: Stopping, now: Nanos) -> None:
    """Continue the stop of the host where the guest runs."""
    for _ in LinkState:
        before = active.link
        _move_on(active, stop, now)
        if active.link is before:
            break
    session = active.session
    is_told = active.link is LinkState.LEAVING or (active.link is LinkState.VACATING and stop.kind is StopKind.ENDED)
    if is_told and session is not None and stop.speaks_again(now, active.core.settings.timing.heartbeat_ns):
        leave = Leave(reason=stop.reason, is_end=stop.kind is StopKind.ENDED)
        active.core.send(session.peer, Lane.CONTROL, leave, session.id)
        active.core.arbiter.want_read()
    if now >= stop.ends_at:  # rule: open_proposal_awaited
        stop.end(_why_not(active), is_in_order=False)


def _move_on(active: ActiveState, stop: Stopping, now: Nanos) -> None:
    match active.link:
        case LinkState.NONE if active.unsynced is None and not _may_be_taken(active, stop, now):
            _vacate(active, stop)
        case LinkState.COPYING | LinkState.CATCHING_UP:
            leave(active, stop.reason, now)
        case LinkState.PROTECTED if stop.kind is StopKind.ENDED:  # rule: standby_goes_on
            _vacate(active, stop)
        case LinkState.PROTECTED if stop.kind is StopKind.ASKED and not stop.has_tried:
            stop.has_tried = True
            handover.begin(active, HAND_OVER_NS, now)
        case LinkState.PROTECTED:
            _ask_to_take(active, stop, now)
        # rule: unsent_drop_withdrawn
        case LinkState.DROPPING if _may_go_on(active, stop) and active.core.arbiter.withdraw_unsent():
            _ask_to_take(
                active, stop, now
            )  # it fell silent in the very step in which the guest was found to have failed
        case LinkState.SETTLING | LinkState.HANDING if stop.kind is not StopKind.ASKED:
            handover.call_off(active, stop.reason, now)
        case LinkState.LEAVING if _has_had_its_time(active, stop, now):
            _vacate(active, stop)
        case _:
            pass  # a switchover under way, or a proposal: only the arbiter's word ends that


def _may_go_on(active: ActiveState, stop: Stopping) -> bool:
    """Whether the standby that was lost is all that is left of the guest, and may live."""
    return stop.kind is StopKind.FAILED and active.session is not None and not active.session.has_left


def _ask_to_take(active: ActiveState, stop: Stopping, now: Nanos) -> None:
    active.move(LinkEvent.LEFT)
    stop.left_at, stop.fresh_at = now, active.core.arbiter.want_read()


def _vacate(active: ActiveState, stop: Stopping) -> None:
    if active.core.arbiter.proposal is None:  # rule: vacated_before_it_goes
        active.move(LinkEvent.VACATED)
        is_ended = stop.kind is StopKind.ENDED  # rule: only_an_end_is_marked
        active.core.arbiter.propose(end_of(active.core.arbiter.known, active.core.id, is_ended=is_ended))


def _may_be_taken(active: ActiveState, stop: Stopping, now: Nanos) -> bool:
    """Whether the record still names a standby that is out of touch, as under `halt`: it may come back and take."""
    if active.core.arbiter.known.standby is None or stop.kind is StopKind.ENDED:
        return False
    return stop.kind is StopKind.FAILED or now < stop.began_at + TAKE_NS


def _has_had_its_time(active: ActiveState, stop: Stopping, now: Nanos) -> bool:
    """Whether the standby had time to take over, and the arbiter has answered since: then nothing else can come."""
    if stop.kind is StopKind.FAILED or stop.left_at is None or now < stop.left_at + TAKE_NS:
        return False
    return active.core.arbiter.reads >= stop.fresh_at and active.core.arbiter.error is None


def _why_not(active: ActiveState) -> str:
    core = active.core
    if active.link is LinkState.LEAVING and core.arbiter.error is None:
        return f"the standby has not taken over yet, and may still do so; {core.naming()}"
    if active.link is LinkState.LEAVING:
        return f"{core.arbiter_silence()}: the standby cannot take over until it does; {core.naming()}"
    return f"a change of the record may still take effect: {core.arbiter_silence()}; {core.naming()}"
