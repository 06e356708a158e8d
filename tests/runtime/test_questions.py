"""Whose broken connections are asked after, and what comes of it."""

from ftvm.interfaces import Sign
from ftvm.protocol.detector import PAUSE_NS
from ftvm.runtime.questions import Questions
from ftvm.units import Nanos

NOW = Nanos(5)
LATER = Nanos(NOW + PAUSE_NS)


def test_a_peer_that_refuses_twice_is_gone() -> None:
    asked: list[str] = []
    questions = Questions(lambda peer: asked.append(peer) or True)  # type: ignore[func-returns-value]

    questions.step([("b", Sign.RESET)], {"b"}, NOW)
    first = questions.step([("b", Sign.REFUSED)], {"b"}, NOW)
    due_at = questions.deadline()
    questions.step([], {"b"}, LATER)
    second = questions.step([("b", Sign.REFUSED)], {"b"}, LATER)

    assert asked == ["b", "b"]
    assert first == set()
    assert due_at == LATER
    assert second == {"b"}


def test_a_strangers_reset_is_nobodys_business() -> None:
    questions = Questions(lambda peer: peer == "never")

    gone = questions.step([("stranger", Sign.RESET)], {"b"}, NOW)

    assert gone == set()
    assert questions.deadline() is None


def test_a_question_about_who_is_no_partner_any_more_is_dropped() -> None:
    questions = Questions(lambda _peer: True)
    questions.step([("b", Sign.RESET)], {"b"}, NOW)

    questions.step([], {"c"}, NOW)

    assert questions.deadline() is None


def test_where_nobody_can_be_asked_silence_alone_tells() -> None:
    questions = Questions(lambda _peer: False)

    gone = questions.step([("b", Sign.RESET)], {"b"}, NOW)

    assert gone == set()
    assert questions.deadline() is None
