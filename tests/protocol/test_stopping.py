"""A host that stops in order leaves nothing to clean up, at whatever moment it was asked; else it says so."""

import pytest

from ftvm.config import Timing
from ftvm.encode.messages import Leave
from ftvm.events import SwitchFailed
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.active import leaving
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.protocol.stop import HAND_OVER_NS, LIMIT_NS, TAKE_NS, StopKind
from ftvm.units import Nanos

from .harness import MS, Pair, make_settings
from .situations import (
    BACKUP_LIMIT_MS,
    IN_ORDER,
    NOT_IN_ORDER,
    SWITCHOVER_LIMIT,
    UNDER_WAY,
    begin_switchover,
    claiming,
    live_on,
    live_while_b_has_no_arbiter,
    live_without_arbiter,
    outcome,
    said,
    stop,
    switching,
)

HAND_OVER_MS, TAKE_MS, LIMIT_MS = HAND_OVER_NS // MS, TAKE_NS // MS, LIMIT_NS // MS


# --- an active -------------------------------------------------------------------------------------------------------


def test_an_active_that_stops_hands_the_guest_over_and_goes_when_that_is_answered() -> None:
    pair = Pair().protected()

    stop(pair.a)
    pair.run(500)

    assert outcome(pair.a) == IN_ORDER
    assert (pair.b.role, pair.b.is_running, pair.a.is_running) == (Role.ACTIVE, True, False)
    assert pair.store.record == Record(4, "b1", None)


def test_an_active_whose_standby_has_no_arbiter_keeps_its_guest_and_leaves_no_record_of_it() -> None:
    """Regression: the guest was handed over, ran nowhere, and the record named two hosts of which one was gone."""
    pair = Pair().protected()
    live_while_b_has_no_arbiter(pair, Timing().arbiter_poll_ns / MS + 500)

    stop(pair.a)
    live_while_b_has_no_arbiter(pair, 100)
    failed = [event.reason for event in pair.a.told(SwitchFailed)]
    live_while_b_has_no_arbiter(pair, 2 * TAKE_MS)

    assert failed == [
        "the standby cannot run the guest: on its side the arbiter has not answered (the answer was lost)"
    ]
    assert pair.store.record == Record(3, None, None)
    assert outcome(pair.a) == IN_ORDER


@pytest.mark.parametrize("is_active", [True, False])
def test_who_stops_names_the_other_host_that_holds_the_guest_before_any_force(*, is_active: bool) -> None:
    """Regression: the first advice was `ftvm init --force`, which ends the guest that the other host holds."""
    pair = Pair().protected()
    host, other = (pair.a, pair.b) if is_active else (pair.b, pair.a)

    advice = host.core.naming()

    assert f"The other host, {other.id}, holds the guest: run `ftvm status` there" in advice
    assert advice.index("Only if that host is lost for good") < advice.index("ftvm init --force")


def test_who_stops_alone_is_told_how_to_move_the_record() -> None:
    pair = Pair()
    pair.run(20)

    assert ", standby none). If no host runs the guest any more, run `ftvm init --force " in pair.a.core.naming()


def test_an_active_whose_standby_is_silent_waits_for_it_and_drops_nobody() -> None:
    """Regression: the silence had it propose the DROP, and it closed with that open: the record named the dead."""
    pair = Pair().protected()
    stop(pair.a)

    live_on(pair, pair.a, HAND_OVER_MS - 200)
    records = pair.store.record
    pair.run(200)

    assert records == Record(2, "a1", "b1")
    assert outcome(pair.a) == IN_ORDER
    assert pair.b.role is Role.ACTIVE


def test_a_standby_that_wakes_too_late_for_a_switchover_takes_over() -> None:
    pair = Pair().protected()
    stop(pair.a)

    live_on(pair, pair.a, HAND_OVER_MS + 300)
    link = pair.a.active.link
    pair.run(200)

    assert link is LinkState.LEAVING
    assert outcome(pair.a) == IN_ORDER
    assert (pair.b.role, pair.b.is_running) == (Role.ACTIVE, True)


def test_an_active_whose_standby_stays_silent_vacates_the_record() -> None:
    pair = Pair().protected()
    stop(pair.a)

    live_on(pair, pair.a, HAND_OVER_MS + TAKE_MS + 500)

    assert outcome(pair.a) == IN_ORDER
    assert pair.store.record == Record(3, None, None)
    assert not pair.a.is_running
    assert "the guest has ended here" in str(pair.a.core.stop.outcome)


