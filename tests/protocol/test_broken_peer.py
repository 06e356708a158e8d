"""Peers that break the protocol lose their session, and nothing else changes."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import Checkpoint
from ftvm.encode.messages import Ack, Envelope, EpochPart, Leave, Ping, SessionId, Welcome
from ftvm.events import ArbiterTrouble, PeerMisbehaved
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role

from .harness import Pair
from .situations import envelope


def test_an_active_that_sends_garbage_loses_its_session_and_the_standby_keeps_its_state() -> None:
    pair = Pair().protected()
    pair.run(50)
    epoch = pair.b.standby.committed.epoch
    sequence = pair.b.standby.inbox.expected
    wrong = EpochPart(sequence=sequence, epoch=99, part=7, batch=None, checkpoint=None)

    pair.b.hear("a", None, replace(envelope(pair), session=pair.b.standby.offer.session), wrong)
    pair.b.perform()

    assert pair.b.told(PeerMisbehaved)[0].error.startswith("BadFrame")
    assert pair.b.waiting(Leave)
    assert (pair.b.role, pair.b.standby.committed.epoch) == (Role.STANDBY, epoch)


def test_an_active_that_asks_for_an_engine_that_was_not_offered_loses_its_session() -> None:
    """Mutant: the name is looked up unseen, and the standby ends by a KeyError."""
    pair = Pair().protected()
    standby = pair.b.standby
    epoch = standby.committed.epoch
    assert epoch is not None
    checkpoint = Checkpoint(
        epoch=epoch + 1,
        base=epoch,
        engine="nobodys",
        batches=(),
        devices=b"",
        outputs=(),
        output_next=standby.committed.output_next,
        log_index=0,
        memory_digest=pair.b.memory.memory_digest,
        dirty_pages=0,
    )
    wrong = EpochPart(
        sequence=standby.inbox.expected, epoch=checkpoint.epoch, part=0, batch=None, checkpoint=checkpoint
    )

    pair.b.hear("a", None, replace(envelope(pair), session=standby.offer.session), wrong)
    pair.b.perform()

    assert "engine 'nobodys', which was not offered" in pair.b.told(PeerMisbehaved)[0].error
    assert (pair.b.role, standby.committed.epoch) == (Role.STANDBY, epoch)


@pytest.mark.parametrize(
    "wrong",
    [
        Ack(received=10**6, epoch=0, log_index=0, memory_digest=0),
        Ack(received=0, epoch=10**6, log_index=0, memory_digest=0),
        Ack(received=0, epoch=0, log_index=10**6, memory_digest=0),
    ],
)
def test_a_standby_that_acknowledges_what_was_never_sent_is_dropped(wrong: Ack) -> None:
    pair = Pair().protected()
    pair.a.emit(b"held")
    session = pair.a.active.session
    assert session is not None
    from_b = replace(envelope(pair), sender="b1", session=session.id)

    pair.a.hear("b", None, from_b, wrong)
    pair.a.perform()

    assert pair.a.told(PeerMisbehaved)[0].error.startswith("BadFrame")
    assert pair.a.active.link is LinkState.DROPPING
    assert pair.a.said == []


def test_a_standby_whose_memory_differs_is_dropped() -> None:
    pair = Pair().protected()
    pair.b.memory.memory_digest += 1
    pair.until(lambda: pair.a.told(PeerMisbehaved) or pair.b.told(PeerMisbehaved))

    errors = [event.error for event in pair.a.told(PeerMisbehaved) + pair.b.told(PeerMisbehaved)]
    assert errors[0].startswith("DigestMismatch")


@pytest.mark.parametrize("what", ["peer", "key", "session", "sender"])
def test_messages_that_are_not_of_the_session_do_nothing_on_either_side(what: str) -> None:
    pair = Pair().protected()
    session = pair.b.standby.offer.session
    good = replace(envelope(pair), session=session)
    if what == "session":
        good = replace(good, session=SessionId(99, "a1", 1))
    if what == "sender":
        good = replace(good, sender="somebody")
    key = "k" if what == "key" else None

    for host, peer in ((pair.a, "b"), (pair.b, "a")):
        from_peer = replace(good, sender="b1") if host is pair.a and what != "sender" else good
        host.hear("c" if what == "peer" else peer, key, from_peer, Leave(reason="evil"))
        host.tick()

    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.b.standby.claim.is_watching


def test_a_joiner_that_never_heard_its_welcome_is_taken_in_once_the_link_heals() -> None:
    pair = Pair()
    pair.a.tick()
    pair.a.answer()
    pair.a.tick()
    pair.a.answer()
    for _ in range(300):  # a's patience is over before that
        pair.elapse(10)
        pair.b.tick()
        pair.carry(pair.b, pair.a)
        pair.a.tick()
        if pair.a.outstanding is not None:
            pair.a.answer()
        pair.a.sent.clear()

    pair.run(3000)

    assert pair.b.failures == []
    assert pair.b.role is Role.STANDBY


def test_a_start_that_the_arbiter_fails_says_why_it_waits() -> None:
    pair = Pair()
    pair.a.tick()

    pair.a.answer(is_applied=False, is_lost=True)

    assert [event.error for event in pair.a.told(ArbiterTrouble)] == ["the answer was lost"]


def test_a_welcome_of_a_generation_that_never_was_is_found_out_and_left() -> None:
    pair = Pair().started()
    pair.b.tick()
    session = SessionId(1, "evil", 1 << 60)
    envelope = Envelope(guest_id="vm", sender="evil", session=session, record=pair.store.record, released=0)
    welcome = Welcome(joiner=pair.b.id, engines=("remus",), staging_bytes=1 << 20)
    pair.b.hear("a", None, envelope, welcome)
    was_syncing = pair.b.role is Role.SYNCING

    pair.b.tick()
    pair.b.answer()

    assert was_syncing
    assert pair.b.role is Role.EMPTY


def test_what_comes_of_a_session_that_was_left_changes_nothing() -> None:
    """Mutant: a peer that broke the protocol is heard on, and keeps the standby from taking over."""
    pair = Pair().protected()
    standby = pair.b.standby
    standby.leave("a test", pair.now)
    heard_at = standby.detector.heard_at
    pair.elapse(5)

    of_session = replace(envelope(pair), session=standby.offer.session)
    pair.b.hear("a", None, of_session, Ping(number=9))

    assert standby.detector.heard_at == heard_at
