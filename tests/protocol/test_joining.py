"""Who may start, who may join, and who is refused."""

import pytest

from ftvm.checkpoint import Geometry, RegionShape
from ftvm.encode.messages import Join, Refuse, Welcome
from ftvm.events import (
    JoinRefused,
)
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.core import Role
from ftvm.protocol.link import LinkState
from ftvm.units import PageCount

from .harness import Pair, make_settings

# --- starting --------------------------------------------------------------------------------------------------------


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


# --- joining ---------------------------------------------------------------------------------------------------------


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
