"""Ten scenarios of a pair, each played by hand and written down. The docstring is the transcript's head."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ftvm.checkpoint import Geometry, GuestPosition, RegionShape
from ftvm.engines.lockstep import Lockstep
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.effects import Difference
from ftvm.protocol.stop import StopKind
from ftvm.units import Nanos, PageCount

from ..harness import MS, make_settings
from .recording import RecordedHost, RecordedPair

SWITCHOVER_LIMIT: Final = Nanos(5_000 * MS)
SMALLER: Final = Geometry(machine="test/1", regions=(RegionShape(name="ram", page_count=PageCount(4)),))


def protected(pair: RecordedPair) -> RecordedPair:
    """Bring a to be active and b to be its standby, and begin to write there."""
    pair.protected()
    pair.until(lambda: pair.b.core.arbiter.known == pair.store.record)
    pair.exchange()
    pair.forget()
    return pair


def until_alone(
    pair: RecordedPair, host: RecordedHost, is_true: Callable[[], object], *, is_answered: bool = True
) -> None:
    """Let one host live, of which nothing arrives and which hears nothing, until something is so."""
    for _ in range(1000):
        if is_true():
            return
        pair.elapse(5)
        host.tick()
        if host.outstanding is not None and is_answered:
            host.answer()
        host.lose()
    raise AssertionError("it does not come about")


def join() -> RecordedPair:
    """Host a starts where there is no record, and host b joins it."""
    pair = RecordedPair()
    pair.protected()
    pair.record()
    return pair


def epoch() -> RecordedPair:
    """An output waits for the epoch that holds it, and leaves when that is committed."""
    pair = protected(RecordedPair())
    pair.a.emit(b"one", b"two")
    pair.until(lambda: pair.a.said)
    return pair


def silence() -> RecordedPair:
    """The standby falls silent: the active drops it, and releases what it held only when that is in force."""
    pair = protected(RecordedPair())
    pair.act("nothing reaches b any more, and nothing from it arrives")
    pair.a.emit(b"held")
    until_alone(pair, pair.a, lambda: pair.a.said)
    pair.record()
    return pair


def takeover() -> RecordedPair:
    """The active dies with an epoch committed and an output unreleased: the standby takes over and releases it."""
    pair = protected(RecordedPair())
    pair.a.emit(b"one")
    pair.until(lambda: pair.b.standby.committed.outputs)
    pair.act("a dies before the acknowledgement reaches it")
    pair.b.lose()
    until_alone(pair, pair.b, lambda: pair.b.said)
    pair.record()
    return pair


def handover() -> RecordedPair:
    """An operator hands the guest over: the active becomes the standby of who was its standby."""
    pair = protected(RecordedPair())
    pair.a.emit(b"one")
    pair.act("an operator asks a to switch over")
    switchover = pair.a.replica.begin_switchover(SWITCHOVER_LIMIT, pair.now)
    pair.a.perform()
    pair.until(lambda: switchover.is_over and pair.b.active.link is LinkState.PROTECTED)
    pair.record()
    return pair


def divergence() -> RecordedPair:
    """Under lockstep the standby's guest comes to another state: it is discarded, and the host joins afresh."""
    lockstep = Lockstep(interval=0.02)
    settings = replace(make_settings(engines=("lockstep",)), engine=lockstep, engines={"lockstep": lockstep})
    pair = protected(RecordedPair(settings))
    agreed = pair.b.standby.committed.epoch or 0
    session = pair.a.active.session
    assert session is not None
    pair.until(lambda: session.acked.epoch > agreed)
    pair.act("the guest on b is to differ at the next mark")
    pair.b.difference = Difference(seen=GuestPosition(7, 0), pages=(3,), reason="page 3 of ram differs")
    pair.until(lambda: pair.b.role is Role.EMPTY)
    pair.b.difference = None
    pair.until(lambda: pair.b.role is Role.STANDBY and pair.store.record.standby == pair.b.id)
    pair.record()
    return pair


def halt() -> RecordedPair:
    """Where the guest may not run alone it stands still when the standby is lost, until another one has come."""
    settings = make_settings(halts_alone=True)
    pair = protected(RecordedPair(settings))
    pair.act("b dies")
    pair.a.emit(b"held")
    until_alone(pair, pair.a, lambda: pair.a.active.must_stand_still())
    pair.act("b starts again, with nothing")
    pair.boot_b_again(settings)
    pair.until(lambda: pair.a.said)
    pair.record()
    return pair


def refusal() -> RecordedPair:
    """A host whose guest has another shape asks to join: it is refused for good, and says why."""
    pair = RecordedPair(other=make_settings(geometry=SMALLER))
    pair.started()
    pair.forget()
    pair.until(lambda: pair.b.failures)
    pair.record()
    return pair


def leave() -> RecordedPair:
    """The standby is stopped in order: it says goodbye, and the active goes on without it."""
    pair = protected(RecordedPair())
    pair.a.emit(b"held")
    pair.act("an operator stops b")
    stopping = pair.b.stop(StopKind.ASKED, "stopped by an operator")
    pair.b.perform()
    pair.until(lambda: stopping.is_over and pair.a.said)
    pair.record()
    return pair


def arbiter_lost() -> RecordedPair:
    """The arbiter is gone: the pair goes on; when the standby falls silent, too, outputs wait for the arbiter."""
    pair = protected(RecordedPair())
    pair.act("the arbiter answers nobody")
    pair.a.emit(b"one")
    pair.until(lambda: pair.a.said)
    pair.act("nothing reaches b any more, and nothing from it arrives")
    pair.a.emit(b"held")
    until_alone(pair, pair.a, lambda: pair.a.outstanding, is_answered=False)
    pair.a.answer(is_lost=True, is_applied=False)
    until_alone(pair, pair.a, lambda: pair.a.outstanding, is_answered=False)
    pair.act("the arbiter answers again")
    pair.a.answer()
    pair.record()
    return pair


SCENARIOS: Final[dict[str, Callable[[], RecordedPair]]] = {
    "join": join,
    "epoch": epoch,
    "silence": silence,
    "takeover": takeover,
    "handover": handover,
    "divergence": divergence,
    "halt": halt,
    "refusal": refusal,
    "leave": leave,
    "arbiter-lost": arbiter_lost,
}


def transcript(name: str) -> str:
    """Play a scenario and return its transcript."""
    play = SCENARIOS[name]
    return "\n".join([f"# {play.__doc__}", "", *play().lines, ""])
