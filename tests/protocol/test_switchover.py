"""A planned switchover, step by step: what must be true before it is proposed, and what happens when it goes wrong."""

from dataclasses import replace

import pytest

from ftvm.config import Timing
from ftvm.encode.messages import Copy, Join, Leave, Prepare, Prepared, Welcome
from ftvm.errors import LocalProtocolError
from ftvm.events import Diverged, HostFailed, SwitchedAway, SwitchedHere, SwitchFailed, TookOver
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol import claiming
from ftvm.protocol import effects as do
from ftvm.protocol.core import Role
from ftvm.protocol.link import LinkState
from ftvm.protocol.switchover import Switchover
from ftvm.protocol.takeover import ClaimState
from ftvm.units import Nanos

from .harness import MS, Host, Pair

LIMIT = Nanos(5_000 * MS)
BACKUP_LIMIT_MS = Timing().backup_limit_ns / MS
PRIMARY_LIMIT_MS = Timing().primary_limit_ns / MS


def begin(pair: Pair, limit_ns: Nanos = LIMIT) -> Switchover:
    switchover = pair.a.replica.begin_switchover(limit_ns, pair.now)
    pair.a.perform()
    return switchover


def switching(pair: Pair) -> Switchover:
    """Bring the pair to where a has proposed the SWITCH and nobody has answered."""
    switchover = begin(pair)
    pair.until(lambda: pair.a.active.link is LinkState.SWITCHING)
    pair.a.tick()
    return switchover


def switched(pair: Pair) -> Pair:
    """Bring the guest from a to b."""
    begin(pair)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    return pair


