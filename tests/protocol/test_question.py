"""A broken connection starts a question; only two refusals, a pause apart, make a peer a dead one."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from ftvm.interfaces import Sign
from ftvm.protocol.detector import ASKS_MAX, PATIENCE_NS, PAUSE_NS, QUESTIONS, Order, Question, QuestionState
from ftvm.units import Nanos

ORIGIN = Nanos(-7_000_000)
SIGNS = (*Sign, None)


def after(ns: int) -> Nanos:
    return Nanos(ORIGIN + ns)


def asked() -> Question:
    question = Question()
    question.step(Sign.RESET, ORIGIN)
    return question


def test_the_table_has_every_state_with_every_sign() -> None:
    assert set(QUESTIONS) == set(product(QuestionState, SIGNS))


def test_a_reset_makes_us_ask_at_once() -> None:
    question = Question()

    order = question.step(Sign.RESET, ORIGIN)

    assert order is Order.ASK


def test_the_reset_of_the_second_lane_asks_nothing_more() -> None:
    question = asked()

    order = question.step(Sign.RESET, ORIGIN)

    assert order is Order.NOTHING


def test_two_refusals_a_pause_apart_are_a_death() -> None:
    question = asked()

    first = question.step(Sign.REFUSED, ORIGIN)
    due_at = question.due_at
    again = question.step(None, after(PAUSE_NS))
    second = question.step(Sign.REFUSED, after(PAUSE_NS))

    assert (first, again, second) == (Order.NOTHING, Order.ASK, Order.SUSPECT)
    assert due_at == after(PAUSE_NS)


def test_refusals_of_two_resets_do_not_add_up() -> None:
    """Found by seed 20480: each of two resets was followed by one false refusal, and a host that lived was taken for
    dead."""
    question = asked()
    question.step(Sign.REFUSED, ORIGIN)

    question.step(Sign.RESET, after(PAUSE_NS // 2))
    question.step(None, after(PAUSE_NS))
    order = question.step(Sign.REFUSED, after(PAUSE_NS))

    assert order is Order.NOTHING


def test_an_answer_ends_the_question_even_behind_a_refusal() -> None:
    question = asked()
    question.step(Sign.REFUSED, ORIGIN)
    question.step(None, after(PAUSE_NS))

    order = question.step(Sign.ANSWERED, after(PAUSE_NS))

    assert order is Order.NOTHING
    assert question == Question(_asks=2, _refusals=1)


def test_a_connection_that_hangs_changes_nothing() -> None:
    question = asked()
    due_at = question.due_at

    order = question.step(None, after(PATIENCE_NS))

    assert due_at == after(PATIENCE_NS)
    assert order is Order.NOTHING
    assert question.state is QuestionState.IDLE


def test_what_is_unclear_is_asked_again_and_counts_as_no_refusal() -> None:
    question = asked()

    orders = [question.step(sign, ORIGIN) for sign in (Sign.REFUSED, None, Sign.UNCLEAR, None, Sign.REFUSED)]

    assert orders == [Order.NOTHING, Order.ASK, Order.NOTHING, Order.ASK, Order.NOTHING]


def test_who_is_gone_is_told_of_again_until_the_asks_are_used_up() -> None:
    question, orders = asked(), []
    while question.due_at is not None:
        orders.append(question.step(Sign.REFUSED, ORIGIN))
        orders.append(question.step(None, ORIGIN))

    assert orders.count(Order.SUSPECT) == ASKS_MAX - 1
    assert orders.count(Order.ASK) == ASKS_MAX - 1


@given(st.lists(st.sampled_from(SIGNS), max_size=60))
def test_nobody_is_suspected_without_two_refusals_in_a_row(signs: list[Sign | None]) -> None:
    question, refusals, is_asked = Question(), 0, False
    for sign in signs:
        if is_asked and sign in (Sign.REFUSED, Sign.UNCLEAR, Sign.ANSWERED):
            refusals, is_asked = refusals + 1 if sign is Sign.REFUSED else 0, False
        order = question.step(sign, ORIGIN)
        is_asked |= order is Order.ASK
        if question.state is QuestionState.IDLE:
            is_asked = False

        assert order is not Order.SUSPECT or refusals >= 2
