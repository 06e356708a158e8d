"""A host that has no part in the guest stops at once, or waits for its open request and says what became of it."""

from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.empty import UNANSWERED_NS
from ftvm.protocol.stop import HAND_OVER_NS, LIMIT_NS, TAKE_NS

from .harness import MS, Pair, make_settings
from .situations import IN_ORDER, NOT_IN_ORDER, live_on, live_without_arbiter, outcome, said, stop

HAND_OVER_MS, TAKE_MS, LIMIT_MS = HAND_OVER_NS // MS, TAKE_NS // MS, LIMIT_NS // MS


def test_an_empty_host_goes_at_once() -> None:
    pair = Pair()

    stop(pair.b)

    assert outcome(pair.b) == IN_ORDER


def test_an_empty_host_that_never_asked_the_arbiter_says_nothing_of_the_record() -> None:
    """Regression: "the record is vacant (generation 0)", where it named two hosts that had been killed."""
    pair = Pair()

    stop(pair.b)

    assert said(pair.b) == "this host had no part in the guest"


def test_an_empty_host_says_what_the_record_says() -> None:
    none, dead = Pair(), Pair().started()
    spare = dead.boot("b", make_settings(), "a", starts=False, prefix="z")
    for pair, host in ((none, none.b), (dead, spare)):
        live_on(pair, host, 2 * UNANSWERED_NS // MS)

    stop(none.b)
    stop(spare)

    assert said(none.b) == "the arbiter has no record of the guest"
    assert said(spare) == "the record names the other host active: a1 (generation 1)"


def test_a_record_without_a_standby_is_named_in_plain_words() -> None:
    """Regression: "standby None"."""
    pair = Pair().started()
    stop(pair.a)

    live_without_arbiter(pair, pair.a, LIMIT_MS + 200)

    assert "(generation 1, active a1, standby none)" in said(pair.a)


def test_a_start_that_is_open_is_waited_for_and_vacated() -> None:
    """Regression: a start that had timed out came into force later, and the record named a host that was gone."""
    pair = Pair()
    pair.a.tick()
    pair.a.answer()
    pair.a.tick()
    assert isinstance(pair.a.outstanding, CompareAndSet)

    stop(pair.a)
    is_over, _ = outcome(pair.a)
    live_on(pair, pair.a, 200)

    assert not is_over
    assert pair.store.record == Record(2, None, None)
    assert outcome(pair.a) == IN_ORDER


def test_a_start_that_is_never_answered_is_not_in_order() -> None:
    pair = Pair()
    pair.a.tick()
    pair.a.answer()
    pair.a.tick()

    stop(pair.a)
    live_without_arbiter(pair, pair.a, LIMIT_MS + 200)

    assert outcome(pair.a) == NOT_IN_ORDER
    assert "asked to start the guest, and may still get it" in str(pair.a.core.stop.outcome)