def test_the_guest_stands_still_once_the_standby_was_asked_to_take_it() -> None:
    pair = Pair().protected()
    stop(pair.a)
    live_on(pair, pair.a, HAND_OVER_MS + 300)

    must_stand_still = pair.a.active.must_stand_still()
    may_beat = pair.a.replica.end_step(pair.now).may_beat
    pair.a.sent.clear()
    live_on(pair, pair.a, 500)

    assert must_stand_still
    assert not may_beat
    assert {type(sent.message) for sent in pair.a.sent} <= {Leave}


def test_an_active_without_an_arbiter_proposes_nothing_and_says_that_it_is_not_in_order() -> None:
    pair = Pair().protected()
    stop(pair.a)

    live_without_arbiter(pair, pair.a, LIMIT_MS + 200)

    assert outcome(pair.a) == NOT_IN_ORDER
    assert pair.a.core.arbiter.proposal is None
    assert pair.store.record == Record(2, "a1", "b1")
    assert "the standby cannot take over until it does" in str(pair.a.core.stop.outcome)


def test_an_active_that_runs_the_guest_alone_vacates_the_record() -> None:
    pair = Pair().started()

    stop(pair.a)
    live_on(pair, pair.a, 50)

    assert pair.store.record == Record(2, None, None)
    assert outcome(pair.a) == IN_ORDER


def test_a_vacate_that_nobody_answers_is_not_in_order() -> None:
    """Regression: exit status 0, and not a word, where the arbiter's folder had been moved away."""
    pair = Pair().started()
    stop(pair.a)

    live_without_arbiter(pair, pair.a, LIMIT_MS + 200)

    assert outcome(pair.a) == NOT_IN_ORDER
    assert "run `ftvm init --force --arbiter URL --guest vm`" in str(pair.a.core.stop.outcome)


@pytest.mark.parametrize("link", [LinkState.COPYING, LinkState.CATCHING_UP])
def test_a_joiner_that_the_record_does_not_name_is_not_waited_for(link: LinkState) -> None:
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is link)

    stop(pair.a)

    assert pair.a.active.link is LinkState.VACATING
    assert pair.a.waiting(Leave)


def test_an_open_add_is_waited_for_and_the_guest_handed_to_whom_it_names() -> None:
    pair = Pair().started()
    pair.until(lambda: isinstance(pair.a.outstanding, CompareAndSet))

    stop(pair.a)
    link = pair.a.active.link
    pair.run(200)

    assert link is LinkState.ADDING
    assert outcome(pair.a) == IN_ORDER
    assert pair.b.role is Role.ACTIVE


def test_an_open_drop_is_waited_for_and_the_record_vacated() -> None:
    pair = Pair().protected()
    pair.b.stop(StopKind.ASKED, "a test")
    pair.until(lambda: pair.a.active.link is LinkState.DROPPING)

    stop(pair.a)
    is_over, _ = outcome(pair.a)
    pair.run(100)

    assert not is_over
    assert outcome(pair.a) == outcome(pair.b) == IN_ORDER
    assert pair.store.record == Record(4, None, None)


