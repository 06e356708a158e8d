"""A loser that lives offers what it still has, is sent only what differs, and serves nobody before that is verified."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import bitmap_bytes
from ftvm.config import Limits
from ftvm.encode.messages import CacheDigests, CacheKept, Copy, Envelope, Join, Leave, Welcome
from ftvm.encode.versions import Versions
from ftvm.events import PeerMisbehaved, RoleChanged
from ftvm.interfaces import Lane, Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.effects import Send
from ftvm.protocol.session import Matching
from ftvm.units import Nanos

from .harness import GEOMETRY, ORIGIN, Host, Pair, digests_of, make_settings
from .situations import alone, live_on, take_over


def envelope_of(host: Host) -> Envelope:
    """Return an envelope as this host would send it."""
    host.core.send("x", Lane.CONTROL, Leave(reason=""), None)
    host.perform()
    return host.sent.pop().envelope


PIECES = Limits(digests_per_message=3)
"""Three pieces for the eight pages of a guest."""


def deposed(pair: Pair) -> Pair:
    """Have b take over from a, which lives, and learns it."""
    pair.protected()
    take_over(pair)
    pair.until(lambda: pair.a.role is Role.EMPTY)
    return pair


def copied(pair: Pair, host: Host) -> list[type]:
    """Let both live until the host is a standby again; return what kinds of pages or words of them it was sent."""
    other = pair.b if host is pair.a else pair.a
    before = len(other.performed)
    pair.until(lambda: host.role is Role.STANDBY)
    sent = [type(effect.message) for effect in other.performed[before:] if isinstance(effect, Send)]
    return [kind for kind in sent if kind in (CacheKept, Copy)]


@pytest.mark.parametrize("limits", [Limits(), PIECES])
def test_a_deposed_active_is_sent_nothing_of_what_it_still_has(limits: Limits) -> None:
    pair = deposed(Pair(make_settings(limits=limits)))

    sent = copied(pair, pair.a)

    pieces = -(-GEOMETRY.page_count // limits.digests_per_message)
    assert sent == [CacheKept] * pieces
    assert "; 8 pages of it were here" in pair.a.told(RoleChanged)[-1].reason
    pair.until(lambda: pair.b.active.link is LinkState.PROTECTED)
    assert pair.store.record == Record(4, "b1", "a2")


def test_a_page_that_differs_is_copied() -> None:
    pair = Pair()
    pair.protected()
    take_over(pair)
    pair.a.emit(b"never safe")
    pair.a.memory.memory_digest = pair.a.value
    pair.until(lambda: pair.a.role is Role.EMPTY)

    sent = copied(pair, pair.a)

    assert sent == [CacheKept, Copy]
    assert "; 7 pages of it were here" in pair.a.told(RoleChanged)[-1].reason
    assert pair.a.memory.memory_digest == pair.b.value


def test_a_dropped_standby_offers_what_it_was_under_a_fresh_id() -> None:
    pair = Pair().protected()
    alone(pair, 700)
    pair.a.answer()
    pair.until(lambda: pair.b.role is Role.EMPTY)

    sent = copied(pair, pair.b)

    assert sent == [CacheKept]
    assert pair.b.id == "b2"


def test_a_host_that_never_had_a_state_offers_nothing() -> None:
    pair = Pair().started()

    pair.b.tick()

    assert not pair.b.waiting(Join)[0].has_cache
    assert copied(pair, pair.b) == [Copy]


def test_a_host_that_starts_with_a_disks_content_offers_it() -> None:
    pair = Pair(make_settings(), other=replace(make_settings(), has_content=True)).started()

    pair.b.tick()

    assert pair.b.waiting(Join)[0].has_cache
    assert copied(pair, pair.b)[0] is CacheKept


def test_a_cache_is_no_state() -> None:
    """Whoever joins with one has no epoch, acknowledges none and takes over from nobody."""
    pair = deposed(Pair())
    pair.until(lambda: pair.a.role is Role.SYNCING)

    epoch = pair.a.standby.committed.epoch
    live_on(pair, pair.a, 2_000)

    assert epoch is None
    assert pair.a.role is Role.EMPTY
    assert pair.store.record == Record(3, "b1", None)


@pytest.mark.parametrize("who", ["active", "loser"])
def test_between_releases_that_do_not_both_know_it_all_is_copied(who: str) -> None:
    old, new = make_settings(versions=Versions(1, 1)), make_settings()
    pair = deposed(Pair(old, other=new) if who == "loser" else Pair(new, other=old))

    sent = copied(pair, pair.a)

    assert sent == [Copy]


# --- what is lost -----------------------------------------------------------------------------------------------------


def test_digests_that_are_lost_are_sent_again() -> None:
    pair = deposed(Pair(make_settings(limits=PIECES)))
    pair.until(lambda: pair.a.waiting(CacheDigests))
    lost = pair.a.waiting(CacheDigests)
    pair.a.sent.clear()

    pair.until(lambda: pair.a.role is Role.STANDBY)

    assert [each.first for each in lost] == [0]


def test_digests_come_in_order_or_are_not_taken() -> None:
    matching = Matching(page_count=8, since=Nanos(ORIGIN))
    first, second = (
        CacheDigests(sequence=number, first=3 * number, digests=bytes(48), is_last=False) for number in (0, 1)
    )

    taken = [matching.accept(each, Nanos(ORIGIN)) for each in (second, first, first, second)]

    assert taken == [False, True, False, True]


def test_a_joiner_that_promised_digests_and_never_sends_any_is_left() -> None:
    pair = deposed(Pair())
    pair.until(lambda: pair.b.active.link is LinkState.COPYING)
    session = pair.b.active.session
    assert session is not None
    pair.until(lambda: session.has_answered)

    for _ in range(14_000):
        pair.elapse(5)
        pair.a.standby.offering = None
        for _ in range(3):
            pair.a.tick()
            pair.b.tick()
            pair.carry(pair.a, pair.b)
            pair.carry(pair.b, pair.a)
        if pair.b.active.session is not session:
            break

    assert pair.b.active.session is not session


# --- who lies ---------------------------------------------------------------------------------------------------------


def with_false_digests(pair: Pair) -> Pair:
    """Have a, deposed, tell the digests of the pages that b has, although its memory is another."""
    deposed(pair)
    digests, memory = digests_of(pair.b.value), pair.a.memory
    memory.memory_digest = pair.b.value + 1
    memory.offer = lambda first, count: digests[16 * first : 16 * (first + count)]  # type: ignore[method-assign]
    return pair


def test_who_failed_with_a_cache_says_the_next_time_that_it_has_none() -> None:
    pair = with_false_digests(Pair())
    pair.until(lambda: pair.a.told(PeerMisbehaved))
    pair.a.sent.clear()

    pair.until(lambda: pair.a.waiting(Join))

    assert not pair.a.waiting(Join)[0].has_cache


def test_false_digests_end_in_a_refused_copy_and_the_next_one_is_whole() -> None:
    pair = with_false_digests(Pair())

    pair.until(lambda: pair.a.told(PeerMisbehaved))
    refused = pair.a.told(PeerMisbehaved)[0].error
    sent = copied(pair, pair.a)

    assert refused.startswith("DigestMismatch")
    assert sent == [Copy]
    assert pair.a.memory.memory_digest == pair.b.value


def test_a_peer_whose_cached_copy_failed_is_not_asked_for_a_cache_again() -> None:
    pair = with_false_digests(Pair())
    pair.until(lambda: pair.a.told(PeerMisbehaved))
    pair.a.core.has_cache = True  # it insists

    pair.until(lambda: pair.b.waiting(Welcome))

    assert pair.a.core.has_cache
    assert not pair.b.waiting(Welcome)[0].takes_cache


def test_a_peer_that_was_the_standby_since_is_asked_for_its_cache_again() -> None:
    pair = with_false_digests(Pair())
    pair.until(lambda: pair.b.core.uncached)
    before = list(pair.b.core.uncached)

    copied(pair, pair.a)
    pair.until(lambda: pair.b.active.link is LinkState.PROTECTED)

    assert before == ["a"]
    assert not pair.b.core.uncached


@pytest.mark.parametrize(
    "wrong",
    [
        CacheDigests(sequence=0, first=7, digests=bytes(32), is_last=False),
        CacheDigests(sequence=0, first=9, digests=b"", is_last=True),
    ],
)
def test_digests_of_pages_that_are_not_there_end_the_session(wrong: CacheDigests) -> None:
    pair = deposed(Pair())
    pair.until(lambda: pair.b.active.link is LinkState.COPYING)
    session = pair.b.active.session
    assert session is not None

    pair.b.hear("a", None, replace(envelope_of(pair.a), session=session.id), wrong)
    pair.b.perform()

    assert pair.b.told(PeerMisbehaved)[0].error.startswith("BadFrame")
    assert pair.b.waiting(Leave)


def test_digests_of_an_older_session_are_not_taken() -> None:
    pair = deposed(Pair())
    pair.until(lambda: pair.b.active.link is LinkState.COPYING)
    session = pair.b.active.session
    assert session is not None
    assert session.matching is not None
    old = replace(session.id, counter=session.id.counter - 1)
    digests = CacheDigests(sequence=0, first=0, digests=digests_of(pair.b.value), is_last=True)
    from_a = envelope_of(pair.a)

    is_expected = [pair.b.replica.expects("a", None, replace(from_a, session=each)) for each in (old, session.id)]
    pair.b.hear("a", None, replace(from_a, session=old), digests)
    pair.b.perform()

    assert is_expected == [False, True]
    assert session.matching.expected == 0


def test_digests_are_dropped_unread_where_nobody_asked_for_them() -> None:
    pair = Pair().protected()
    session = pair.a.active.session
    assert session is not None

    assert not pair.a.replica.expects("b", None, replace(envelope_of(pair.b), session=session.id))


@pytest.mark.parametrize("what", ["pages that were not offered", "pages before all is said", "nothing offered"])
def test_an_active_that_answers_what_was_not_asked_loses_its_session(what: str) -> None:
    pair = deposed(Pair())
    pair.until(lambda: pair.a.waiting(CacheDigests))
    standby = pair.a.standby
    wrong: CacheKept | Copy = CacheKept(sequence=0, first=3, pages=2, kept=bytes(8))
    if what == "pages before all is said":
        batch = pair.b._capture()
        wrong = Copy(sequence=0, round=1, batch=batch)
    if what == "nothing offered":
        standby.offering, wrong = None, CacheKept(sequence=0, first=0, pages=8, kept=bytes(bitmap_bytes(8)))

    pair.a.hear("b", None, replace(envelope_of(pair.b), session=standby.offer.session), wrong)
    pair.a.perform()

    assert pair.a.told(PeerMisbehaved)[0].error.startswith("BadFrame")
    assert pair.a.role is Role.EMPTY
