"""What an active logs and has not shipped yet when its standby is lost."""

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.encode.messages import Log
from ftvm.events import PeerMisbehaved, SessionEnded
from ftvm.protocol.active import leaving
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.reports import Emitted

from ..harness import Pair, make_settings


def test_what_was_logged_for_a_standby_that_is_lost_is_not_sent_to_the_next() -> None:
    """Mutant: it is kept, and the next standby refuses the copy: a log came before there was a state to go on from."""
    settings = make_settings()
    pair = Pair(settings).protected()
    record = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(7, 0), channel="net0", payload=b"typed")
    pair.a.give(Emitted(log=(record,), outputs=[]))
    was_waiting = list(pair.a.active.unshipped)

    leaving.leave(pair.a.active, "a test", pair.now)
    pair.a.perform()
    pair.a.sent.clear()
    pair.b = pair.boot("b", settings, "a", starts=False, prefix="n")
    pair.until(lambda: pair.a.active.link is LinkState.COPYING)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert was_waiting == [record]
    assert not pair.b.told(PeerMisbehaved)
    assert not pair.a.waiting(Log)
    assert len(pair.a.told(SessionEnded)) == 1
