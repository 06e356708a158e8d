"""One replica's dealings with the arbiter: nothing is resolved by an error, nothing is believed that went back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import InternalError
from ftvm.interfaces import Answer, CompareAndSet, Read, Record
from ftvm.protocol.arbiter import ArbiterClient
from ftvm.units import Nanos

RETRY = Nanos(100)
NOW = Nanos(5_000)
SOLO, PAIR, TAKEN = Record(3, "x", None), Record(4, "x", "y"), Record(5, "y", None)


def make_client(known: Record = SOLO) -> ArbiterClient:
    return ArbiterClient(RETRY, known=known)


def answer_read(arbiter: ArbiterClient, record: Record | None, now: Nanos = NOW, error: str | None = None) -> bool:
    assert arbiter.next_request(now) == Read()
    return arbiter.take(Answer(Read(), record, error), now)


def test_an_idle_client_asks_nothing() -> None:
    arbiter = make_client()

    assert arbiter.next_request(NOW) is None
    assert arbiter.deadline() is None


def test_one_request_is_outstanding_at_a_time() -> None:
    arbiter = make_client()
    arbiter.want_read()
    arbiter.propose(PAIR)

    assert arbiter.next_request(NOW) == CompareAndSet(PAIR)
    assert arbiter.next_request(NOW) is None


def test_a_proposal_is_never_resolved_by_an_error_however_often() -> None:
    arbiter, now = make_client(), NOW
    arbiter.propose(PAIR)

    for _ in range(50):
        assert arbiter.next_request(now) == CompareAndSet(PAIR)
        assert not arbiter.take(Answer(CompareAndSet(PAIR), None, "lost"), now)
        assert arbiter.proposal == PAIR
        assert arbiter.known == SOLO
        assert arbiter.next_request(Nanos(now + RETRY - 1)) is None
        now = Nanos(now + RETRY)

    assert arbiter.error == "lost"


def refuse(arbiter: ArbiterClient, now: Nanos = NOW, *, is_unapplied: bool = True) -> None:
    """Have the next attempt fail: before anything was done, or nobody knows where."""
    now = max(now, arbiter.deadline() or now)
    assert arbiter.next_request(now) == CompareAndSet(PAIR)
    arbiter.take(Answer(CompareAndSet(PAIR), None, "the disk is full", is_unapplied=is_unapplied), now)


def test_a_proposal_stays_proposed_though_no_attempt_was_applied_until_it_is_withdrawn() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    refuse(arbiter)
    refuse(arbiter)
    before = arbiter.proposal

    assert arbiter.withdraw()

    assert before == PAIR
    assert arbiter.proposal is None
    assert arbiter.next_request(Nanos(NOW + 10 * RETRY)) is None


@pytest.mark.parametrize("attempts", [(False, True), (True, False), (True, False, True), (False, True, True)])
def test_a_proposal_with_one_uncertain_attempt_is_never_withdrawn(attempts: tuple[bool, ...]) -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)

    for is_unapplied in attempts:
        refuse(arbiter, is_unapplied=is_unapplied)

    assert not arbiter.withdraw()
    assert arbiter.proposal == PAIR


def test_a_proposal_is_not_withdrawn_while_an_attempt_is_under_way() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    refuse(arbiter)
    arbiter.next_request(Nanos(NOW + RETRY))

    assert not arbiter.withdraw()


def test_an_answer_of_the_old_generation_leaves_an_attempt_uncertain() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    arbiter.next_request(NOW)
    arbiter.take(Answer(CompareAndSet(PAIR), SOLO, None), NOW)
    refuse(arbiter)

    assert not arbiter.withdraw()


def test_a_read_that_fails_withdraws_nothing() -> None:
    arbiter = make_client()
    arbiter.want_read()
    assert arbiter.next_request(NOW) == Read()
    arbiter.propose(PAIR)
    arbiter.take(Answer(Read(), None, "down", is_unapplied=True), NOW)

    assert not arbiter.withdraw()
    assert arbiter.proposal == PAIR


def test_what_was_uncertain_about_one_proposal_says_nothing_about_the_next() -> None:
    arbiter = make_client(Record(2, "x", None))
    arbiter.propose(SOLO)
    arbiter.next_request(NOW)
    arbiter.take(Answer(CompareAndSet(SOLO), None, "lost"), NOW)
    arbiter.next_request(Nanos(NOW + RETRY))
    arbiter.take(Answer(CompareAndSet(SOLO), SOLO, None), Nanos(NOW + RETRY))

    arbiter.propose(PAIR)
    refuse(arbiter)

    assert arbiter.withdraw()


def test_a_client_that_awaits_an_answer_is_not_due_before_it_comes() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    arbiter.next_request(NOW)
    arbiter.take(Answer(CompareAndSet(PAIR), None, "lost"), NOW)
    again_at = arbiter.deadline()

    assert again_at == NOW + RETRY
    assert arbiter.next_request(again_at) == CompareAndSet(PAIR)
    assert arbiter.deadline() is None


@pytest.mark.parametrize("answer", [PAIR, Record(4, "q", None), TAKEN, Record(9, None, None)])
def test_a_generation_at_or_above_its_own_resolves_a_proposal(answer: Record) -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    arbiter.next_request(NOW)

    assert arbiter.take(Answer(CompareAndSet(PAIR), answer, None), NOW)

    assert (arbiter.known, arbiter.proposal) == (answer, None)


def test_an_answer_of_the_old_generation_leaves_a_proposal_open_and_it_is_repeated() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    arbiter.next_request(NOW)

    arbiter.take(Answer(CompareAndSet(PAIR), SOLO, None), NOW)

    assert arbiter.proposal == PAIR
    assert arbiter.next_request(NOW) == CompareAndSet(PAIR)


def test_only_the_successor_of_what_is_known_may_be_proposed_and_only_one() -> None:
    arbiter = make_client()

    for wrong in (SOLO, TAKEN, Record(2, "x", None)):
        with pytest.raises(InternalError):
            arbiter.propose(wrong)

    arbiter.propose(PAIR)
    with pytest.raises(InternalError):
        arbiter.propose(PAIR)


def test_an_arbiter_that_forgot_is_not_believed() -> None:
    arbiter = make_client(TAKEN)
    arbiter.want_read()

    assert not answer_read(arbiter, PAIR)

    assert arbiter.known == TAKEN
    assert arbiter.error == "it went back from generation 5 to 4"
    assert arbiter.deadline() == NOW + RETRY


@pytest.mark.parametrize(
    "other", [Record(4, "x", None), Record(4, "q", "y"), Record(4, "y", "x"), Record(4, None, None)]
)
def test_an_arbiter_that_changes_a_generation_contradicts_itself_and_is_not_believed(other: Record) -> None:
    arbiter = make_client(PAIR)
    fresh_at = arbiter.want_read()

    is_learned = answer_read(arbiter, other)

    assert not is_learned
    assert arbiter.known == PAIR
    assert arbiter.reads < fresh_at
    assert arbiter.error == "it changed generation 4, which never changes"
    assert arbiter.deadline() == NOW + RETRY


def test_a_contradiction_resolves_no_proposal() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    arbiter.next_request(NOW)

    arbiter.take(Answer(CompareAndSet(PAIR), Record(3, "q", None), None), NOW)

    assert (arbiter.known, arbiter.proposal) == (SOLO, PAIR)
    assert arbiter.error == "it changed generation 3, which never changes"


def test_the_same_record_told_again_is_no_contradiction() -> None:
    arbiter = make_client(PAIR)
    arbiter.want_read()

    assert answer_read(arbiter, Record(4, "x", "y"))

    assert arbiter.error is None


def test_a_read_that_failed_is_tried_again_after_a_while() -> None:
    arbiter = make_client()
    arbiter.want_read()

    assert not answer_read(arbiter, None, error="down")

    assert arbiter.next_request(Nanos(NOW + RETRY - 1)) is None
    assert arbiter.next_request(Nanos(NOW + RETRY)) == Read()


def test_a_read_that_was_under_way_before_the_wish_is_not_fresh() -> None:
    arbiter = make_client()
    arbiter.want_read()
    arbiter.next_request(NOW)

    fresh_at = arbiter.want_read()
    arbiter.take(Answer(Read(), SOLO, None), NOW)
    was_fresh = arbiter.reads >= fresh_at
    answer_read(arbiter, SOLO)

    assert not was_fresh
    assert arbiter.reads >= fresh_at


def test_a_read_begun_after_the_wish_is_fresh() -> None:
    arbiter = make_client()

    fresh_at = arbiter.want_read()
    answer_read(arbiter, SOLO)

    assert arbiter.reads >= fresh_at


def test_a_read_repeated_after_the_one_under_way_failed_is_fresh() -> None:
    arbiter = make_client()
    arbiter.want_read()
    arbiter.next_request(NOW)

    fresh_at = arbiter.want_read()
    arbiter.take(Answer(Read(), None, "lost"), NOW)
    answer_read(arbiter, SOLO, Nanos(NOW + RETRY))

    assert arbiter.reads >= fresh_at


def test_the_answer_to_a_proposal_is_no_fresh_read() -> None:
    arbiter = make_client()
    arbiter.propose(PAIR)
    fresh_at = arbiter.want_read()
    arbiter.next_request(NOW)

    arbiter.take(Answer(CompareAndSet(PAIR), PAIR, None), NOW)

    assert arbiter.reads < fresh_at


def test_a_hint_asks_for_a_read_and_is_not_believed() -> None:
    arbiter = make_client()

    assert arbiter.hint(9, NOW)

    assert arbiter.known == SOLO
    assert arbiter.next_request(NOW) == Read()


def test_hints_are_followed_no_more_often_than_every_retry_interval() -> None:
    arbiter = make_client()
    followed = []

    for moment in range(0, 1000, 10):
        now = Nanos(NOW + moment)
        followed.append(arbiter.hint(9, now))
        if arbiter.next_request(now) is not None:
            arbiter.take(Answer(Read(), SOLO, None), now)

    assert sum(followed) == 10
    assert arbiter.reads == 10


@given(st.integers(0, 3))
def test_a_hint_at_nothing_newer_is_ignored(generation: int) -> None:
    arbiter = make_client()

    assert not arbiter.hint(generation, NOW)
    assert arbiter.next_request(NOW) is None


def test_an_answer_to_a_question_not_asked_is_our_bug() -> None:
    arbiter = make_client()

    with pytest.raises(InternalError):
        arbiter.take(Answer(Read(), SOLO, None), NOW)
