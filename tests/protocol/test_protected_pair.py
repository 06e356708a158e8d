"""What is held and what leaves while a standby comes, stays and goes (docs/protocol.md, "ADD" and "DROP")."""

from ftvm.config import Limits, Timing
from ftvm.encode.messages import Ack, EpochPart, Ping
from ftvm.events import (
    HostFailed,
    Protected,
    RoleChanged,
    Solo,
)
from ftvm.interfaces import CompareAndSet, Lane, Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import Report, StateLoaded
from ftvm.protocol.standby.standby_state import ClaimState

from .harness import MS, Host, Pair, make_batch
from .situations import (
    BACKUP_LIMIT_MS,
    PRIMARY_LIMIT_MS,
    alone,
    silence,
)

# --- protection ------------------------------------------------------------------------------------------------------


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
    assert pair.a.core.arbiter.known.standby is None

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

    assert pair.b.standby.committed.output_next > pair.a.active.outputs.released


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
    session = pair.b.standby.offer.session
    pair.a.core.send("b", Lane.CONTROL, Ping(number=99), session)
    pair.a.perform()
    pair.carry(pair.a, pair.b)
    pair.b.tick()

    assert [ack.epoch for ack in pair.b.waiting(Ack)] == [pair.b.standby.committed.epoch]


# --- losing the standby ----------------------------------------------------------------------------------------------


def test_an_epoch_of_which_a_part_is_missing_is_not_acknowledged() -> None:
    pair = Pair().protected()
    pair.a.more_batches = (make_batch(0),)
    pair.a.emit(b"held")
    pair.until(lambda: len(pair.a.waiting(EpochPart)) == 2)
    epoch = pair.b.standby.committed.epoch

    pair.b.take(pair.a, pair.a.sent.popleft())
    pair.b.tick()

    assert pair.b.waiting(Ack)
    assert {ack.epoch for ack in pair.b.waiting(Ack)} == {epoch}


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


def test_who_discards_what_it_had_forgets_what_has_left_too() -> None:
    """Outputs count from 1 again once an operator has vacated the record; mutant: they would count as released."""
    pair = Pair().protected()
    pair.a.emit(b"one")
    pair.run(500)
    core = pair.a.core
    assert (core.released, core.released_told) == (1, 1)
    pair.store.record = Record(3, "b1", None)

    pair.until(lambda: pair.a.role is Role.EMPTY)

    assert (core.released, core.released_told) == (0, 0)


def test_what_is_told_as_released_is_forgotten_by_the_standby_and_remembered_as_left() -> None:
    pair = Pair().protected()
    pair.a.emit(b"one")

    pair.run(500)

    assert not pair.b.standby.committed.outputs
    assert pair.b.core.released == 1


class NeverLoaded(Host):
    """Its guest is at loading the state for ever."""

    def give(self, report: Report) -> None:
        if not isinstance(report, StateLoaded):
            super().give(report)


class SlowPair(Pair):
    host = NeverLoaded


def test_nothing_is_claimed_before_the_state_is_loaded() -> None:
    """Mutant: the TAKE is proposed as soon as the arbiter has answered."""
    pair = SlowPair().protected()

    silence(pair, 3 * BACKUP_LIMIT_MS)

    assert pair.b.standby.claim.state is ClaimState.CHECKING
    assert pair.store.record == Record(2, "a1", "b1")


def test_an_active_whose_record_was_vacated_says_so_in_plain_words() -> None:
    """Regression: "generation 3 names None active"."""
    pair = Pair().protected()
    pair.store.record = Record(3, None, None)

    pair.a.core.arbiter.want_read()
    pair.until(lambda: pair.a.role is Role.EMPTY)

    assert pair.a.told(RoleChanged)[-1].reason == "the record (generation 3) names no host active"
