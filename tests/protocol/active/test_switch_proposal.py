"""A SWITCH that is proposed and not resolved: only the arbiter ends it, in force or certainly without effect."""

import pytest

from ftvm.encode.messages import Leave
from ftvm.events import SwitchFailed
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.protocol.stop import StopKind

from ..harness import Pair
from ..situations import BACKUP_LIMIT_MS, PRIMARY_LIMIT_MS, begin_switchover, live_on, switching


def test_the_guest_stands_still_until_the_proposal_is_resolved_however_long() -> None:
    """Mutant: it resumes on a time-out."""
    pair = Pair().protected()
    switching(pair)

    for _ in range(400):
        assert pair.a.outstanding == CompareAndSet(Record(3, "b1", "a1"))
        assert pair.a.active.must_stand_still()
        pair.a.answer(is_lost=True, is_applied=False)
        pair.elapse(100)
        pair.a.tick()
    pair.a.answer()

    assert pair.a.role is Role.STANDBY


def test_a_switch_that_was_certainly_not_applied_is_called_off_and_the_guest_goes_on_here() -> None:
    """Regression: with an arbiter that could be read but not written the guest stood still without limit."""
    pair = Pair().protected()
    switchover = switching(pair)

    pair.a.refuse()
    at_once = pair.a.active.must_stand_still()
    pair.a.emit(b"on")
    pair.run(300)

    assert switchover.error == "the record was certainly not changed: the disk is full"
    assert [event.reason for event in pair.a.told(SwitchFailed)] == [switchover.error]
    assert not at_once
    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.store.record == Record(2, "a1", "b1")
    assert pair.a.said == [b"on"]
    assert pair.b.standby.claim.state is ClaimState.WATCHING


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_switch_with_one_uncertain_attempt_is_not_called_off_by_a_certain_one(is_applied: bool) -> None:
    """Mutant: only the last attempt counts."""
    pair = Pair().protected()
    switchover = switching(pair)
    pair.a.answer(is_lost=True, is_applied=is_applied)

    for _ in range(10):
        pair.elapse(100)
        pair.a.tick()
        pair.a.refuse()
        assert pair.a.active.must_stand_still()
        assert not switchover.is_over
    pair.elapse(100)
    pair.a.tick()
    pair.a.answer()

    assert pair.a.role is Role.STANDBY


def test_a_switchover_that_could_not_be_written_can_be_asked_for_again() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.refuse()
    pair.run(300)

    second = begin_switchover(pair)
    pair.until(lambda: second.is_over)

    assert second.error is None
    assert pair.b.role is Role.ACTIVE


def test_a_standby_that_dies_while_the_switch_is_called_off_is_dropped() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.elapse(2 * PRIMARY_LIMIT_MS)
    pair.a.refuse()

    live_on(pair, pair.a, 2 * PRIMARY_LIMIT_MS)

    assert pair.store.record == Record(3, "a1", None)
    assert not pair.a.active.must_stand_still()


def test_a_switch_that_a_takeover_outran_is_called_off_and_the_record_still_decides() -> None:
    pair = Pair().protected()
    switching(pair)
    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)
    said = pair.a.said
    pair.a.refuse()
    pair.a.emit(b"too late")

    pair.elapse(5_000)
    pair.a.tick()
    while pair.a.outstanding is not None:
        pair.a.answer()
        pair.a.tick()

    assert pair.store.record == Record(3, "b1", None)
    assert pair.a.role is Role.EMPTY
    assert pair.a.said == said


def test_a_switch_whose_answer_is_lost_is_in_force_all_the_same() -> None:
    pair = Pair().protected()
    switchover = switching(pair)

    pair.a.answer(is_lost=True)
    meanwhile = pair.a.role
    pair.until(lambda: switchover.is_over)

    assert meanwhile is Role.ACTIVE
    assert (pair.a.role, pair.b.role) == (Role.STANDBY, Role.ACTIVE)
    assert switchover.error is None


def test_a_standby_that_takes_over_by_itself_meanwhile_has_the_guest_that_it_was_to_get() -> None:
    """Regression: the switchover was said to have failed, and the guest to run where it was."""
    pair = Pair().protected()
    switchover = switching(pair)
    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)
    assert pair.store.record == Record(3, "b1", None)

    pair.a.answer()

    assert pair.a.role is Role.EMPTY
    assert not pair.a.is_running
    assert (switchover.is_over, switchover.error) == (True, None)
    assert not pair.a.told(SwitchFailed)


def test_a_switchover_failed_if_a_host_that_it_did_not_go_to_has_the_guest() -> None:
    pair = Pair().protected()
    switchover = switching(pair)
    pair.store.record = Record(3, "c1", None)

    pair.a.answer()

    assert switchover.error == "the record (generation 3) names c1 active"
    assert not pair.a.told(SwitchFailed)


def test_an_active_that_stops_while_switching_leaves_the_proposal_alone() -> None:
    pair = Pair().protected()
    switching(pair)

    pair.a.stop(StopKind.ASKED, "maintenance")
    pair.a.perform()

    assert not pair.a.waiting(Leave)
    assert pair.a.active.link is LinkState.SWITCHING


def test_a_standby_that_starts_afresh_while_the_switch_is_open_is_given_up_only_when_that_is_resolved() -> None:
    """Mutant: its JOIN makes it count as lost at once, and the link's table has no row for that."""
    pair = Pair().protected()
    switching(pair)
    pair.b = pair.boot("b", pair.a.core.settings, "a", starts=False, prefix="n")

    pair.b.tick()
    pair.carry(pair.b, pair.a)
    link, proposed = pair.a.active.link, pair.a.outstanding
    pair.a.refuse()
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED and pair.store.record.standby == pair.b.id)

    assert (link, proposed) == (LinkState.SWITCHING, CompareAndSet(Record(3, "b1", "a1")))
    assert pair.a.is_running
