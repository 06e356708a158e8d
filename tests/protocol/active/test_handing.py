"""How an active hands its guest over: what must be true before the SWITCH is proposed, and how it is called off."""

from dataclasses import replace

import pytest

from ftvm.config import Timing
from ftvm.encode.messages import Prepare, Prepared
from ftvm.engines.remus import Remus
from ftvm.errors import LocalProtocolError
from ftvm.events import SwitchFailed
from ftvm.interfaces import Record
from ftvm.protocol import effects as do
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.session import HANDING_LIMITS
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.units import Nanos

from ..harness import MS, Pair
from ..situations import (
    BACKUP_LIMIT_MS,
    PRIMARY_LIMIT_MS,
    SWITCHOVER_LIMIT,
    begin_switchover,
    live_on,
    live_while_b_has_no_arbiter,
    switched,
    switching,
)

POLL_MS = Timing().arbiter_poll_ns / MS

# --- what must be true before the proposal ---------------------------------------------------------------------------


def test_nothing_is_proposed_before_the_standby_says_that_it_has_loaded_the_last_epoch() -> None:
    pair = Pair().protected()
    begin_switchover(pair)
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
    begin_switchover(pair)
    pair.until(lambda: any(prepared.epoch for prepared in pair.b.waiting(Prepared)))
    sent = next(sent for sent in pair.b.sent if isinstance(sent.message, Prepared) and sent.message.epoch)
    pair.b.sent.clear()
    late = replace(sent.message, epoch=sent.message.epoch - 1)

    pair.a.hear("b", None, sent.envelope, late)

    assert pair.a.active.link is LinkState.HANDING


def test_the_guest_runs_while_the_switchover_settles_and_stands_still_from_the_last_cut_on() -> None:
    pair = Pair().protected()

    begin_switchover(pair)
    settling = pair.a.active.must_stand_still()
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)

    assert not settling
    assert pair.a.active.must_stand_still()


def test_the_guest_is_not_stopped_while_the_arbiter_does_not_answer() -> None:
    pair = Pair().protected()
    switchover = begin_switchover(pair, Nanos(300 * MS))

    for _ in range(80):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer(is_applied=False)
            pair.carry(host, other)
        assert not pair.a.active.must_stand_still()

    assert switchover.error == "it took too long: the arbiter has not answered (the answer was lost)"
    assert pair.a.active.link is LinkState.PROTECTED


def test_a_guest_that_never_stops_talking_is_switched_over() -> None:
    """Regression of the prototype (4): empty epochs kept a switchover from ever finishing."""
    pair = Pair().protected()
    switchover = begin_switchover(pair)

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


def test_a_guest_is_not_handed_to_a_standby_whose_arbiter_is_silent() -> None:
    """Regression: it was, and ran nowhere, as its new host could not learn that it had come."""
    pair = Pair().protected()
    live_while_b_has_no_arbiter(pair, POLL_MS + 500)

    switchover = begin_switchover(pair)
    live_while_b_has_no_arbiter(pair, 200)

    assert switchover.error == (
        "the standby cannot run the guest: on its side the arbiter has not answered (the answer was lost)"
    )
    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.store.record == Record(2, "a1", "b1")


def test_a_standby_whose_arbiter_is_only_slow_gets_the_guest() -> None:
    pair = Pair().protected()
    while pair.b.outstanding is None:
        pair.elapse(5)
        pair.b.tick()
    asked, pair.b.outstanding = pair.b.outstanding, None
    switchover = begin_switchover(pair)
    for _ in range(20):
        pair.elapse(5)
        pair.a.tick()
        if pair.a.outstanding is not None:
            pair.a.answer()
        pair.carry(pair.a, pair.b)
        pair.b.perform()
        pair.carry(pair.b, pair.a)

    assert asked is not None
    assert switchover.is_warm


def test_a_switchover_that_a_silent_arbiter_forbade_is_done_once_that_answers() -> None:
    pair = Pair().protected()
    live_while_b_has_no_arbiter(pair, POLL_MS + 500)
    first = begin_switchover(pair)
    live_while_b_has_no_arbiter(pair, 200)
    pair.run(1_500)

    again = begin_switchover(pair)
    pair.until(lambda: again.is_over)

    assert first.error is not None
    assert again.error is None


# --- it comes to nothing ---------------------------------------------------------------------------------------------


