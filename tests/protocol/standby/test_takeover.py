"""How a standby comes to be active, and what becomes of who was (docs/protocol.md, "TAKE")."""

from ftvm.config import Timing
from ftvm.encode.messages import Ack, Leave, Ping
from ftvm.events import (
    ArbiterTrouble,
    HostFailed,
    HostStalled,
    Suspected,
    TookOver,
)
from ftvm.interfaces import CompareAndSet, Lane, Read, Record
from ftvm.protocol import effects as do
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import PeerGone, StateLoaded
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.protocol.stop import StopKind

from ..harness import MS, Pair
from ..situations import (
    BACKUP_LIMIT_MS,
    acknowledge_one_epoch,
    claiming,
    hint_of,
    silence,
    take_over,
)

REFUSED = "connection refused on both lanes"

# --- takeover --------------------------------------------------------------------------------------------------------


def test_a_standby_takes_over_when_the_active_is_silent_and_emits_again_what_may_not_have_left() -> None:
    pair = Pair().protected()
    pair.a.emit(b"one", b"two")
    pair.a.sent.clear()
    pair.until(lambda: pair.b.standby.committed.outputs and pair.a.said == [])
    take_over(pair)

    assert pair.store.record == Record(3, "b1", None)
    assert pair.b.said == [b"one", b"two"]
    assert pair.b.is_running
    assert pair.b.output_next == 3
    assert [event.outputs_emitted_again for event in pair.b.told(TookOver)] == [2]


def test_outputs_that_are_known_to_have_left_are_not_emitted_again() -> None:
    pair = Pair().protected()
    pair.a.emit(b"one")
    pair.run(200)
    assert pair.a.said == [b"one"]

    take_over(pair)

    assert pair.b.said == []
    assert pair.b.active.outputs.released == 1


def test_a_takeover_loads_before_it_claims() -> None:
    pair = Pair().protected()
    take_over(pair)

    kinds = [type(effect) for effect in pair.b.performed]
    assert kinds.index(do.Load) < kinds.index(do.RunGuest)


def test_an_active_whose_machine_was_suspended_and_saw_no_time_pass_releases_nothing() -> None:
    """A monotonic clock stands still while a machine sleeps: the first thing that it does awake is to go on."""
    pair = Pair().protected()
    pair.a.emit(b"held")
    asleep_at = pair.now
    take_over(pair)
    pair.b.sent.clear()

    pair.now = asleep_at
    for _ in range(3):
        pair.elapse(5)
        pair.a.tick()

    assert pair.a.role is Role.ACTIVE
    assert pair.a.said == []


def ping(pair: Pair) -> None:
    """Have b hear a sign of life of a, and nothing else."""
    pair.a.core.send("b", Lane.CONTROL, Ping(number=1), pair.b.standby.offer.session)
    pair.a.perform()
    pair.b.take(pair.a, pair.a.sent.pop())


def test_a_takeover_tells_what_it_cost_since_the_first_suspicion() -> None:
    """Regression: claims that had been called off were forgotten: 312 ms were told where the guest stood for 5.7 s."""
    pair = Pair().protected()
    pair.b.load_error = "wrong registers"
    for _ in range(5):
        silence(pair, 1_000)
        ping(pair)
    assert len(pair.b.told(Suspected)) >= 5

    pair.b.load_error = None
    take_over(pair)

    (told,) = pair.b.told(TookOver)
    assert told.detection_ns + told.arbiter_ns >= 5_000 * MS
    assert told.load_ns < 1_000 * MS


def test_a_suspicion_that_was_wrong_costs_a_later_takeover_nothing() -> None:
    pair = Pair().protected()
    pair.b.load_error = "wrong registers"
    silence(pair, BACKUP_LIMIT_MS + 100)
    assert pair.b.told(Suspected)
    pair.b.load_error = None
    epoch = pair.b.standby.committed.epoch or 0
    pair.until(lambda: (pair.b.standby.committed.epoch or 0) > epoch)
    pair.run(2_000)

    take_over(pair)

    assert pair.b.told(TookOver)[0].arbiter_ns < 1_000 * MS


def test_a_state_that_does_not_load_is_never_claimed() -> None:
    pair = Pair().protected()
    pair.b.load_error = "wrong registers"

    silence(pair, 5_000)

    assert pair.store.record == Record(2, "a1", "b1")
    assert pair.b.role is Role.STANDBY
    assert pair.b.told(HostFailed)[0].error == "loading failed: wrong registers"
    assert 1 < len(pair.b.told(Suspected)) <= 5_000 / (Timing().read_interval_ns / MS)

    pair.b.load_error = None
    take_over(pair)

    assert pair.b.is_running


