"""A takeover at any instant, under every engine: a host dies between any two things that it does.

A host does things one at a time: it sends a message, releases an output, captures an epoch. The history of a pair is
played again and again, and each time the host dies right before the next one of them. What it sent in the step in which
it died arrives, or is lost with it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from ftvm.checkpoint import Buffer, Commit, PageBatch
from ftvm.engines.names import ENGINES, engine_named
from ftvm.interfaces import Guest, Lane
from ftvm.protocol.effects import Effect, Tell
from ftvm.protocol.view import Role
from ftvm.testing.pair import HASTY, Pair, SteppedHost

HISTORY_MS = 20
"""Four checkpoints, and what is said meanwhile."""


class Died(Exception):
    """The host is no more."""


class Nobody:
    """Looks on, and keeps nothing: so the log of inputs is shipped under each engine."""

    def __init__(self, guest: Guest) -> None:
        pass

    def committed(self, commits: Sequence[Commit]) -> None:
        pass

    def ended(self) -> None:
        pass


def make(engine: str) -> Pair:
    """Return a pair under an engine by its name; "recorded" behind it: both hosts record."""
    name, *recorded = engine.split()
    observers = {"a": Nobody, "b": Nobody} if recorded else {}
    return Pair(engine=engine_named(name, 0.005), timing=HASTY, observers=observers).protected(20)


def die_before(machine: SteppedHost, number: int, *, is_lossy: bool) -> None:
    """Have a host die before the `number`th thing that it does from now on.

    is_lossy  what it sends leaves only at the end of the step
    """
    acts, done = machine.driver._acts, count()
    step, send = machine.step, machine.driver._send
    waiting: list[tuple[str, Lane, list[Buffer], PageBatch | None]] = []

    def send_later(peer: str, lane: Lane, frames: list[Buffer], batch: PageBatch | None) -> bool:
        waiting.append((peer, lane, frames, batch))
        return True

    def step_and_send() -> None:
        step()
        for args in waiting:
            send(*args)
        waiting.clear()

    if is_lossy:
        machine.driver._send = send_later
        machine.step = step_and_send  # type: ignore[method-assign]

    def or_die(act: Callable[[Any], None]) -> Callable[[Any], None]:
        def act_or_die(effect: Effect) -> None:
            if next(done) == number:
                raise Died
            act(effect)

        return act_or_die

    machine.driver._acts = {kind: act if kind is Tell else or_die(act) for kind, act in acts.items()}


def live(pair: Pair) -> bool:
    """Play the history; tell whether somebody died, who is dead then."""
    for millisecond in range(HISTORY_MS):
        if millisecond % 3 == 0:
            pair.a.world.put("net0", b"%d" % millisecond)
        pair.clock.elapse(1)
        for machine in (*pair.alive,):
            machine.guest.advance()
            for _ in range(3):
                try:
                    machine.step()
                except Died:
                    pair.kill(machine)
                    return True
    return False


def deaths(engine: str, of: str, *, is_lossy: bool = False) -> Iterator[Pair]:
    """Yield a pair for each moment of the history at which the host named `of` can die, once it has."""
    for number in count():
        pair = make(engine)
        try:
            die_before(getattr(pair, of), number, is_lossy=is_lossy)
            if not live(pair):
                assert number > 2, "the host had nothing to do"
                return
            yield pair
        finally:
            pair.close()


def said(*machines: SteppedHost) -> dict[int, bytes]:
    """Return what left, by number; check that nothing was contradicted or left out."""
    heard: dict[int, bytes] = {}
    for machine in machines:
        for output in machine.released:
            assert heard.setdefault(output.number, output.payload) == output.payload, output.number
    assert sorted(heard) == list(range(1, len(heard) + 1))
    return heard


@pytest.mark.parametrize("is_lossy", [False, True], ids=["its last words arrive", "its last words are lost"])
@pytest.mark.parametrize("engine", [*ENGINES, "remus recorded", "kemari recorded"])
def test_wherever_the_primary_dies_nothing_that_left_is_lost_or_contradicted(engine: str, is_lossy: bool) -> None:
    for pair in deaths(engine, "a", is_lossy=is_lossy):
        told = pair.b.view.released
        pair.until(lambda pair=pair: pair.b.role is Role.ACTIVE and pair.b.guest.is_running)  # type: ignore[misc]
        pair.run(40)

        assert len(said(pair.a, pair.b)) > len(pair.a.released)
        assert all(output.number > told for output in pair.b.released)  # what surely left is not said again


@pytest.mark.parametrize("engine", list(ENGINES))
def test_wherever_the_backup_dies_the_guest_speaks_on(engine: str) -> None:
    for pair in deaths(engine, "b"):
        before = len(said(pair.a))
        pair.until(lambda pair=pair: pair.record().standby is None)  # type: ignore[misc]
        pair.run(20)

        assert len(said(pair.a)) > before