def test_a_state_that_does_not_load_is_never_proposed_and_the_guest_goes_on_here() -> None:
    pair = Pair().protected()
    pair.b.load_error = "wrong registers"

    switchover = begin_switchover(pair)
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
    switchover = begin_switchover(pair)
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)
    pair.a.sent.clear()

    live_on(pair, pair.a, PRIMARY_LIMIT_MS + 200)

    assert switchover.error is not None
    assert pair.store.record == Record(3, "a1", None)
    assert not pair.a.active.must_stand_still()


def test_a_switchover_that_is_called_off_can_be_asked_for_again() -> None:
    pair = Pair().protected()
    pair.b.load_error = "busy"
    first = begin_switchover(pair)
    pair.until(lambda: first.is_over)
    pair.b.load_error = None
    pair.run(100)

    second = begin_switchover(pair)
    pair.until(lambda: second.is_over)

    assert second.error is None
    assert pair.b.role is Role.ACTIVE


def test_a_prepared_standby_goes_on_committing_when_the_active_ships_on() -> None:
    pair = Pair().protected()
    begin_switchover(pair, Nanos(60 * MS))
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
    begin_switchover(pair)
    pair.until(lambda: pair.b.standby.claim.state is ClaimState.PREPARED)

    live_on(pair, pair.b, 3 * BACKUP_LIMIT_MS)

    assert pair.b.role is Role.ACTIVE
    assert pair.store.record == Record(3, "b1", None)


@pytest.mark.parametrize("link", sorted(set(LinkState) - {LinkState.PROTECTED}, key=lambda link: link.value))
def test_a_switchover_that_cannot_be_is_refused_in_an_operators_words(link: LinkState) -> None:
    """Regression: the answer was the link's name in the protocol, to be waited for though the host was stopping."""
    pair = Pair().protected()
    pair.a.active.link = link

    with pytest.raises(LocalProtocolError, match=r"cannot switch over: (no|the|a|this) ") as refused:
        begin_switchover(pair)

    assert link.value not in str(refused.value).split()


def test_only_the_active_can_switch_over() -> None:
    pair = Pair().protected()

    with pytest.raises(LocalProtocolError, match="only the active host can switch over; this one is standby"):
        pair.b.replica.begin_switchover(SWITCHOVER_LIMIT, pair.now)


def live_without_prepared(pair: Pair, milliseconds: float, *, is_warm: bool) -> None:
    """Let both live on while b's word that it has loaded is lost, or, unless `is_warm`, that its shadow is warm."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer()
            lost = [s for s in host.sent if isinstance(s.message, Prepared) and bool(s.message.epoch) is is_warm]
            for sent in lost:
                host.sent.remove(sent)
            pair.carry(host, other)


def test_nothing_is_cut_behind_the_epoch_that_the_guest_is_handed_over_at() -> None:
    """Mutant: epochs are cut on, and the standby has to load again what it was to be ready with."""
    pair = Pair().protected()
    begin_switchover(pair)
    pair.until(lambda: pair.a.active.link is LinkState.HANDING)
    epoch = pair.a.active.epoch

    live_without_prepared(pair, PRIMARY_LIMIT_MS, is_warm=True)

    assert pair.a.active.link is LinkState.HANDING
    assert pair.a.active.epoch == epoch


def test_the_guest_does_not_stand_still_for_long_however_much_time_the_switchover_has() -> None:
    """Mutant: only the caller's limit bounds the pause."""
    pair = Pair().protected()
    switchover = begin_switchover(pair, Nanos(600_000 * MS))

    live_without_prepared(pair, (HANDING_LIMITS + 1) * PRIMARY_LIMIT_MS, is_warm=True)

    assert switchover.error == "it took too long: the standby has not loaded the last checkpoint"
    assert not pair.a.active.must_stand_still()


def test_the_guest_is_not_stopped_before_the_standbys_shadow_is_warm() -> None:
    """Mutant: only the arbiter and the epochs under way are waited for, and the guest stands still for the copying."""
    pair = Pair().protected()
    begin_switchover(pair)

    live_without_prepared(pair, 300, is_warm=False)

    assert pair.a.active.link is LinkState.SETTLING
    assert not pair.a.active.must_stand_still()


def test_the_engine_is_not_changed_on_the_host_that_hands_the_guest_over() -> None:
    """The last epoch says under which engine the guest goes on over there."""
    pair = Pair().protected()
    switching(pair)

    with pytest.raises(LocalProtocolError, match="set the engine on the host that it goes to"):
        pair.a.replica.set_engine(Remus(interval=0.05))

    assert pair.a.active.schedule.wanted is None
