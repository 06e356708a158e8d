"""The two walks: one checkpoint, and one output, through a pair of production drivers.

The pair is that of ftvm/testing/pair.py: the simulated guest, the in-process transport, an arbiter that answers at
once, and a clock that the walk moves by hand. A walk that a heartbeat or a look at the record crossed is thrown away
and taken again, so that what is listed is the checkpoint's, or the output's, alone. Two walks of one tree are equal.

What stands in for the real thing counts as one file each, as the real thing would: sim/guest.py, transport/memory.py,
testing/pair.py (the clock).
"""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from types import CodeType
from typing import Final

from ftvm.encode.messages import Ack, Ping, Pong
from ftvm.engines.names import engine_named
from ftvm.interfaces import Lane, Read
from ftvm.protocol.effects import Cut
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import Pair
from ftvm.transport.memory import MemoryTransport

from .oneturn import LedGuest, OneTurn
from .tracing import Call, Mark, Tracer, place
from .way import Leg, Walk

PRIMARY: Final = "primary"
BACKUP: Final = "backup"

PLACES: Final[dict[CodeType, str]] = {
    place(Cut.__init__): "order",
    place(MemoryTransport.send): "send",
    place(MemoryTransport.poll): "poll",
    place(Ack.__init__): "ack",
    place(NumberingSink.emit): "emit",
    place(NumberingSink.hand_on): "emit",
    place(CallbackWorld.release_all): "release",
    place(SimGuest.resume): "resume",
    place(Ping.__init__): "noise",
    place(Pong.__init__): "noise",
    place(Read.__init__): "noise",
}

INTERVAL_S: Final = 0.02

SETTLE_MS: Final = 61
"""Between tries: all is committed and released then, and heartbeats fall elsewhere each time."""

BURST: Final = 16
"""Requests that come together, as of so many clients."""

TRIES: Final = 50

STEPS_MAX: Final = 100


class Lost(Exception):
    """The walk did not come to its end: a place that it looks for is gone, or the pair does not do what it should."""


def walk_checkpoint(engine: str = "remus") -> Walk:
    """Follow one checkpoint with an output in it, from the order to cut until the output is released."""
    return Walk("checkpoint", engine, _try(engine, _one_checkpoint))


def walk_output(engine: str = "kemari") -> Walk:
    """Follow one output from its emission until it has left, in whole steps of both hosts by turns."""
    if engine == "remus":
        raise ValueError("under remus an output waits for its interval's checkpoint: follow a checkpoint instead")
    return Walk("output", engine, _try(engine, _one_output))


def walk_burst(engine: str = "hybrid", requests: int = BURST) -> Walk:
    """Follow the answers to requests that came together, from the turn that made them until all have left."""
    if engine_named(engine, INTERVAL_S).stops_at_output:
        raise ValueError(f"under {engine} the guest stops at each output: no two go together")
    follow = partial(_one_output, requests=requests)
    _try(engine, follow, LedGuest)  # the names of channels are kept packed from their first use on
    return Walk("burst", engine, _try(engine, follow, LedGuest))


def walk_takeover(pending: int) -> Walk:
    """Follow a takeover from the step in which its claim is won until the guest runs; so many outputs are pending:
    committed at the backup, and not known to have left."""
    pair = Pair(
        engine=engine_named("remus", INTERVAL_S),
        guest=lambda boots: SimGuest(page_count=24, pages_per_step=2, output_every=1, boots=boots),
    )
    with closing(pair):
        pair.protected()
        a, b = pair.a, pair.b
        for _ in range(pending):
            a.guest.advance()
        pair.until(lambda: len(b.standby.outputs) >= pending)
        pair.kill(a)
        tracer = Tracer(PLACES)

        def step() -> None:
            tracer.calls.clear()
            pair.clock.elapse(5)
            with tracer.on(BACKUP):
                b.endpoint.step(pair.clock.now())

        _until(lambda: tracer.named("resume", BACKUP), step, "the backup does not take over")
        calls = tracer.calls[: tracer.named("resume", BACKUP)[0].index]
    return Walk("takeover", "remus", (Leg("won -> the guest runs", BACKUP, tuple(calls)),))


