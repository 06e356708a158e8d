"""Pairs of hosts for the claims: the production driver with the simulated guest, time as the test says."""

from collections.abc import Callable, Iterator

import pytest

from ftvm.checkpoint import Output
from ftvm.interfaces import Engine
from ftvm.protocol.view import Role
from ftvm.testing.pair import Pair, SteppedHost

MakePair = Callable[[Engine], Pair]


@pytest.fixture
def make_pair() -> Iterator[MakePair]:
    pairs: list[Pair] = []

    def make(engine: Engine) -> Pair:
        pairs.append(Pair(engine=engine).protected())
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def payloads(machine: SteppedHost) -> dict[int, bytes]:
    """What left a host, by number."""
    return {output.number: output.payload for output in machine.released}


def held(machine: SteppedHost) -> list[Output]:
    """What a host holds."""
    return [output for held in machine.active.held for output in held.outputs]


def speak(pair: Pair) -> None:
    """Have the guest take an input, which it answers, without letting any host act on it."""
    pair.a.guest.deliver("net0", b"question")
    pair.a.guest.advance()


def take_over(pair: Pair) -> None:
    """Kill host a and let b come to run the guest."""
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.b.guest.is_running)


__all__ = ["MakePair", "held", "payloads", "speak", "take_over"]