def live_on(pair: Pair, host: Host, milliseconds: float) -> None:
    """Let one host live on while nothing from the other arrives."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        host.tick()
        if host.outstanding is not None:
            host.answer()


# --- it works ------------------------------------------------------------------------------------------------------


def test_the_guest_goes_on_at_the_standby_and_the_old_active_stands_by() -> None:
    pair = Pair().protected()
    pair.a.emit(b"one", b"two")

    switchover = begin(pair)
    pair.until(lambda: switchover.is_over)
    pair.run(200)

    assert switchover.error is None
    assert pair.store.record == Record(3, "b1", "a1")
    assert (pair.a.role, pair.b.role) == (Role.STANDBY, Role.ACTIVE)
    assert (pair.a.is_running, pair.b.is_running) == (False, True)
    assert pair.a.told(SwitchedAway)
    assert pair.b.told(SwitchedHere)
    assert not pair.b.told(TookOver)


def test_no_page_is_copied_again_and_nobody_joins_afresh() -> None:
    pair = switched(Pair().protected())
    seen: list[object] = []

    for _ in range(40):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer()
            seen += [sent.message for sent in host.sent]
            pair.carry(host, other)

    assert not [message for message in seen if isinstance(message, Copy | Join | Welcome)]
    assert pair.a.id == "a1"
    assert pair.a.standby.committed.epoch == pair.b.active.epoch
    assert pair.b.active.link is LinkState.PROTECTED


def test_outputs_are_protected_from_the_first_one_on() -> None:
    pair = switched(Pair().protected())

    pair.b.emit(b"held")
    at_once = pair.b.said
    pair.run(200)

    assert at_once == []
    assert pair.b.said == [b"held"]


def test_the_old_active_takes_over_again_from_what_the_new_one_shipped() -> None:
    pair = switched(Pair().protected())
    pair.b.emit(b"after the switch")
    pair.until(lambda: pair.b.said)
    value = pair.b.value

    live_on(pair, pair.a, 2 * BACKUP_LIMIT_MS)

    assert pair.a.role is Role.ACTIVE
    assert pair.store.record == Record(4, "a1", None)
    assert pair.a.value == value


def test_a_guest_goes_there_and_back_and_there_again() -> None:
    pair = switched(Pair().protected())
    for host in (pair.b, pair.a):
        pair.run(100)
        host.emit(b"x")
        host.replica.begin_switchover(LIMIT, pair.now)
        other = pair.a if host is pair.b else pair.b

        pair.until(lambda other=other: other.role is Role.ACTIVE)  # type: ignore[misc]

    assert pair.store.record == Record(5, "b1", "a1")


def test_what_may_not_have_left_the_old_active_leaves_the_new_one_again() -> None:
    pair = Pair().protected()
    pair.a.active._ping_at = Nanos(pair.now + 10_000 * MS)  # no heartbeat, so b is not told what has left
    pair.a.emit(b"one")
    pair.until(lambda: pair.a.said)

    switched(pair)
    pair.run(100)

    assert pair.a.said == pair.b.said == [b"one"]


# --- what must be true before the proposal ---------------------------------------------------------------------------


def test_nothing_is_proposed_before_the_standby_says_that_it_has_loaded_the_last_epoch() -> None:
    pair = Pair().protected()
    begin(pair)
    pair.until(lambda: any(prepare.epoch for prepare in pair.a.waiting(Prepare)))
    assert pair.b.standby.claim.state is ClaimState.WATCHING

    pair.carry(pair.a, pair.b)
    loaded = [type(effect) for effect in pair.b.performed if isinstance(effect, do.Load | do.Adopt)]
    before = pair.a.active.link
    pair.carry(pair.b, pair.a)

    assert loaded == [do.Load, do.Adopt]
    assert before is LinkState.HANDING
    assert pair.a.active.link is LinkState.SWITCHING


def test_a_word_about_an_older_epoch_is_not_taken() -> None:
    """Mutant: an older confirmation is taken."""
    pair = Pair().protected()
    begin(pair)
    pair.until(lambda: any(prepared.epoch for prepared in pair.b.waiting(Prepared)))
    sent = next(sent for sent in pair.b.sent if isinstance(sent.message, Prepared) and sent.message.epoch)
    pair.b.sent.clear()
    late = replace(sent.message, epoch=sent.message.epoch - 1)

    pair.a.replica.on_message("b", None, sent.envelope, late, pair.now)

    assert pair.a.active.link is LinkState.HANDING


def test_the_guest_runs_while_the_switchover_settles_and_stands_still_from_the_last_cut_on() -> None:
    pair = Pair().protected()

    begin(pair)
    settling = pair.a.active.must_stand_still()
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)

    assert not settling
    assert pair.a.active.must_stand_still()


def test_the_guest_is_not_stopped_while_the_arbiter_does_not_answer() -> None:
    pair = Pair().protected()
    switchover = begin(pair, Nanos(300 * MS))

    for _ in range(80):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer(is_applied=False)
            pair.carry(host, other)
        assert not pair.a.active.must_stand_still()

    assert switchover.error == "it took too long (settling)"
    assert pair.a.active.link is LinkState.PROTECTED


def test_a_guest_that_never_stops_talking_is_switched_over() -> None:
    """Regression of the prototype (4): empty epochs kept a switchover from ever finishing."""
    pair = Pair().protected()
    switchover = begin(pair)

    for _ in range(200):
        if switchover.is_over:
            break
        if pair.a.role is Role.ACTIVE and not pair.a.active.must_stand_still():
            pair.a.emit(b"chatter")
        pair.run(5)

    assert switchover.is_over
    assert switchover.error is None


def test_all_outputs_have_left_before_the_guest_goes() -> None:
    pair = Pair().protected()
    pair.a.emit(*[b"%d" % number for number in range(10)])

    switched(pair)

    assert pair.a.said == [b"%d" % number for number in range(10)]


# --- unresolved ----------------------------------------------------------------------------------------------------


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

    second = begin(pair)
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


def test_a_standby_that_takes_over_by_itself_meanwhile_deposes_the_active() -> None:
    pair = Pair().protected()
    switchover = switching(pair)
    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)
    assert pair.store.record == Record(3, "b1", None)

    pair.a.answer()

    assert pair.a.role is Role.EMPTY
    assert not pair.a.is_running
    assert switchover.error is not None


def test_an_active_that_leaves_while_switching_leaves_the_proposal_alone() -> None:
    pair = Pair().protected()
    switching(pair)

    pair.a.replica.leave("maintenance", pair.now)
    pair.a.perform()

    assert pair.a.waiting(Leave)
    assert pair.a.active.link is LinkState.SWITCHING


# --- it comes to nothing ---------------------------------------------------------------------------------------------


def test_a_state_that_does_not_load_is_never_proposed_and_the_guest_goes_on_here() -> None:
    pair = Pair().protected()
    pair.b.load_error = "wrong registers"

    switchover = begin(pair)
    pair.until(lambda: switchover.is_over)
    pair.run(300)

    assert switchover.error == "the standby cannot run the guest: wrong registers"
    assert pair.store.record == Record(2, "a1", "b1")
    assert pair.a.active.link is LinkState.PROTECTED
    assert not pair.a.active.must_stand_still()
    assert pair.b.standby.claim.state is ClaimState.WATCHING
    assert [event.reason for event in pair.a.told(SwitchFailed)] == [switchover.error]


def test_a_standby_that_dies_before_the_proposal_is_dropped_and_the_guest_goes_on_here() -> None:
    pair = Pair().protected()
    switchover = begin(pair)
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)
    pair.a.sent.clear()

    live_on(pair, pair.a, PRIMARY_LIMIT_MS + 200)

    assert switchover.error is not None
    assert pair.store.record == Record(3, "a1", None)
    assert not pair.a.active.must_stand_still()


def test_a_switchover_that_is_called_off_can_be_asked_for_again() -> None:
    pair = Pair().protected()
    pair.b.load_error = "busy"
    first = begin(pair)
    pair.until(lambda: first.is_over)
    pair.b.load_error = None
    pair.run(100)

    second = begin(pair)
    pair.until(lambda: second.is_over)

    assert second.error is None
    assert pair.b.role is Role.ACTIVE


def test_a_prepared_standby_goes_on_committing_when_the_active_ships_on() -> None:
    pair = Pair().protected()
    begin(pair, Nanos(60 * MS))
    pair.until(lambda: pair.b.standby.claim.state is ClaimState.PREPARED)
    pair.b.sent.clear()  # its word is lost
    epoch = pair.b.standby.committed.epoch
    for _ in range(20):
        pair.elapse(5)
        pair.a.tick()

    pair.run(200)

    assert pair.a.told(SwitchFailed)
    assert pair.b.standby.claim.state is ClaimState.WATCHING
    assert (pair.b.standby.committed.epoch or 0) > (epoch or 0) + 2


def test_a_prepared_standby_takes_over_when_the_active_dies() -> None:
    pair = Pair().protected()
    begin(pair)
    pair.until(lambda: pair.b.standby.claim.state is ClaimState.PREPARED)

    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)

    assert pair.b.role is Role.ACTIVE
    assert pair.store.record == Record(3, "b1", None)


@pytest.mark.parametrize("link", [LinkState.NONE, LinkState.COPYING, LinkState.ADDING, LinkState.SETTLING])
def test_without_a_standby_in_step_a_switchover_is_refused(link: LinkState) -> None:
    pair = Pair().protected()
    pair.a.active.link = link

    with pytest.raises(LocalProtocolError, match="cannot switch over while the link to the standby is"):
        begin(pair)


def test_only_the_active_can_switch_over() -> None:
    pair = Pair().protected()

    with pytest.raises(LocalProtocolError, match="only the active host can switch over; this one is standby"):
        pair.b.replica.begin_switchover(LIMIT, pair.now)


# --- one of the two dies at the switch -----------------------------------------------------------------------------


def test_the_old_active_takes_the_guest_back_if_the_new_one_dies_at_once() -> None:
    pair = Pair().protected()
    switchover = switching(pair)
    pair.a.answer()
    assert pair.a.role is Role.STANDBY

    live_on(pair, pair.a, 5 * BACKUP_LIMIT_MS)

    assert pair.a.role is Role.ACTIVE
    assert pair.store.record == Record(4, "a1", None)
    assert pair.a.is_running
    assert switchover.error is not None


def test_the_new_active_drops_the_old_one_if_that_dies_at_once() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.answer(is_lost=True)
    pair.a.sent.clear()
    live_on(pair, pair.b, 200)
    assert pair.b.role is Role.ACTIVE
    pair.b.emit(b"held")
    before = pair.b.said

    live_on(pair, pair.b, 5 * PRIMARY_LIMIT_MS)

    assert before == []
    assert pair.store.record == Record(4, "b1", None)
    assert pair.b.said == [b"held"]


def test_a_new_active_that_can_no_longer_load_leaves_the_guest_to_the_old_one() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.answer()
    claiming.call_off(pair.b.standby, pair.now)  # a suspicion that was called off has unloaded it
    pair.b.load_error = "the hypervisor is gone"

    pair.until(lambda: pair.a.role is Role.ACTIVE)
    pair.run(1_500)

    assert pair.b.told(HostFailed)
    assert not pair.b.is_running
    assert pair.b.id == "b2"
    assert pair.a.is_running


def test_memory_that_is_not_what_was_handed_over_never_stands_by() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.value += 1

    pair.a.answer()

    assert pair.a.role is Role.EMPTY
    assert pair.a.id == "a2"
    assert "was handed over" in pair.a.told(Diverged)[0].reason