def _try(
    engine: str, follow: Callable[[Pair, Tracer], tuple[Leg, ...]], kind: type[SimGuest] = SimGuest
) -> tuple[Leg, ...]:
    pair = Pair(
        engine=engine_named(engine, INTERVAL_S),
        guest=lambda boots: kind(page_count=24, pages_per_step=2, output_every=1, boots=boots),
    )
    with closing(pair):
        pair.protected()
        for _ in range(TRIES):
            _settle(pair)
            tracer = Tracer(PLACES)
            legs = follow(pair, tracer)
            if not any(mark.name == "noise" for mark in tracer.marks):
                return legs
    raise Lost(f"each of {TRIES} walks was crossed by a heartbeat")


def _settle(pair: Pair) -> None:
    """Let the hosts live while the guest does nothing."""
    for _ in range(SETTLE_MS):
        pair.clock.elapse(1)
        for machine in 3 * (pair.a, pair.b):
            machine.step()


def _one_checkpoint(pair: Pair, tracer: Tracer) -> tuple[Leg, ...]:
    a, b = pair.a, pair.b
    outputs = len(a.released)
    a.guest.advance()

    def order() -> list[Mark]:
        return tracer.named("order", PRIMARY)

    def acknowledged() -> list[Mark]:
        acks = [mark for mark in tracer.named("ack", BACKUP) if mark.values["epoch"] == order()[0].values["epoch"]]
        return tracer.named("send", BACKUP, start=acks[0].index + 1) if acks else []

    def step(side: str) -> None:
        pair.clock.elapse(0 if order() else 1)
        with tracer.on(side):
            (a if side == PRIMARY else b).endpoint.step(pair.clock.now())

    _until(order, lambda: step(PRIMARY), "no checkpoint is ordered")
    data = [mark for mark in tracer.named("send", PRIMARY, order()[0].index) if mark.values["lane"] is Lane.DATA]
    shipped = len(tracer.calls)
    _until(acknowledged, lambda: step(BACKUP), "the checkpoint is not acknowledged")
    arrived = len(tracer.calls)
    _until(lambda: len(a.released) > outputs, lambda: step(PRIMARY), "the output is not released")
    released = tracer.named("release", PRIMARY, arrived)
    orderer = order()[0].caller
    if not data or orderer is None:
        raise Lost("the order to cut, or the sending, is not where the walk looks for it")
    calls = tracer.calls
    return (
        Leg("order -> send", PRIMARY, (orderer, *calls[order()[0].index : data[-1].index])),
        Leg("receive -> acknowledgement", BACKUP, _from_poll(tracer, BACKUP, shipped, acknowledged()[0])),
        Leg("acknowledgement -> release", PRIMARY, _from_poll(tracer, PRIMARY, arrived, released[-1])),
    )


def _from_poll(tracer: Tracer, side: str, start: int, end: Mark) -> tuple[Call, ...]:
    """Return the calls from the first look for messages behind `start` up to `end`."""
    polls = tracer.named("poll", side, start + 1)
    return tuple(tracer.calls[polls[0].index - 1 : end.index])


def _one_output(pair: Pair, tracer: Tracer, requests: int = 0) -> tuple[Leg, ...]:
    a, b = pair.a, pair.b
    outputs = len(a.released) + max(1, requests) - 1
    turn = OneTurn(a.guest, requests) if requests else None
    with tracer.on(PRIMARY):
        if turn is None:
            a.guest.advance()
        else:
            turn.hand_on()
    emitted = tracer.named("emit", PRIMARY)
    if len(emitted) != 1:
        raise Lost("the guest did not emit one output, or hand one turn on")
    turns = iter([(PRIMARY, a), (BACKUP, b)] * STEPS_MAX)

    def step() -> None:
        side, machine = next(turns)
        with tracer.on(side):
            machine.endpoint.step(pair.clock.now())

    _until(lambda: len(a.released) > outputs, step, "the output is not released")
    calls = tracer.calls[emitted[0].index - 1 :]
    return tuple(
        Leg(name, side, tuple(call for call in calls if call.side == side))
        for name, side in (("emission -> output has left", PRIMARY), ("meanwhile", BACKUP))
    )


def _until(is_true: Callable[[], object], step: Callable[[], None], otherwise: str) -> None:
    for _ in range(STEPS_MAX):
        if is_true():
            return
        step()
    raise Lost(otherwise)
