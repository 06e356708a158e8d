"""How an active and its standby part: one leaves, falls silent, or breaks the protocol (docs/protocol.md, "DROP").

A standby that the record names is dropped by proposal, and its hold on the outputs ends only when that is in force; one
that may not be done without is waited for instead, and the guest stands still.
"""

from ftvm.encode.messages import Leave
from ftvm.events import Halted, SessionEnded
from ftvm.interfaces import Lane
from ftvm.protocol import handing
from ftvm.protocol.bond import Bond
from ftvm.protocol.effects import EndSession, Forget, Use
from ftvm.protocol.link import NAMED, LinkEvent, LinkState
from ftvm.protocol.record import drop
from ftvm.protocol.session import Contact, Session, batches_of
from ftvm.units import Nanos

__all__ = ["leave", "lose", "tell_halted", "wait_for"]


def leave(bond: Bond, reason: str, now: Nanos) -> None:
    """End the session, if there is one, and say why."""
    if bond.session is not None:
        bond.core.send(bond.session.peer, Lane.CONTROL, Leave(reason=reason), bond.session.id)
    lose(bond, reason, now)


def lose(bond: Bond, reason: str, now: Nanos) -> None:
    """Go on without the standby: at once if the record does not name it, else as soon as a DROP is in force."""
    session = bond.session
    if session is None or session.is_lost or bond.link in (LinkState.SWITCHING, LinkState.VACATING):
        return
    has_answered, session.contact = session.has_answered, Contact.LOST
    handing.end(bond, reason, now)
    if has_answered:
        # One that never answered may never have heard its welcome: its id was of no use yet, and may ask again.
        bond.core.retired.append(session.standby)
    else:
        bond.backoff.strike(session.key or session.peer, now)
    bond.plan = None
    bond.unshipped.clear()
    bond.core.tell(SessionEnded(at=now, guest_id=bond.core.settings.guest_id, reason=reason))
    bond.core.do(Forget(batches_of(session.outbox.clear())))
    bond.core.do(EndSession())
    halts = bond.core.settings.halts_alone and bond.link in NAMED
    bond.move(LinkEvent.HALTED if halts else LinkEvent.LOST)
    bond.tell_engine(bond.schedule.engine, now)
    if bond.schedule.wanted is not None:
        bond.core.do(Use(bond.schedule.wanted))  # there is no checkpoint any more that could carry it
    if bond.link is LinkState.NONE:
        bond.session, bond.is_waiting = None, False
        tell_halted(bond, reason, now)
        bond.release()
    elif bond.link is LinkState.DROPPING:
        bond.core.arbiter.propose(drop(bond.core.arbiter.known, bond.core.id))


def wait_for(bond: Bond, session: Session, now: Nanos) -> None:
    """Stand still beside a standby that is silent: it may be heard again, and go on where it was."""
    if bond.link is not LinkState.PROTECTED:
        handing.call_off(bond, "the standby is silent", now)
    if not bond.is_waiting:
        bond.is_waiting = True
        silence = f"the standby was silent for {session.detector.silence_ns(now) / 1e6:.0f} ms"
        tell_halted(bond, session.detector.reason("the standby", now) or silence, now)


def tell_halted(bond: Bond, reason: str, now: Nanos) -> None:
    """Tell that the guest stands still, if it does."""
    if bond.is_halted:
        bond.core.tell(Halted(at=now, guest_id=bond.core.settings.guest_id, reason=reason))
