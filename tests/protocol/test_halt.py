"""What an active does that may not run alone: when its standby is lost it stands still, and nothing leaves."""

import pytest

from ftvm.config import Timing
from ftvm.events import Halted, Protected, Solo
from ftvm.interfaces import Record
from ftvm.protocol.core import Role
from ftvm.protocol.link import LinkState

from .harness import MS, Pair, make_settings

PRIMARY_LIMIT_MS = Timing().primary_limit_ns / MS


def halting() -> Pair:
    return Pair(make_settings(halts_alone=True)).protected()


def alone(pair: Pair, milliseconds: float, *, is_answered: bool = True) -> None:
    """Let a live on while nothing from b arrives and nothing from a gets through."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        pair.a.tick()
        if pair.a.outstanding is not None and is_answered:
            pair.a.answer()
        pair.a.sent.clear()


def restarted(pair: Pair) -> Pair:
    """Replace b by a host that has nothing and asks to join."""
    pair.b = pair.boot("b", make_settings(halts_alone=True), "a", starts=False, prefix="n")
    return pair


def test_a_guest_that_never_had_a_standby_runs_alone() -> None:
    pair = Pair(make_settings(halts_alone=True)).started()

    pair.a.emit(b"hello")

    assert pair.a.said == [b"hello"]
    assert not pair.a.active.must_stand_still()


def test_when_the_standby_is_silent_the_guest_stands_still_and_nothing_leaves_or_is_proposed() -> None:
    pair = halting()
    pair.a.emit(b"held")

    alone(pair, 20 * PRIMARY_LIMIT_MS)

    assert pair.a.active.must_stand_still()
    assert pair.a.said == []
    assert pair.store.record == Record(2, "a1", "b1")
    assert len(pair.a.told(Halted)) == 1
    assert not pair.a.told(Solo)


def test_a_standby_that_is_heard_again_goes_on_in_the_same_session() -> None:
    pair = halting()
    pair.a.emit(b"held")
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    session = pair.a.active.session

    for _ in range(100):  # the standby was stopped itself, so it does not suspect
        pair.elapse(5)
        pair.b.replica._excuse(pair.now)
        pair.exchange()

    assert pair.a.active.session is session
    assert pair.a.said == [b"held"]
    assert not pair.a.active.must_stand_still()
    assert pair.store.record == Record(2, "a1", "b1")


@pytest.mark.parametrize("wait_ms", [0, 50, 2 * PRIMARY_LIMIT_MS])
def test_a_new_standby_takes_the_place_of_the_lost_one_in_one_change(wait_ms: float) -> None:
    pair = halting()
    pair.a.emit(b"held")
    alone(pair, wait_ms)
    restarted(pair)

    pair.until(lambda: pair.a.said or pair.store.record.standby == "n1")
    standby_then = pair.store.record.standby
    pair.run(200)

    assert standby_then == "n1"
    assert pair.store.record == Record(3, "a1", "n1")
    assert pair.a.said == [b"held"]
    assert not pair.a.active.must_stand_still()
    assert [event.standby for event in pair.a.told(Protected)] == ["b1", "n1"]


def test_the_guest_stands_still_until_the_new_standby_is_in_the_record() -> None:
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    restarted(pair)
    seen: set[LinkState] = set()

    def is_added() -> bool:
        if pair.store.record.standby == "n1":
            return True
        seen.add(pair.a.active.link)
        return not pair.a.active.must_stand_still()

    pair.until(is_added)

    assert pair.store.record.standby == "n1"
    assert {LinkState.COPYING, LinkState.CATCHING_UP, LinkState.ADDING} <= seen


def test_a_new_standby_that_is_lost_before_it_is_added_leaves_the_guest_halted() -> None:
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    restarted(pair)
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP)
    pair.a.emit(b"held")

    alone(pair, 20 * PRIMARY_LIMIT_MS)

    assert pair.a.active.link is LinkState.NONE
    assert pair.a.active.must_stand_still()
    assert pair.a.said == []
    assert pair.store.record == Record(2, "a1", "b1")


def test_a_new_standby_that_is_lost_while_it_is_added_leaves_the_guest_halted() -> None:
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    restarted(pair)
    pair.until(lambda: pair.a.active.link is LinkState.ADDING)
    pair.a.tick()
    pair.a.answer(is_lost=True)
    pair.a.emit(b"held")

    alone(pair, 20 * PRIMARY_LIMIT_MS, is_answered=False)
    abandoning = pair.a.active.link
    alone(pair, 200)

    assert abandoning is LinkState.ABANDONING
    assert pair.a.active.link is LinkState.NONE
    assert pair.a.active.must_stand_still()
    assert pair.a.said == []
    assert pair.store.record == Record(3, "a1", "n1")


def test_a_standby_that_took_over_meanwhile_deposes_the_halted_active() -> None:
    pair = halting()
    pair.a.emit(b"never safe")
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    pair.store.record = Record(3, "b1", None)

    alone(pair, 2_000)

    assert pair.a.role is Role.EMPTY
    assert pair.a.said == []
