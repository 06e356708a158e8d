"""A session with a standby: what an active learns from its acknowledgements."""

from typing import Final

import pytest

from ftvm.checkpoint import Checkpoint, Watermarks
from ftvm.config import Limits
from ftvm.encode.messages import Ack, SessionId
from ftvm.engines.remus import Remus
from ftvm.errors import DigestMismatch
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.session import Contact, Outbox, Session
from ftvm.units import Nanos

MS: Final = 1_000_000


def make_session() -> Session:
    return Session(
        id=SessionId(1, "a", 2),
        peer="b",
        key=None,
        standby="b1",
        engines=("remus",),
        staging_bytes=1 << 20,
        outbox=Outbox(window=8, repeat_ns=Nanos(200 * MS)),
        detector=FailureDetector(Nanos(500 * MS), Nanos(0), patience=4),
        limits=Limits(),
        shipped_next=1,
    )


def checkpoint(epoch: int) -> Checkpoint:
    """Return an empty epoch."""
    return Checkpoint(
        epoch=epoch,
        base=epoch - 1,
        engine="remus",
        batches=(),
        devices=b"",
        outputs=(),
        output_next=1,
        log_index=0,
        memory_digest=0,
        dirty_pages=0,
    )


def commit(session: Session, epoch: int, *, cut_at_ms: int, acknowledged_at_ms: int, log_index: int = 0) -> None:
    """Ship an empty epoch and take its acknowledgement."""
    session.ship_epoch(checkpoint(epoch), (), Remus(), 0, Nanos(cut_at_ms * MS))
    now, received = Nanos(acknowledged_at_ms * MS), session.outbox.next_sequence
    session.outbox.due(now)
    session.acknowledge(Ack(received=received, epoch=epoch, log_index=log_index, memory_digest=0), now)


def test_the_first_acknowledgement_tells_how_long_a_commit_takes() -> None:
    session = make_session()

    commit(session, 1, cut_at_ms=100, acknowledged_at_ms=108)

    assert session.commit_ns == 8 * MS


def test_a_single_late_acknowledgement_moves_the_commit_time_by_an_eighth() -> None:
    session = make_session()
    commit(session, 1, cut_at_ms=100, acknowledged_at_ms=108)

    commit(session, 2, cut_at_ms=200, acknowledged_at_ms=224)

    assert session.commit_ns == 10 * MS


def test_the_commit_time_follows_a_link_that_stays_slow() -> None:
    session = make_session()
    for epoch in range(1, 60):
        commit(session, epoch, cut_at_ms=100 * epoch, acknowledged_at_ms=100 * epoch + (8 if epoch == 1 else 80))

    assert 79 * MS <= session.commit_ns <= 80 * MS


def test_an_acknowledgement_that_comes_late_does_not_revive_a_session_that_is_lost() -> None:
    """Regression (simulator, seed 20083): the session was lost a second time, while its DROP was open."""
    session = make_session()
    commit(session, 1, cut_at_ms=100, acknowledged_at_ms=108)
    session.contact = Contact.LOST

    session.acknowledge(Ack(received=0, epoch=1, log_index=0, memory_digest=0), Nanos(200 * MS))

    assert session.is_lost


def test_an_epoch_that_is_acknowledged_with_another_memory_is_not_counted() -> None:
    """Mutant: the digests are not compared."""
    session = make_session()
    commit(session, 1, cut_at_ms=100, acknowledged_at_ms=108)
    session.ship_epoch(checkpoint(2), (), Remus(), 0, Nanos(200 * MS))

    with pytest.raises(DigestMismatch, match="epoch 2"):
        session.acknowledge(Ack(received=1, epoch=2, log_index=0, memory_digest=7), Nanos(208 * MS))

    assert session.acked == Watermarks(1, 0)


def test_what_was_acknowledged_stays_acknowledged_when_an_older_word_comes_late() -> None:
    """Mutant: the last word counts, and what has been released is no longer safe."""
    session = make_session()
    session.log_shipped = 5
    commit(session, 1, cut_at_ms=100, acknowledged_at_ms=108, log_index=3)
    commit(session, 2, cut_at_ms=200, acknowledged_at_ms=208, log_index=5)

    session.acknowledge(Ack(received=1, epoch=1, log_index=3, memory_digest=0), Nanos(210 * MS))

    assert session.acked == Watermarks(2, 5)


def test_who_only_says_that_messages_came_and_commits_nothing_makes_no_progress() -> None:
    session = make_session()
    session.ship_epoch(checkpoint(1), (), Remus(), 0, Nanos(100 * MS))
    session.outbox.due(Nanos(100 * MS))

    session.acknowledge(Ack(received=1, epoch=0, log_index=0, memory_digest=0), Nanos(200 * MS))

    assert session.owes_since == 100 * MS


def test_who_never_answers_makes_no_progress() -> None:
    session = make_session()

    assert session.owes_since == session.opened_at


def test_the_answer_to_a_heartbeat_tells_how_far_the_standby_is_away_also_behind_later_heartbeats() -> None:
    session = make_session()
    first, second = session.ping(Nanos(0)), session.ping(Nanos(50 * MS))

    session.take_pong(first.number, Nanos(80 * MS))
    session.take_pong(second.number, Nanos(138 * MS))

    assert (first.number, second.number) == (1, 2)
    assert session.round_trip_ns == 81 * MS


def test_only_the_first_answer_to_a_heartbeat_counts_and_none_to_one_that_was_not_sent() -> None:
    session = make_session()
    session.ping(Nanos(0))
    session.take_pong(1, Nanos(8 * MS))

    session.take_pong(1, Nanos(900 * MS))
    session.take_pong(7, Nanos(900 * MS))

    assert session.round_trip_ns == 8 * MS


def test_heartbeats_that_nobody_answers_are_not_kept_without_end() -> None:
    session = make_session()
    for beat in range(1_000):
        session.ping(Nanos(beat * MS))

    session.take_pong(1, Nanos(1_000 * MS))

    assert session.round_trip_ns == 0