def test_an_open_switch_is_waited_for() -> None:
    pair = Pair().protected()
    switching(pair)

    stop(pair.a)
    live_without_arbiter(pair, pair.a, LIMIT_MS // 2)

    assert pair.a.active.link is LinkState.SWITCHING
    assert outcome(pair.a) == UNDER_WAY


def test_an_active_that_stops_takes_nobody_in() -> None:
    pair = Pair().protected()
    stop(pair.a)
    pair.b = pair.boot("b", make_settings(), "a", starts=False, prefix="z")

    pair.run(100)

    assert pair.b.role is Role.EMPTY


def test_a_guest_that_failed_is_the_standbys_and_the_record_never_vacated() -> None:
    """What the standby holds is all there is."""
    pair = Pair().protected()

    stop(pair.a, StopKind.FAILED)
    live_on(pair, pair.a, LIMIT_MS + 200)

    assert outcome(pair.a) == NOT_IN_ORDER
    assert pair.store.record == Record(2, "a1", "b1")


def test_a_drop_that_was_not_sent_when_the_guest_failed_is_taken_back() -> None:
    """Found by seed 4172: the standby was suspected in the very step in which the guest was found to have failed."""
    pair = Pair().protected()
    leaving.lose(pair.a.active, "the standby was silent", pair.now)
    link = pair.a.active.link

    stop(pair.a, StopKind.FAILED)
    pair.run(200)

    assert link is LinkState.DROPPING
    assert pair.b.role is Role.ACTIVE
    assert outcome(pair.a) == IN_ORDER


def test_a_standby_that_left_is_not_waited_for_when_the_guest_fails() -> None:
    """Found by seed 10897, where the guest had died before its standby was stopped."""
    pair = Pair().protected()
    stop(pair.b)
    pair.carry(pair.b, pair.a)

    stop(pair.a, StopKind.FAILED)
    pair.run(200)

    assert outcome(pair.a) == outcome(pair.b) == IN_ORDER
    assert pair.store.record == Record(4, None, None)


def test_a_drop_that_was_sent_before_the_guest_failed_is_waited_for() -> None:
    pair = Pair().protected()
    leaving.lose(pair.a.active, "the standby was silent", pair.now)
    pair.until(lambda: isinstance(pair.a.outstanding, CompareAndSet))

    stop(pair.a, StopKind.FAILED)

    assert pair.a.active.link is LinkState.DROPPING
    assert pair.a.core.arbiter.proposal == Record(3, "a1", None)


def test_a_guest_that_failed_while_its_host_stopped_is_not_handed_over() -> None:
    pair = Pair().protected()
    stop(pair.a)
    link = pair.a.active.link

    stop(pair.a, StopKind.FAILED)

    assert link is LinkState.SETTLING
    assert pair.a.active.link is LinkState.LEAVING


def test_a_guest_that_ended_vacates_whoever_stands_by_and_says_so_until_that_is_in_force() -> None:
    pair = Pair().protected()

    stop(pair.a, StopKind.ENDED)
    pair.elapse(60)
    pair.a.tick()
    told = [leave.is_end for leave in pair.a.waiting(Leave)]
    pair.a.answer()
    pair.a.tick()

    assert told == [True, True]
    assert pair.store.record == Record(3, None, None)
    assert outcome(pair.a) == IN_ORDER


@pytest.mark.parametrize("milliseconds", range(10, 200, 10))
def test_a_guest_that_an_operator_ends_at_any_moment_leaves_a_vacant_record(milliseconds: int) -> None:
    pair = Pair()
    pair.run(milliseconds)

    stop(pair.a, StopKind.ENDED)
    pair.run(2 * LIMIT_MS)

    assert outcome(pair.a) == IN_ORDER
    assert pair.store.record.active is None
    assert pair.b.role is not Role.ACTIVE


def test_a_halted_active_gives_its_lost_standby_time_before_it_vacates_the_record() -> None:
    pair = Pair(make_settings(halts_alone=True)).protected()
    pair.b.stop(StopKind.ASKED, "a test")
    pair.until(lambda: pair.a.active.link is LinkState.NONE)

    stop(pair.a)
    live_on(pair, pair.a, TAKE_MS - 100)
    record = pair.store.record
    live_on(pair, pair.a, 200)

    assert record == Record(2, "a1", "b1")
    assert pair.store.record == Record(3, None, None)


def test_a_guest_that_is_not_handed_over_by_a_stop_is_not_said_to_go_on() -> None:
    """Regression: Ctrl-C told that the guest goes on where it was, and the guest ended."""
    stopped, asked = Pair().protected(), Pair().protected()
    begin_switchover(asked)

    stop(stopped.a)
    live_on(stopped, stopped.a, HAND_OVER_MS + TAKE_MS + 500)
    live_on(asked, asked.a, SWITCHOVER_LIMIT // MS + 100)

    assert [failed.is_stopping for failed in stopped.a.told(SwitchFailed)] == [True]
    assert [failed.is_stopping for failed in asked.a.told(SwitchFailed)] == [False]


def test_a_standby_that_leaves_a_halting_active_that_leaves_too_breaks_nothing() -> None:
    """Found by seed 5453: no row of the link's table."""
    pair = Pair(make_settings(halts_alone=True)).protected()
    stop(pair.a)
    live_on(pair, pair.a, HAND_OVER_MS + 300)
    link = pair.a.active.link

    stop(pair.b)
    pair.run(TAKE_MS + 500)

    assert link is LinkState.LEAVING
    assert outcome(pair.a) == IN_ORDER
    assert (pair.store.record.active, pair.store.record.standby) == (None, None)


def test_a_standby_that_leaves_while_the_record_is_vacated_breaks_nothing() -> None:
    """Mutant: it counts as lost, and the link's table has no row for that."""
    pair = Pair().protected()
    stop(pair.a, StopKind.ENDED)
    pair.a.sent.clear()

    stop(pair.b)
    pair.carry(pair.b, pair.a)
    link = pair.a.active.link
    pair.run(500)

    assert link is LinkState.VACATING
    assert outcome(pair.a) == outcome(pair.b) == IN_ORDER
    assert pair.store.record == Record(3, None, None)


# --- a standby -------------------------------------------------------------------------------------------------------


def test_a_standby_that_stops_repeats_its_goodbye_until_it_is_answered() -> None:
    pair = Pair().protected()
    pair.a.sent.clear()
    pair.b.sent.clear()

    stop(pair.b)
    pair.elapse(60)
    pair.b.tick()
    said = len(pair.b.waiting(Leave))
    pair.carry(pair.b, pair.a)
    pair.carry(pair.a, pair.b)

    assert said == 2
    assert outcome(pair.b) == IN_ORDER


def test_a_standby_of_a_pair_that_bears_long_silences_stops_within_the_bound_of_every_stop() -> None:
    """Regression: it waited for four of its limits, twenty minutes, and its host was ended in the midst of that."""
    patient = Timing(backup_limit_ns=Nanos(300_000 * MS))
    pair = Pair(make_settings(timing=patient)).protected()

    stop(pair.b)
    live_on(pair, pair.b, LIMIT_MS + 200)

    assert outcome(pair.b) == NOT_IN_ORDER
    assert said(pair.b).startswith("the record still names this host (generation 2, active a1, standby b1)")


def test_a_standby_that_stops_does_not_take_over() -> None:
    pair = Pair().protected()
    stop(pair.b)

    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)

    assert pair.store.record == Record(2, "a1", "b1")
    assert pair.b.standby.claim.state is ClaimState.WATCHING


def test_a_standby_calls_off_what_it_has_not_claimed_and_waits_for_what_it_has() -> None:
    checking, proposed = Pair().protected(), Pair().protected()
    while checking.b.standby.claim.state is not ClaimState.CHECKING:
        checking.elapse(5)
        checking.b.tick()
    claiming(proposed)

    stop(checking.b)
    stop(proposed.b)
    live_without_arbiter(proposed, proposed.b, LIMIT_MS // 2)

    assert checking.b.standby.claim.state is ClaimState.WATCHING
    assert outcome(proposed.b) == UNDER_WAY


def test_a_standby_whose_claim_is_never_answered_says_that_it_may_still_get_the_guest() -> None:
    """Regression: it told only what the record says, and that may change once the host has gone."""
    pair = Pair().protected()
    claiming(pair)

    stop(pair.b)
    live_without_arbiter(pair, pair.b, LIMIT_MS + 200)

    assert outcome(pair.b) == NOT_IN_ORDER
    assert said(pair.b).startswith("this host has asked to run the guest, and may still get it: the arbiter has not")


def test_a_standby_that_has_become_active_while_it_stopped_vacates_the_record() -> None:
    pair = Pair().protected()
    claiming(pair)
    stop(pair.b)

    live_on(pair, pair.b, 200)

    assert pair.store.record == Record(4, None, None)
    assert outcome(pair.b) == IN_ORDER


def test_a_standby_that_is_prepared_for_a_switch_waits_for_what_becomes_of_it() -> None:
    pair = Pair().protected()
    switching(pair)
    stop(pair.b)

    live_without_arbiter(pair, pair.b, 10 * BACKUP_LIMIT_MS)
    is_over, _ = outcome(pair.b)
    pair.run(200)

    assert not is_over
    assert outcome(pair.b) == IN_ORDER
    assert pair.store.record.active != "b1"


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("apart_ms", [0, 5, 50, 100, 400])
def test_both_hosts_stopped_leave_a_vacant_record(first: str, apart_ms: int) -> None:
    """Regression: within 50 ms of each other, seven of seven pairs left a record of the dead."""
    pair = Pair().protected()
    hosts = (pair.a, pair.b) if first == "a" else (pair.b, pair.a)

    stop(hosts[0])
    pair.run(apart_ms)
    stop(hosts[1])
    pair.run(HAND_OVER_MS + TAKE_MS + 1000)

    assert outcome(pair.a) == outcome(pair.b) == IN_ORDER
    assert (pair.store.record.active, pair.store.record.standby) == (None, None)
