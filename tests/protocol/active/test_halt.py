"""What an active does that may not run alone: when its standby is lost it stands still, and nothing leaves."""

from dataclasses import replace

import pytest

from ftvm.encode.messages import Join, Refuse
from ftvm.events import Halted, Protected, Solo
from ftvm.interfaces import Record
from ftvm.protocol.active import PROGRESS_PATIENCE, leaving
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.stop import LIMIT_NS, StopKind

from ..harness import MS, Pair, make_settings
from ..situations import PRIMARY_LIMIT_MS, begin_switchover, envelope, live_on, outcome, stop, switching

LIMIT_MS = LIMIT_NS / MS


def halting() -> Pair:
    return Pair(make_settings(halts_alone=True)).protected()


def alone(pair: Pair, milliseconds: float, *, is_answered: bool = True, step: float = 5) -> None:
    """Let a live on while nothing from b arrives and nothing from a gets through."""
    for _ in range(int(milliseconds / step)):
        pair.elapse(step)
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


def test_what_was_held_when_the_standby_was_lost_goes_to_the_one_that_joins_from_the_first_on() -> None:
    """All of it is held still: whoever takes over before it has left must say it."""
    pair = halting()
    pair.a.emit(b"held", b"too")
    alone(pair, 20 * PRIMARY_LIMIT_MS)

    restarted(pair).until(lambda: pair.b.role is Role.STANDBY)

    assert [output.payload for output in pair.b.standby.committed.outputs] == [b"held", b"too"]


def test_a_standby_that_is_heard_again_goes_on_in_the_same_session() -> None:
    pair = halting()
    pair.a.emit(b"held")
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    session = pair.a.active.session

    pair.b.standby.detector.excuse(
        2 * PRIMARY_LIMIT_MS * 1_000_000, pair.now
    )  # it was stopped itself, so it does not suspect
    for _ in range(100):
        pair.elapse(5)
        pair.exchange()

    assert pair.a.active.session is session
    assert pair.a.said == [b"held"]
    assert not pair.a.active.must_stand_still()
    assert pair.store.record == Record(2, "a1", "b1")


def test_a_guest_that_goes_on_since_its_standby_is_heard_again_is_told_to_be_protected() -> None:
    """Regression: the last word was that the guest is paused, while it ran."""
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    pair.b.standby.detector.excuse(2 * PRIMARY_LIMIT_MS * 1_000_000, pair.now)
    before = len(pair.a.told(Protected))

    pair.run(500)

    assert len(pair.a.told(Halted)) == 1
    assert [(told.generation, told.standby) for told in pair.a.told(Protected)[before:]] == [(2, "b1")]


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


def test_a_switchover_is_called_off_when_the_standby_falls_silent() -> None:
    pair = halting()
    switchover = begin_switchover(pair)
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)

    alone(pair, PRIMARY_LIMIT_MS)

    assert switchover.error == "the standby is silent"
    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.a.active.must_stand_still()


def test_a_standby_that_is_silent_while_the_switch_is_open_is_left_to_the_arbiter() -> None:
    """Mutant: silence counts while the proposal is open, and what may be in force is called off."""
    pair = halting()
    switchover = switching(pair)

    alone(pair, 5 * PRIMARY_LIMIT_MS, is_answered=False)

    assert pair.a.active.link is LinkState.SWITCHING
    assert pair.a.active.must_stand_still()
    assert not switchover.is_over
    assert not pair.a.told(Halted)


def test_an_id_that_was_dropped_does_not_displace_a_standby_that_is_silent() -> None:
    """Mutant: any JOIN ends the session that is waited for."""
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    core, session = pair.a.core, pair.a.active.session
    core.retired.append("old")
    join = Join(geometry=core.settings.geometry, engines=("remus",), staging_bytes=core.settings.limits.staging_bytes)

    pair.a.hear("c", None, replace(envelope(pair), sender="old"), join)
    pair.a.perform()

    assert pair.a.active.session is session
    assert [refusal.is_final for refusal in pair.a.waiting(Refuse)] == [True]


def test_a_standby_that_is_waited_for_is_not_left_for_making_no_progress() -> None:
    pair = halting()
    session = pair.a.active.session

    alone(pair, (PROGRESS_PATIENCE + 2) * PRIMARY_LIMIT_MS, step=50)

    assert pair.a.active.session is session


def test_a_joiner_in_the_place_of_a_silent_standby_is_given_up_when_it_is_never_heard() -> None:
    """Mutant: the guest still waits for the silent one, so nobody counts the silence of the new one."""
    pair = halting()
    alone(pair, 2 * PRIMARY_LIMIT_MS)
    restarted(pair)
    pair.b.tick()
    pair.carry(pair.b, pair.a)
    link = pair.a.active.link

    alone(pair, 20 * PRIMARY_LIMIT_MS)

    assert link is LinkState.COPYING
    assert pair.a.active.link is LinkState.NONE


def test_a_guest_that_fails_while_it_waits_for_its_lost_standby_is_that_standbys_for_good() -> None:
    """Mutant: the record is vacated after a while, and with it goes all that is left of the guest."""
    pair = halting()
    leaving.leave(pair.a.active, "a test", pair.now)
    pair.a.perform()
    link = pair.a.active.link

    stop(pair.a, StopKind.FAILED)
    alone(pair, LIMIT_MS + 100)
    outcome_there = outcome(pair.a)
    live_on(pair, pair.b, 5 * PRIMARY_LIMIT_MS)

    assert link is LinkState.NONE
    assert outcome_there == (True, False)
    assert pair.b.role is Role.ACTIVE
    assert pair.store.record == Record(3, "b1", None)
