"""Two replicas, an arbiter, and every situation that once went wrong or easily could (PROTOCOL.md)."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import Geometry, RegionShape
from ftvm.config import Limits, Timing
from ftvm.encode.messages import Ack, Envelope, EpochPart, Join, Leave, Ping, Refuse, SessionId, Welcome
from ftvm.events import (
    ArbiterTrouble,
    HostFailed,
    JoinRefused,
    PeerMisbehaved,
    Protected,
    RoleChanged,
    Solo,
    Suspected,
    TookOver,
)
from ftvm.interfaces import CompareAndSet, Lane, Read, Record
from ftvm.protocol import effects as do
from ftvm.protocol.core import Role
from ftvm.protocol.link import LinkState
from ftvm.protocol.takeover import ClaimState
from ftvm.units import PageCount

from .harness import MS, Pair, make_settings

BACKUP_LIMIT_MS = Timing().backup_limit_ns / MS
PRIMARY_LIMIT_MS = Timing().primary_limit_ns / MS


def silence(pair: Pair, milliseconds: float = BACKUP_LIMIT_MS) -> None:
    """Let b live on while nothing from a arrives, up to the moment before it would be asked to act."""
    for _ in range(int(milliseconds / 5) - 1):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer()


def take_over(pair: Pair) -> None:
    """Have b take over from a, of which nothing is heard any more."""
    for _ in range(1000):
        if pair.b.role is Role.ACTIVE:
            return
        silence(pair, 10)
    raise AssertionError("b does not take over")


# --- starting ------------------------------------------------------------------------------------------------------


def test_a_replica_runs_only_once_the_record_that_names_it_is_learned() -> None:
    pair = Pair()
    pair.a.tick()

    pair.a.answer()
    pair.a.tick()
    has_run_before = pair.a.is_running
    pair.a.answer()

    assert not has_run_before
    assert pair.a.is_running
    assert pair.store.record == Record(1, "a1", None)


def test_a_start_whose_answer_is_lost_is_repeated_until_it_is_known() -> None:
    pair = Pair()
    pair.a.tick()
    pair.a.answer()
    pair.a.tick()

    for _ in range(3):
        assert pair.a.outstanding == CompareAndSet(Record(1, "a1", None))
        pair.a.answer(is_lost=True)
        assert not pair.a.is_running
        pair.elapse(100)
        pair.a.tick()
    pair.a.answer()

    assert pair.a.role is Role.ACTIVE


def test_nobody_starts_where_somebody_is_active_and_nothing_is_proposed() -> None:
    pair = Pair(record=Record(4, "other", None))
    pair.a.tick()

    pair.a.answer()

    assert "is already in the record: generation 4, active other" in pair.a.failures[0]
    assert pair.store.record == Record(4, "other", None)
    assert not pair.a.is_running


def test_a_record_is_created_only_where_that_was_asked_for() -> None:
    pair = Pair(make_settings(creates=False))
    pair.a.tick()

    pair.a.answer()

    assert "has no record of guest 'vm': run `ftvm init`" in pair.a.failures[0]
    assert pair.store.record.generation == 0


def test_a_vacated_record_is_moved_without_creating_one() -> None:
    pair = Pair(make_settings(creates=False), record=Record(7, None, None)).started()

    assert pair.store.record == Record(8, "a1", None)


# --- protection ----------------------------------------------------------------------------------------------------


def test_a_standby_joins_catches_up_and_is_added() -> None:
    pair = Pair().protected()

    assert pair.store.record == Record(2, "a1", "b1")
    assert [event.role for event in pair.b.told(RoleChanged)] == ["syncing", "standby"]
    assert [event.standby for event in pair.a.told(Protected)] == ["b1"]


def test_an_output_of_a_protected_guest_waits_for_its_epoch() -> None:
    pair = Pair().protected()

    pair.a.emit(b"hello")
    before = pair.a.said
    pair.run(100)

    assert before == []
    assert pair.a.said == [b"hello"]


def test_an_output_of_a_solo_guest_leaves_at_once() -> None:
    pair = Pair().started()

    pair.a.emit(b"hello")

    assert pair.a.said == [b"hello"]


def test_from_the_first_cut_on_outputs_obey_the_joining_standby() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.COPYING)
    pair.a.emit(b"while copying")
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP)

    pair.a.emit(b"after the cut")

    assert pair.a.said == [b"while copying"]


def test_outputs_are_held_from_before_the_add_is_proposed_until_the_standby_has_them() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.ADDING)
    assert pair.a.replica.core.desk.known.standby is None

    pair.a.emit(b"held")
    held = pair.a.said
    pair.run(100)

    assert held == []
    assert pair.a.said == [b"held"]


def test_the_add_is_proposed_only_when_the_standby_has_all_that_was_released() -> None:
    pair = Pair().started()
    pair.a.emit(b"early")
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP or pair.a.active.link is LinkState.ADDING)

    pair.until(lambda: pair.a.active.link is LinkState.ADDING)

    assert pair.b.standby.committed.output_next > pair.a.active.gate.released


def test_a_lost_acknowledgement_is_repeated_with_the_next_ping() -> None:
    """Regression: a lost last acknowledgement once stopped all checkpoints for ever."""
    pair = Pair().protected()
    pair.run(100)
    for _ in range(200):
        pair.elapse(5)
        pair.a.tick()
        pair.carry(pair.a, pair.b)
        pair.b.tick()
        lost = [sent for sent in pair.b.sent if isinstance(sent.message, Ack)]
        pair.b.sent.clear()
        if len(pair.a.active.session.in_flight) == Limits().epochs_in_flight and not lost:  # type: ignore[union-attr]
            break
    stuck_at = pair.a.active.epoch

    pair.run(200)

    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.a.active.epoch > stuck_at + 2


def test_a_ping_without_anything_new_is_answered_with_the_acknowledgement_again() -> None:
    pair = Pair().protected()
    pair.run(50)
    for host in (pair.a, pair.b):
        host.sent.clear()
    session = pair.b.standby.opening.session
    pair.a.replica.core.send("b", Lane.CONTROL, Ping(number=99), session)
    pair.a.perform()
    pair.carry(pair.a, pair.b)
    pair.b.tick()

    assert [ack.epoch for ack in pair.b.waiting(Ack)] == [pair.b.standby.committed.epoch]


# --- takeover ------------------------------------------------------------------------------------------------------


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
    assert pair.b.active.gate.released == 1


def test_a_takeover_loads_before_it_claims() -> None:
    pair = Pair().protected()
    take_over(pair)

    kinds = [type(effect) for effect in pair.b.performed]
    assert kinds.index(do.Load) < kinds.index(do.Run)


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
    pair.b.replica.core.desk.want_read()
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


def claiming(pair: Pair) -> None:
    """Bring b to have proposed its TAKE, unanswered."""
    for _ in range(1000):
        pair.elapse(5)
        pair.b.tick()
        if pair.b.standby.claim.state is ClaimState.CLAIMING:
            break
        if isinstance(pair.b.outstanding, Read):
            pair.b.answer()
    pair.b.tick()


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


def test_a_claim_that_loses_to_a_drop_empties_the_standby() -> None:
    pair = Pair().protected()
    claiming(pair)
    pair.store.record = Record(3, "a1", None)

    pair.b.answer()

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"
    assert not pair.b.is_running


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
    pair.a.replica.leave("maintenance", pair.now)
    pair.a.perform()
    pair.carry(pair.a, pair.b)

    pair.b.tick()

    assert pair.b.standby.claim.state is ClaimState.CHECKING


def test_a_peer_that_was_seen_to_end_is_suspected_at_once_by_either_side() -> None:
    pair = Pair().protected()

    pair.b.replica.on_peer_gone("a")
    pair.b.tick()
    pair.a.replica.on_peer_gone("b")
    pair.a.tick()

    assert pair.b.standby.claim.state is ClaimState.CHECKING
    assert pair.a.active.link is LinkState.DROPPING


def test_a_host_that_was_stopped_itself_does_not_suspect_its_peer_when_it_wakes() -> None:
    pair = Pair().protected()
    pair.elapse(60_000)

    pair.a.tick()
    pair.b.tick()

    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.b.standby.claim.is_watching


# --- losing the standby --------------------------------------------------------------------------------------------


def alone(pair: Pair, milliseconds: float) -> None:
    """Let a live on while nothing from b arrives; requests to the arbiter stay unanswered."""
    for _ in range(int(milliseconds / 5)):
        pair.elapse(5)
        pair.a.tick()
        if isinstance(pair.a.outstanding, Read):
            pair.a.answer()
        pair.a.tick()


def test_outputs_stay_held_until_the_drop_is_learned() -> None:
    pair = Pair().protected()
    pair.a.emit(b"held")

    alone(pair, PRIMARY_LIMIT_MS + 100)
    while_open = (pair.a.active.link, pair.a.outstanding, pair.a.said)
    pair.a.answer(is_lost=True)
    while_unknown = pair.a.said
    pair.elapse(100)
    pair.a.tick()
    pair.a.answer()

    assert while_open == (LinkState.DROPPING, CompareAndSet(Record(3, "a1", None)), [])
    assert while_unknown == []
    assert pair.a.said == [b"held"]
    assert pair.a.told(Solo)


def test_a_standby_that_dies_while_its_add_is_open_is_dropped_once_the_add_is_known() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.ADDING)
    pair.a.tick()
    assert pair.a.outstanding == CompareAndSet(Record(2, "a1", "b1"))
    pair.a.answer(is_lost=True)
    pair.a.emit(b"held")

    alone(pair, PRIMARY_LIMIT_MS + 100)
    abandoning = (pair.a.active.link, pair.a.said)
    pair.a.answer()
    dropping = (pair.a.active.link, pair.a.said)
    pair.a.tick()
    pair.a.answer()

    assert abandoning == (LinkState.ABANDONING, [])
    assert dropping == (LinkState.DROPPING, [])
    assert pair.a.active.link is LinkState.NONE
    assert pair.store.record == Record(3, "a1", None)
    assert pair.a.said == [b"held"]


def test_a_standby_lost_before_its_add_is_forgotten_without_a_word_to_the_arbiter() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP)
    pair.a.emit(b"held")

    alone(pair, 11 * PRIMARY_LIMIT_MS)

    assert pair.a.active.link is LinkState.NONE
    assert pair.store.record == Record(1, "a1", None)
    assert pair.a.said == [b"held"]


def test_a_dropped_standby_empties_and_joins_again_under_a_new_name() -> None:
    pair = Pair().protected()
    alone(pair, PRIMARY_LIMIT_MS + 100)
    pair.a.answer()
    pair.a.sent.clear()
    pair.b.sent.clear()

    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert pair.store.record == Record(4, "a1", "b2")


def test_a_capture_that_fails_ends_the_session_and_the_standby_is_brought_up_afresh() -> None:
    pair = Pair().protected()
    pair.a.capture_error = "TrackingLost: no dirty map"
    pair.until(lambda: pair.a.active.link is LinkState.DROPPING)
    pair.a.capture_error = None

    pair.until(lambda: pair.store.record.generation > 2 and pair.store.record.standby is not None)

    assert pair.a.told(HostFailed)[0].error == "capture failed: TrackingLost: no dirty map"


def test_a_capture_that_fails_every_time_does_not_spin() -> None:
    """Regression: standby and active once opened and ended sessions as fast as the link could carry them."""
    pair = Pair().protected()
    pair.a.capture_error = "TrackingLost: no dirty map"

    pair.run(2_000)

    attempts = len(pair.a.told(HostFailed))
    assert 2 < attempts <= 2_000 / (Timing().join_interval_ns / MS) + 1


# --- deposed -------------------------------------------------------------------------------------------------------


def test_a_deposed_active_stops_discards_what_it_held_and_takes_a_fresh_id() -> None:
    pair = Pair().protected()
    pair.a.emit(b"never safe")
    pair.a.sent.clear()
    pair.store.record = Record(3, "b1", None)

    pair.a.replica.core.desk.want_read()
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
    assert pair.a.replica.core.desk.known == Record(2, "a1", "b1")


def hint_of(pair: Pair, *, generation: int) -> None:
    """Have b say that a generation is in force of which the arbiter knows nothing."""
    standby = pair.b.standby
    pair.a.emit(b"x")
    known = standby.core.desk.known
    standby.core.desk.known = Record(generation, "b1", None)
    standby._acknowledge()
    standby.core.desk.known = known
    pair.b.perform()
    pair.carry(pair.b, pair.a)


def acknowledge_one_epoch(pair: Pair) -> None:
    """Let b commit and acknowledge the epoch that holds all outputs, without the arbiter answering."""
    for _ in range(10):
        pair.elapse(5)
        session = pair.a.active.session
        assert session is not None
        pair.a.replica.tick(pair.now)
        pair.a.perform()
        pair.carry(pair.a, pair.b)
        pair.b.tick()
        pair.carry(pair.b, pair.a)


# --- what went wrong in the prototype ------------------------------------------------------------------------------


def test_prototype_1_a_deposed_active_does_not_overwrite_the_present_standby() -> None:
    """Woken, it answered an old join with its first copy."""
    pair = Pair().protected()
    take_over(pair)
    third = pair.boot("c", make_settings(), "b", starts=False)
    third.replica.core.desk.known = pair.store.record
    welcome = Welcome(joiner=third.id, engines=("remus",), staging_bytes=1 << 20)
    envelope_of_old = replace(envelope(pair), session=SessionId(9, "a1", 2))

    third.replica.on_message("a", None, envelope_of_old, welcome, pair.now)

    assert third.role is Role.EMPTY


def envelope(pair: Pair) -> Envelope:
    """Return an envelope as a would send it."""
    pair.a.replica.core.send("b", Lane.CONTROL, Leave(reason=""), None)
    pair.a.perform()
    return pair.a.sent.pop().envelope


def test_prototype_1_a_standby_in_session_takes_no_welcome_from_anybody() -> None:
    pair = Pair().protected()
    epoch = pair.b.standby.committed.epoch
    welcome = Welcome(joiner=pair.b.id, engines=("remus",), staging_bytes=1 << 20)

    pair.b.replica.on_message("a", None, replace(envelope(pair), session=SessionId(9, "a1", 2)), welcome, pair.now)

    assert pair.b.role is Role.STANDBY
    assert pair.b.standby.committed.epoch == epoch


def test_prototype_2_acknowledgements_of_an_earlier_session_count_for_nothing() -> None:
    """X dropped Y and re-added it on old acknowledgements, while Y had discarded what it acknowledged."""
    pair = Pair().protected()
    pair.run(100)
    pair.a.tick()
    pair.carry(pair.a, pair.b)
    pair.b.standby._acknowledge()
    pair.b.perform()
    old = [sent for sent in pair.b.sent if isinstance(sent.message, Ack)]
    pair.b.sent.clear()
    alone(pair, PRIMARY_LIMIT_MS + 100)
    pair.a.answer()
    pair.a.sent.clear()
    pair.until(lambda: pair.a.active.session is not None and pair.a.active.link is LinkState.CATCHING_UP)
    session = pair.a.active.session
    assert session is not None
    before = (session.acked, pair.a.active.link, len(session.in_flight))

    for sent in old:
        late = replace(sent.message, epoch=pair.a.active.epoch)  # type: ignore[type-var]
        pair.a.replica.on_message("b", None, sent.envelope, late, pair.now)

    assert old
    assert (session.acked, pair.a.active.link, len(session.in_flight)) == before


def test_prototype_3_a_whole_replica_that_nobody_names_does_not_wait_for_ever() -> None:
    """It was kept awake by heartbeats that were not of its session."""
    pair = Pair().protected()
    pair.store.record = Record(3, "a1", None)
    other = replace(envelope(pair), session=SessionId(77, "a1", 3))

    for _ in range(100):
        pair.elapse(20)
        pair.b.replica.on_message("a", None, other, Ping(number=1), pair.now)
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer()

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"


@pytest.mark.parametrize("origin", [-(10**15), -1, 0, 1, 10**15])
def test_prototype_5_no_timer_depends_on_where_the_clock_starts(origin: int) -> None:
    pair = Pair()
    for host in (pair.a, pair.b):
        host.replica._stepped_at = origin  # type: ignore[assignment]
    pair.now = origin  # type: ignore[assignment]

    pair.protected()
    pair.run(1000)
    pair.a.emit(b"x")
    take_over(pair)

    assert pair.b.role is Role.ACTIVE


def test_prototype_8_nothing_is_given_up_during_a_slow_start() -> None:
    """Heartbeats were armed before the first whole commit."""
    pair = Pair().started()
    pair.until(lambda: pair.b.role is Role.SYNCING)

    for _ in range(int(2 * PRIMARY_LIMIT_MS / 5)):
        pair.elapse(5)
        for host in (pair.a, pair.b):
            host.tick()

    assert pair.a.active.link is LinkState.COPYING
    assert pair.b.role is Role.SYNCING


def test_a_syncing_replica_whose_active_died_joins_afresh() -> None:
    pair = Pair().started()
    pair.until(lambda: pair.b.role is Role.SYNCING)

    silence(pair, 11 * BACKUP_LIMIT_MS)

    assert pair.b.role is Role.EMPTY
    assert pair.b.id == "b2"


# --- joining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            make_settings(
                geometry=Geometry(machine="test/1", regions=(RegionShape(name="ram", page_count=PageCount(9)),))
            ),
            "the guests differ",
        ),
        (
            make_settings(
                geometry=Geometry(machine="test/2", regions=(RegionShape(name="ram", page_count=PageCount(8)),))
            ),
            "the guests differ",
        ),
        (make_settings(engines=("lockstep",)), "does not know engine remus, only lockstep"),
    ],
)
def test_a_guest_that_cannot_be_protected_is_refused_finally_on_both_sides(other: object, reason: str) -> None:
    pair = Pair(make_settings(), other=other).started()  # type: ignore[arg-type]

    pair.run(50)

    assert reason in pair.b.failures[0]
    assert reason in pair.b.told(JoinRefused)[0].reason
    assert reason in pair.a.told(JoinRefused)[0].reason
    assert pair.a.active.link is LinkState.NONE


def test_a_second_joiner_is_refused_for_now_and_asks_again() -> None:
    pair = Pair().protected()
    third = pair.boot("c", make_settings(), "a", starts=False)

    for _ in range(3):
        pair.elapse(100)
        third.tick()
        pair.carry(third, pair.a)
        for sent in list(pair.a.sent):
            if sent.peer == "c":
                third.take(pair.a, sent)
        pair.a.sent.clear()

    assert third.failures == []
    assert len(third.told(JoinRefused)) == 1
    assert "there is a standby already" in third.told(JoinRefused)[0].reason


def test_a_join_that_was_answered_is_answered_alike_when_it_is_repeated() -> None:
    pair = Pair().started()
    pair.b.tick()
    join = pair.b.sent[0]
    pair.carry(pair.b, pair.a)
    pair.a.sent.clear()

    pair.a.take(pair.b, join)

    assert isinstance(join.message, Join)
    assert [welcome.joiner for welcome in pair.a.waiting(Welcome)] == ["b1"]
    assert pair.a.waiting(Refuse) == []


def test_a_restarted_standby_is_taken_in_as_soon_as_its_old_self_is_dropped() -> None:
    pair = Pair().protected()
    pair.b = pair.boot("b", make_settings(), "a", starts=False, prefix="n")

    pair.until(lambda: pair.store.record.standby == "n1")

    assert pair.a.active.link is LinkState.PROTECTED


# --- peers that break the protocol ---------------------------------------------------------------------------------


def test_an_active_that_sends_garbage_loses_its_session_and_the_standby_keeps_its_state() -> None:
    pair = Pair().protected()
    pair.run(50)
    epoch = pair.b.standby.committed.epoch
    sequence = pair.b.standby.inbox.expected
    wrong = EpochPart(sequence=sequence, epoch=99, part=7, batch=None, checkpoint=None)

    pair.b.replica.on_message(
        "a", None, replace(envelope(pair), session=pair.b.standby.opening.session), wrong, pair.now
    )
    pair.b.perform()

    assert pair.b.told(PeerMisbehaved)[0].error.startswith("BadFrame")
    assert pair.b.waiting(Leave)
    assert (pair.b.role, pair.b.standby.committed.epoch) == (Role.STANDBY, epoch)


@pytest.mark.parametrize(
    "wrong",
    [
        Ack(received=10**6, epoch=0, log_index=0, memory_digest=0),
        Ack(received=0, epoch=10**6, log_index=0, memory_digest=0),
    ],
)
def test_a_standby_that_acknowledges_what_was_never_sent_is_dropped(wrong: Ack) -> None:
    pair = Pair().protected()
    pair.a.emit(b"held")
    session = pair.a.active.session
    assert session is not None
    from_b = replace(envelope(pair), sender="b1", session=session.id)

    pair.a.replica.on_message("b", None, from_b, wrong, pair.now)
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
    session = pair.b.standby.opening.session
    good = replace(envelope(pair), session=session)
    if what == "session":
        good = replace(good, session=SessionId(99, "a1", 1))
    if what == "sender":
        good = replace(good, sender="somebody")
    key = "k" if what == "key" else None

    for host, peer in ((pair.a, "b"), (pair.b, "a")):
        from_peer = replace(good, sender="b1") if host is pair.a and what != "sender" else good
        host.replica.on_message("c" if what == "peer" else peer, key, from_peer, Leave(reason="evil"), pair.now)
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
    pair.b.replica.on_message("a", None, envelope, welcome, pair.now)
    was_syncing = pair.b.role is Role.SYNCING

    pair.b.tick()
    pair.b.answer()

    assert was_syncing
    assert pair.b.role is Role.EMPTY
