"""What becomes of all that was meant for a standby, when it is lost."""

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.encode.messages import EpochPart, Log
from ftvm.engines.remus import Remus
from ftvm.events import PeerMisbehaved, SessionEnded
from ftvm.logtable import LogTable
from ftvm.protocol import effects as do
from ftvm.protocol.active import leaving
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.reports import Emitted

from ..harness import Pair, make_settings


def test_what_was_logged_for_a_standby_that_is_lost_is_not_sent_to_the_next() -> None:
    """Mutant: it is kept, and the next standby refuses the copy: a log came before there was a state to go on from."""
    settings = make_settings()
    pair = Pair(settings).protected()
    record = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(7, 0), channel="net0", payload=b"typed")
    pair.a.give(Emitted(log=LogTable.of((record,))))
    was_waiting = list(pair.a.active.unshipped)

    leaving.leave(pair.a.active, "a test", pair.now)
    pair.a.perform()
    pair.a.sent.clear()
    pair.b = pair.boot("b", settings, "a", starts=False, prefix="n")
    pair.until(lambda: pair.a.active.link is LinkState.COPYING)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert [list(table) for table in was_waiting] == [[record]]
    assert not pair.b.told(PeerMisbehaved)
    assert not pair.a.waiting(Log)
    assert len(pair.a.told(SessionEnded)) == 1


def test_the_pages_that_were_on_their_way_to_a_standby_that_is_lost_are_given_back() -> None:
    """Mutant: each standby that is lost keeps some buffers for ever."""
    pair = Pair().protected()
    pair.until(lambda: pair.a.waiting(EpochPart))
    under_way = [part.batch for part in pair.a.waiting(EpochPart) if part.batch is not None]

    performed = len(pair.a.performed)
    leaving.leave(pair.a.active, "a test", pair.now)
    pair.a.perform()

    effects = pair.a.performed[performed:]
    given_back = [batch for effect in effects if isinstance(effect, do.Forget) for batch in effect.batches]
    assert under_way
    assert given_back == under_way


def test_an_engine_that_waits_for_a_checkpoint_is_in_force_at_once_when_the_standby_is_lost() -> None:
    """Mutant: nothing is cut any more that could bring it, and it waits for the next standby."""
    pair = Pair().protected()
    wanted = Remus(interval=0.5)
    pair.a.replica.set_engine(wanted)
    before = pair.a.active.schedule.engine

    leaving.leave(pair.a.active, "a test", pair.now)
    pair.a.perform()

    assert before != wanted
    assert pair.a.active.schedule.engine == wanted
    assert pair.a.active.schedule.wanted is None
