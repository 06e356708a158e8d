"""What went wrong in the prototype before it was right (docs/protocol.md, "Mistakes made once"), each a test."""

from dataclasses import replace

import pytest

from ftvm.encode.messages import Ack, Ping, SessionId, Welcome
from ftvm.interfaces import Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import TICK

from .harness import Pair, make_settings
from .situations import (
    BACKUP_LIMIT_MS,
    PRIMARY_LIMIT_MS,
    alone,
    envelope,
    silence,
    take_over,
)


def test_prototype_1_a_deposed_active_does_not_overwrite_the_present_standby() -> None:
    """Woken, it answered an old join with its first copy."""
    pair = Pair().protected()
    take_over(pair)
    third = pair.boot("c", make_settings(), "b", starts=False)
    third.core.arbiter.known = pair.store.record
    welcome = Welcome(joiner=third.id, engines=("remus",), staging_bytes=1 << 20)
    envelope_of_old = replace(envelope(pair), session=SessionId(9, "a1", 2))

    third.hear("a", None, envelope_of_old, welcome)

    assert third.role is Role.EMPTY


def test_prototype_1_a_standby_in_session_takes_no_welcome_from_anybody() -> None:
    pair = Pair().protected()
    epoch = pair.b.standby.committed.epoch
    welcome = Welcome(joiner=pair.b.id, engines=("remus",), staging_bytes=1 << 20)

    pair.b.hear("a", None, replace(envelope(pair), session=SessionId(9, "a1", 2)), welcome)

    assert pair.b.role is Role.STANDBY
    assert pair.b.standby.committed.epoch == epoch


def test_prototype_2_acknowledgements_of_an_earlier_session_count_for_nothing() -> None:
    """X dropped Y and re-added it on old acknowledgements, while Y had discarded what it acknowledged."""
    pair = Pair().protected()
    pair.run(100)
    pair.a.tick()
    pair.carry(pair.a, pair.b)
    pair.b.standby.owes_ack = True
    pair.b.give(TICK)
    pair.b.perform()
    old = [sent for sent in pair.b.sent if isinstance(sent.message, Ack)]
    pair.b.sent.clear()
    alone(pair, PRIMARY_LIMIT_MS + 100)
    pair.a.answer()
    pair.a.sent.clear()
    pair.until(lambda: pair.a.active.session is not None and pair.a.active.link is LinkState.CATCHING_UP)
    session = pair.a.active.session
    assert session is not None
    before = (session.acked, pair.a.active.link, len(session.in_flight))

    for sent in old:
        late = replace(sent.message, epoch=pair.a.active.epoch)  # type: ignore[type-var]
        pair.a.hear("b", None, sent.envelope, late)

    assert old
    assert (session.acked, pair.a.active.link, len(session.in_flight)) == before


def test_prototype_3_a_whole_replica_that_nobody_names_does_not_wait_for_ever() -> None:
    """It was kept awake by heartbeats that were not of its session."""
    pair = Pair().protected()
    pair.store.record = Record(3, "a1", None)
    other = replace(envelope(pair), session=SessionId(77, "a1", 3))

    for _ in range(100):
        pair.elapse(20)
        pair.b.hear("a", None, other, Ping(number=1))
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer()

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"


@pytest.mark.parametrize("origin", [-(10**15), -1, 0, 1, 10**15])
def test_prototype_5_no_timer_depends_on_where_the_clock_starts(origin: int) -> None:
    pair = Pair()
    for host in (pair.a, pair.b):
        host.replica._stepped_at = origin  # type: ignore[assignment]
    pair.now = origin  # type: ignore[assignment]

    pair.protected()
    pair.run(1000)
    pair.a.emit(b"x")
    take_over(pair)

    assert pair.b.role is Role.ACTIVE


def test_prototype_8_nothing_is_given_up_during_a_slow_start() -> None:
    """Heartbeats were armed before the first whole commit."""
    pair = Pair().started()
    pair.until(lambda: pair.b.role is Role.SYNCING)

    for _ in range(int(2 * PRIMARY_LIMIT_MS / 5)):
        pair.elapse(5)
        for host in (pair.a, pair.b):
            host.tick()

    assert pair.a.active.link is LinkState.COPYING
    assert pair.b.role is Role.SYNCING


def test_a_syncing_replica_whose_active_died_joins_afresh() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.b.role is Role.SYNCING)

    silence(pair, 11 * BACKUP_LIMIT_MS)

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"
