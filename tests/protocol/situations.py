"""Situations that several tests of the pair bring about by hand."""

from ftvm.config import Timing
from ftvm.encode.messages import Envelope, Leave
from ftvm.interfaces import Lane, Read, Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import TICK
from ftvm.protocol.session import Switchover
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.protocol.stop import StopKind
from ftvm.units import Nanos

from .harness import MS, Host, Pair

BACKUP_LIMIT_MS = Timing().backup_limit_ns / MS
PRIMARY_LIMIT_MS = Timing().primary_limit_ns / MS
SWITCHOVER_LIMIT = Nanos(5_000 * MS)
"""How long a switchover may take before it is called off."""


def silence(pair: Pair, milliseconds: float = BACKUP_LIMIT_MS) -> None:
    """Let b live on while nothing from a arrives, up to the moment before it would be asked to act."""
    for _ in range(int(milliseconds / 5) - 1):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer()


def take_over(pair: Pair) -> None:
    """Have b take over from a, of which nothing is heard any more."""
    for _ in range(1000):
        if pair.b.role is Role.ACTIVE:
            return
        silence(pair, 10)
    raise AssertionError("b does not take over")


def claiming(pair: Pair) -> None:
    """Bring b to have proposed its TAKE, unanswered."""
    for _ in range(1000):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.standby.claim.state is ClaimState.CLAIMING:
            break
        if isinstance(pair.b.outstanding, Read):
            pair.b.answer()
    pair.b.tick()


def alone(pair: Pair, milliseconds: float) -> None:
    """Let a live on while nothing from b arrives; requests to the arbiter stay unanswered."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        pair.a.tick()
        if isinstance(pair.a.outstanding, Read):
            pair.a.answer()
        pair.a.tick()


def hint_of(pair: Pair, *, generation: int) -> None:
    """Have b say that a generation is in force of which the arbiter knows nothing."""
    standby = pair.b.standby
    pair.a.emit(b"x")
    known = standby.core.arbiter.known
    standby.core.arbiter.known = Record(generation, "b1", None)
    standby.owes_ack = True
    pair.b.give(TICK)
    standby.core.arbiter.known = known
    pair.b.perform()
    pair.carry(pair.b, pair.a)


def acknowledge_one_epoch(pair: Pair) -> None:
    """Let b commit and acknowledge the epoch that holds all outputs, without the arbiter answering."""
    for _ in range(10):
        pair.elapse(5)
        session = pair.a.active.session
        assert session is not None
        pair.a.give(TICK)
        pair.a.perform()
        pair.carry(pair.a, pair.b)
        pair.b.tick()
        pair.carry(pair.b, pair.a)


def envelope(pair: Pair) -> Envelope:
    """Return an envelope as a would send it."""
    pair.a.core.send("b", Lane.CONTROL, Leave(reason=""), None)
    pair.a.perform()
    return pair.a.sent.pop().envelope


def begin_switchover(pair: Pair, limit_ns: Nanos = SWITCHOVER_LIMIT) -> Switchover:
    """Ask a to hand the guest over to b."""
    switchover = pair.a.replica.begin_switchover(limit_ns, pair.now)
    pair.a.perform()
    return switchover


def switching(pair: Pair) -> Switchover:
    """Bring the pair to where a has proposed the SWITCH and nobody has answered."""
    switchover = begin_switchover(pair)
    pair.until(lambda: pair.a.active.link is LinkState.SWITCHING)
    pair.a.tick()
    return switchover


def switched(pair: Pair) -> Pair:
    """Bring the guest from a to b."""
    begin_switchover(pair)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    return pair


def live_on(pair: Pair, host: Host, milliseconds: float) -> None:
    """Let one host live on while nothing from the other arrives."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        host.tick()
        if host.outstanding is not None:
            host.answer()


def stop(host: Host, kind: StopKind = StopKind.ASKED) -> None:
    host.stop(kind, "a test")
    host.perform()


def outcome(host: Host) -> tuple[bool, bool]:
    """Whether the stop of a host is over, and whether it is in order."""
    stopping = host.core.stop
    assert stopping is not None
    return stopping.is_over, stopping.is_in_order


def said(host: Host) -> str:
    """What came of the stop of a host, in words."""
    stopping = host.core.stop
    assert stopping is not None
    return str(stopping.outcome)


IN_ORDER = (True, True)
NOT_IN_ORDER = (True, False)
UNDER_WAY = (False, False)


def live_without_arbiter(pair: Pair, host: Host, milliseconds: float) -> None:
    """Let a host live for a while; what it says is lost, and the arbiter does not answer."""
    for _ in range(int(milliseconds // 5)):
        pair.elapse(5)
        host.tick()
        host.sent.clear()
        if host.outstanding is not None:
            host.answer(is_lost=True, is_applied=False)


def live_while_b_has_no_arbiter(pair: Pair, milliseconds: float) -> None:
    """Let both live on, and hear each other, while no request of b to the arbiter is answered."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer(is_lost=host is pair.b, is_applied=host is pair.a)
            pair.carry(host, other)
