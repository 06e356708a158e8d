"""One replica's dealings with the arbiter: nothing is resolved by an error, nothing is believed that went back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import InternalError
from ftvm.interfaces import Answer, CompareAndSet, Read, Record
from ftvm.protocol.desk import Desk
from ftvm.units import Nanos

RETRY = Nanos(100)
NOW = Nanos(5_000)
SOLO, PAIR, TAKEN = Record(3, "x", None), Record(4, "x", "y"), Record(5, "y", None)


def make_desk(known: Record = SOLO) -> Desk:
    return Desk(RETRY, known=known)


def answer_read(desk: Desk, record: Record | None, now: Nanos = NOW, error: str | None = None) -> bool:
    assert desk.next_request(now) == Read()
    return desk.take(Answer(Read(), record, error), now)


def test_an_idle_desk_asks_nothing() -> None:
    desk = make_desk()

    assert desk.next_request(NOW) is None
    assert desk.deadline() is None


def test_one_request_is_outstanding_at_a_time() -> None:
    desk = make_desk()
    desk.want_read()
    desk.propose(PAIR)

    assert desk.next_request(NOW) == CompareAndSet(PAIR)
    assert desk.next_request(NOW) is None


def test_a_proposal_is_never_resolved_by_an_error_however_often() -> None:
    desk, now = make_desk(), NOW
    desk.propose(PAIR)

    for _ in range(50):
        assert desk.next_request(now) == CompareAndSet(PAIR)
        assert not desk.take(Answer(CompareAndSet(PAIR), None, "lost"), now)
        assert desk.proposal == PAIR
        assert desk.known == SOLO
        assert desk.next_request(Nanos(now + RETRY - 1)) is None
        now = Nanos(now + RETRY)

    assert desk.error == "lost"


def refuse(desk: Desk, now: Nanos = NOW, *, is_unapplied: bool = True) -> None:
    """Have the next attempt fail: before anything was done, or nobody knows where."""
    now = max(now, desk.deadline() or now)
    assert desk.next_request(now) == CompareAndSet(PAIR)
    desk.take(Answer(CompareAndSet(PAIR), None, "the disk is full", is_unapplied=is_unapplied), now)


def test_a_proposal_stays_proposed_though_no_attempt_was_applied_until_it_is_withdrawn() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    refuse(desk)
    refuse(desk)
    before = desk.proposal

    assert desk.withdraw()

    assert before == PAIR
    assert desk.proposal is None
    assert desk.next_request(Nanos(NOW + 10 * RETRY)) is None


@pytest.mark.parametrize("attempts", [(False, True), (True, False), (True, False, True), (False, True, True)])
def test_a_proposal_with_one_uncertain_attempt_is_never_withdrawn(attempts: tuple[bool, ...]) -> None:
    desk = make_desk()
    desk.propose(PAIR)

    for is_unapplied in attempts:
        refuse(desk, is_unapplied=is_unapplied)

    assert not desk.withdraw()
    assert desk.proposal == PAIR


def test_a_proposal_is_not_withdrawn_while_an_attempt_is_under_way() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    refuse(desk)
    desk.next_request(Nanos(NOW + RETRY))

    assert not desk.withdraw()


def test_an_answer_of_the_old_generation_leaves_an_attempt_uncertain() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    desk.next_request(NOW)
    desk.take(Answer(CompareAndSet(PAIR), SOLO, None), NOW)
    refuse(desk)

    assert not desk.withdraw()


def test_a_read_that_fails_withdraws_nothing() -> None:
    desk = make_desk()
    desk.want_read()
    assert desk.next_request(NOW) == Read()
    desk.propose(PAIR)
    desk.take(Answer(Read(), None, "down", is_unapplied=True), NOW)

    assert not desk.withdraw()
    assert desk.proposal == PAIR


def test_what_was_uncertain_about_one_proposal_says_nothing_about_the_next() -> None:
    desk = make_desk(Record(2, "x", None))
    desk.propose(SOLO)
    desk.next_request(NOW)
    desk.take(Answer(CompareAndSet(SOLO), None, "lost"), NOW)
    desk.next_request(Nanos(NOW + RETRY))
    desk.take(Answer(CompareAndSet(SOLO), SOLO, None), Nanos(NOW + RETRY))

    desk.propose(PAIR)
    refuse(desk)

    assert desk.withdraw()


def test_a_desk_that_awaits_an_answer_is_not_due_before_it_comes() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    desk.next_request(NOW)
    desk.take(Answer(CompareAndSet(PAIR), None, "lost"), NOW)
    again_at = desk.deadline()

    assert again_at == NOW + RETRY
    assert desk.next_request(again_at) == CompareAndSet(PAIR)
    assert desk.deadline() is None


@pytest.mark.parametrize("answer", [PAIR, Record(4, "q", None), TAKEN, Record(9, None, None)])
def test_a_generation_at_or_above_its_own_resolves_a_proposal(answer: Record) -> None:
    desk = make_desk()
    desk.propose(PAIR)
    desk.next_request(NOW)

    assert desk.take(Answer(CompareAndSet(PAIR), answer, None), NOW)

    assert (desk.known, desk.proposal) == (answer, None)


def test_an_answer_of_the_old_generation_leaves_a_proposal_open_and_it_is_repeated() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    desk.next_request(NOW)

    desk.take(Answer(CompareAndSet(PAIR), SOLO, None), NOW)

    assert desk.proposal == PAIR
    assert desk.next_request(NOW) == CompareAndSet(PAIR)


def test_only_the_successor_of_what_is_known_may_be_proposed_and_only_one() -> None:
    desk = make_desk()

    for wrong in (SOLO, TAKEN, Record(2, "x", None)):
        with pytest.raises(InternalError):
            desk.propose(wrong)

    desk.propose(PAIR)
    with pytest.raises(InternalError):
        desk.propose(PAIR)


def test_an_arbiter_that_forgot_is_not_believed() -> None:
    desk = make_desk(TAKEN)
    desk.want_read()

    assert not answer_read(desk, PAIR)

    assert desk.known == TAKEN
    assert desk.error == "it went back from generation 5 to 4"
    assert desk.deadline() == NOW + RETRY


@pytest.mark.parametrize(
    "other", [Record(4, "x", None), Record(4, "q", "y"), Record(4, "y", "x"), Record(4, None, None)]
)
def test_an_arbiter_that_changes_a_generation_contradicts_itself_and_is_not_believed(other: Record) -> None:
    desk = make_desk(PAIR)
    fresh_at = desk.want_read()

    is_learned = answer_read(desk, other)

    assert not is_learned
    assert desk.known == PAIR
    assert desk.reads < fresh_at
    assert desk.error == "it changed generation 4, which never changes"
    assert desk.deadline() == NOW + RETRY


def test_a_contradiction_resolves_no_proposal() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    desk.next_request(NOW)

    desk.take(Answer(CompareAndSet(PAIR), Record(3, "q", None), None), NOW)

    assert (desk.known, desk.proposal) == (SOLO, PAIR)
    assert desk.error == "it changed generation 3, which never changes"


def test_the_same_record_told_again_is_no_contradiction() -> None:
    desk = make_desk(PAIR)
    desk.want_read()

    assert answer_read(desk, Record(4, "x", "y"))

    assert desk.error is None


def test_a_read_that_failed_is_tried_again_after_a_while() -> None:
    desk = make_desk()
    desk.want_read()

    assert not answer_read(desk, None, error="down")

    assert desk.next_request(Nanos(NOW + RETRY - 1)) is None
    assert desk.next_request(Nanos(NOW + RETRY)) == Read()


def test_a_read_that_was_under_way_before_the_wish_is_not_fresh() -> None:
    desk = make_desk()
    desk.want_read()
    desk.next_request(NOW)

    fresh_at = desk.want_read()
    desk.take(Answer(Read(), SOLO, None), NOW)
    was_fresh = desk.reads >= fresh_at
    answer_read(desk, SOLO)

    assert not was_fresh
    assert desk.reads >= fresh_at


def test_a_read_begun_after_the_wish_is_fresh() -> None:
    desk = make_desk()

    fresh_at = desk.want_read()
    answer_read(desk, SOLO)

    assert desk.reads >= fresh_at


def test_a_read_repeated_after_the_one_under_way_failed_is_fresh() -> None:
    desk = make_desk()
    desk.want_read()
    desk.next_request(NOW)

    fresh_at = desk.want_read()
    desk.take(Answer(Read(), None, "lost"), NOW)
    answer_read(desk, SOLO, Nanos(NOW + RETRY))

    assert desk.reads >= fresh_at


def test_the_answer_to_a_proposal_is_no_fresh_read() -> None:
    desk = make_desk()
    desk.propose(PAIR)
    fresh_at = desk.want_read()
    desk.next_request(NOW)

    desk.take(Answer(CompareAndSet(PAIR), PAIR, None), NOW)

    assert desk.reads < fresh_at


def test_a_hint_asks_for_a_read_and_is_not_believed() -> None:
    desk = make_desk()

    assert desk.hint(9, NOW)

    assert desk.known == SOLO
    assert desk.next_request(NOW) == Read()


def test_hints_are_followed_no_more_often_than_every_retry_interval() -> None:
    desk = make_desk()
    followed = []

    for moment in range(0, 1000, 10):
        now = Nanos(NOW + moment)
        followed.append(desk.hint(9, now))
        if desk.next_request(now) is not None:
            desk.take(Answer(Read(), SOLO, None), now)

    assert sum(followed) == 10
    assert desk.reads == 10


@given(st.integers(0, 3))
def test_a_hint_at_nothing_newer_is_ignored(generation: int) -> None:
    desk = make_desk()

    assert not desk.hint(generation, NOW)
    assert desk.next_request(NOW) is None


def test_an_answer_to_a_question_not_asked_is_our_bug() -> None:
    desk = make_desk()

    with pytest.raises(InternalError):
        desk.take(Answer(Read(), SOLO, None), NOW)
