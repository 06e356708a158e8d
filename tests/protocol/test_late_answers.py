"""An arbiter that answers a proposal with the record of before: nothing is resolved, whatever was proposed."""

from collections.abc import Callable

import pytest

from ftvm.interfaces import Answer, CompareAndSet
from ftvm.protocol.active.link import LinkState

from .harness import Host, Pair
from .situations import PRIMARY_LIMIT_MS, alone, claiming, stop, switching


def start(pair: Pair) -> Host:
    pair.a.tick()
    pair.a.answer()
    return pair.a


def add(pair: Pair) -> Host:
    pair.started().until(lambda: pair.a.active.link is LinkState.ADDING)
    return pair.a


def drop(pair: Pair) -> Host:
    alone(pair.protected(), PRIMARY_LIMIT_MS + 100)
    return pair.a


def take(pair: Pair) -> Host:
    claiming(pair.protected())
    return pair.b


def switch(pair: Pair) -> Host:
    switching(pair.protected())
    return pair.a


def vacate(pair: Pair) -> Host:
    pair.started()
    if pair.a.outstanding is not None:
        pair.a.answer()
    stop(pair.a)
    return pair.a


@pytest.mark.parametrize("propose", [start, add, drop, take, switch, vacate])
def test_an_answer_with_the_record_of_before_leaves_every_change_open(propose: Callable[[Pair], Host]) -> None:
    """Mutants: START is proposed once more; a link, a claim or a stop goes on as if its change were in force."""
    pair = Pair()
    host = propose(pair)
    host.tick()
    request, before = host.outstanding, host.role
    assert isinstance(request, CompareAndSet)
    performed = len(host.performed)

    for _ in range(3):
        host.outstanding = None
        host.give(Answer(request, pair.store.record, None))
        host.perform()
        host.tick()

        assert (host.outstanding, host.role, host.released, host.failures) == (request, before, [], [])
    assert not [effect for effect in host.performed[performed:] if type(effect).__name__ in ("RunGuest", "Unload")]
    host.answer()

    assert host.core.arbiter.proposal != request.record
    assert pair.store.record == request.record