def test_nothing_is_claimed_without_a_read_begun_after_the_suspicion() -> None:
    pair = Pair().protected()
    pair.b.core.arbiter.want_read()
    pair.b.tick()
    assert pair.b.outstanding == Read()
    pair.elapse(BACKUP_LIMIT_MS)
    pair.b.replica._stepped_at = pair.now
    pair.b.tick()
    assert pair.b.standby.claim.state is ClaimState.CHECKING

    pair.b.answer()
    state_after_the_old_read = pair.b.standby.claim.state
    pair.b.tick()
    pair.b.answer()

    assert state_after_the_old_read is ClaimState.CHECKING
    assert pair.b.standby.claim.state is ClaimState.CLAIMING


def test_a_take_whose_answer_is_lost_is_resolved_by_repeating_it() -> None:
    pair = Pair().protected()
    claiming(pair)

    for _ in range(3):
        assert pair.b.outstanding == CompareAndSet(Record(3, "b1", None))
        pair.b.answer(is_lost=True)
        assert (pair.b.role, pair.b.is_running) == (Role.STANDBY, False)
        pair.elapse(100)
        pair.b.tick()
    pair.b.answer()

    assert pair.b.role is Role.ACTIVE
    assert pair.store.record == Record(3, "b1", None)


def test_nothing_is_committed_or_acknowledged_while_a_claim_is_open() -> None:
    pair = Pair().protected()
    pair.a.emit(b"late")
    for _ in range(10):
        pair.elapse(5)
        pair.a.tick()
    claiming(pair)
    epoch = pair.b.standby.committed.epoch
    pair.b.sent.clear()

    pair.carry(pair.a, pair.b)
    pair.b.tick()

    assert pair.b.waiting(Ack) == []
    assert pair.b.standby.committed.epoch == epoch
    pair.b.answer()
    assert pair.b.said == []


def test_what_was_owed_before_a_claim_is_not_acknowledged_during_it() -> None:
    """rule: claimant_acknowledges_nothing"""
    pair = Pair().protected()
    claiming(pair)
    pair.b.standby.owes_ack = True
    pair.b.sent.clear()

    pair.b.tick()

    assert not pair.b.waiting(Ack)


def test_a_claim_that_loses_to_a_drop_empties_the_standby() -> None:
    pair = Pair().protected()
    claiming(pair)
    pair.store.record = Record(3, "a1", None)

    pair.b.answer()

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"
    assert not pair.b.is_running


def end_of(pair: Pair) -> do.Send:
    """The active's word that the guest came to its own end."""
    pair.a.sent.clear()
    pair.a.stop(StopKind.ENDED, "powered off")
    pair.a.perform()
    return next(sent for sent in pair.a.sent if isinstance(sent.message, Leave))


def test_a_guest_that_came_to_its_end_leaves_a_watching_standby_nothing_to_do() -> None:
    pair = Pair().protected()

    pair.b.take(pair.a, end_of(pair))

    assert pair.b.failures == ["powered off"]


def test_a_claim_under_way_outlives_the_word_that_the_guest_ended_and_goes_on_if_it_is_in_force() -> None:
    """Regression: the standby ended at once, and the record named a host that was no more."""
    pair = Pair().protected()
    claiming(pair)
    pair.b.take(pair.a, end_of(pair))
    at_once = list(pair.b.failures)

    pair.b.answer()

    assert at_once == pair.b.failures == []
    assert pair.b.role is Role.ACTIVE
    assert pair.store.record == Record(3, "b1", None)


def test_a_claim_that_lost_to_a_guest_that_ended_ends_the_standby() -> None:
    pair = Pair().protected()
    claiming(pair)
    pair.b.take(pair.a, end_of(pair))
    pair.store.record = Record(3, None, None)

    pair.b.answer()

    assert pair.b.failures == ["powered off"]


def test_a_claim_that_another_change_overtook_is_unloaded_and_the_standby_goes_on() -> None:
    pair = Pair().protected()
    claiming(pair)
    pair.store.record = Record(3, "a1", "b1")
    epoch = pair.b.standby.committed.epoch

    pair.b.answer()

    assert pair.b.role is Role.STANDBY
    assert pair.b.standby.claim.is_watching
    assert isinstance(pair.b.performed[-1], do.Unload)
    assert pair.b.standby.committed.epoch == epoch


def test_a_word_that_the_state_is_loaded_counts_for_nothing_once_its_claim_was_called_off() -> None:
    """Mutant: the next switchover to this host runs a guest that was unloaded again."""
    pair = Pair().protected()
    assert pair.b.standby.claim.state is ClaimState.WATCHING

    pair.b.give(StateLoaded())

    assert not pair.b.standby.claim.is_loaded


def test_a_sign_of_life_before_the_claim_calls_it_off() -> None:
    pair = Pair().protected()
    for _ in range(1000):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.standby.claim.state is ClaimState.CHECKING:
            break
    pair.a.tick()

    pair.carry(pair.a, pair.b)
    pair.b.answer()

    assert pair.b.standby.claim.is_watching
    assert pair.store.record == Record(2, "a1", "b1")


def test_without_the_arbiter_nobody_takes_over_and_the_claim_is_tried_again() -> None:
    pair = Pair().protected()
    for _ in range(400):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer(is_applied=False)

    assert pair.b.role is Role.STANDBY
    assert pair.b.told(ArbiterTrouble)

    take_over(pair)

    assert pair.b.role is Role.ACTIVE


def test_a_leaving_active_hurries_the_takeover() -> None:
    pair = Pair().protected()
    pair.a.stop(StopKind.FAILED, "its guest failed")
    pair.a.perform()
    pair.carry(pair.a, pair.b)

    pair.b.tick()

    assert pair.b.standby.claim.state is ClaimState.CHECKING


def test_a_peer_that_was_seen_to_end_is_suspected_at_once_by_either_side() -> None:
    pair = Pair().protected()

    pair.b.give(PeerGone("a"))
    pair.b.tick()
    pair.a.give(PeerGone("b"))
    pair.a.tick()

    assert pair.b.standby.claim.state is ClaimState.CHECKING
    assert pair.a.active.link is LinkState.DROPPING
    assert [event.reason for event in pair.b.told(Suspected)] == [f"the active's process is gone: {REFUSED}"]
    assert [event.reason for event in pair.a.told(Suspected)] == [f"the standby's process is gone: {REFUSED}"]


def test_a_takeover_after_a_goodbye_tells_what_was_said() -> None:
    pair = Pair().protected()
    pair.a.stop(StopKind.FAILED, "its guest failed: QEMU was ended by SIGKILL")
    pair.a.perform()
    pair.carry(pair.a, pair.b)

    pair.b.tick()

    reasons = [event.reason for event in pair.b.told(Suspected)]
    assert reasons == ["the active said goodbye: its guest failed: QEMU was ended by SIGKILL"]


def test_a_host_that_was_stopped_itself_does_not_suspect_its_peer_when_it_wakes() -> None:
    pair = Pair().protected()
    pair.elapse(60_000)

    pair.a.tick()
    pair.b.tick()

    for host in (pair.a, pair.b):
        assert [round(event.stall_ns / MS) for event in host.told(HostStalled)] == [60_000]
    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.b.standby.claim.is_watching


# --- deposed ---------------------------------------------------------------------------------------------------------


def test_a_deposed_active_stops_discards_what_it_held_and_takes_a_fresh_id() -> None:
    pair = Pair().protected()
    pair.a.emit(b"never safe")
    pair.a.sent.clear()
    pair.store.record = Record(3, "b1", None)

    pair.a.core.arbiter.want_read()
    pair.a.tick()
    pair.a.answer()

    assert (pair.a.role, pair.a.id, pair.a.is_running) == (Role.EMPTY, "a2", False)
    assert pair.a.said == []
    pair.a.emit(b"after")
    assert pair.a.said == []


def test_a_hint_holds_outputs_until_the_read_is_answered() -> None:
    pair = Pair().protected()
    hint_of(pair, generation=9)
    acknowledge_one_epoch(pair)

    held = pair.a.said
    pair.a.tick()
    pair.a.answer()

    assert held == []
    assert pair.a.said == [b"x"]


def test_a_hint_that_cannot_be_checked_holds_no_longer() -> None:
    pair = Pair().protected()
    hint_of(pair, generation=9)
    acknowledge_one_epoch(pair)

    held = pair.a.said
    pair.a.tick()
    pair.a.answer(is_applied=False)

    assert held == []
    assert pair.a.said == [b"x"]


def test_a_hint_is_never_believed() -> None:
    pair = Pair().protected()

    hint_of(pair, generation=9)
    pair.a.tick()
    pair.a.answer()

    assert pair.a.role is Role.ACTIVE
    assert pair.a.core.arbiter.known == Record(2, "a1", "b1")


# --- an arbiter that forgot ------------------------------------------------------------------------------------------


def test_a_pair_whose_arbiter_forgot_goes_on_and_changes_nothing() -> None:
    pair = Pair().protected()
    pair.run(2_000)
    pair.store.record = Record(0, None, None)

    pair.run(2_000)
    pair.a.emit(b"hello")
    pair.run(100)
    silence(pair, 3_000)

    assert pair.a.said == [b"hello"]
    assert (pair.a.role, pair.b.role) == (Role.ACTIVE, Role.STANDBY)
    assert pair.store.record == Record(0, None, None)
    assert "it went back from generation 2 to 0" in pair.b.told(ArbiterTrouble)[0].error
