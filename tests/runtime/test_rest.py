"""A guest at rest is left alone, and what it does afterwards is safe as soon as ever."""

from typing import Any

import pytest

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.interfaces import Capability, Engine
from ftvm.protocol.effects import Cut
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import Pair

INTERVAL_MS = 20


class Dozer(SimGuest):
    """It sleeps or not; woken, it tells a step of its clock first."""

    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=1 << 30, boots=boots)
        self.sleeps = False

    @property
    def can(self) -> frozenset[Capability]:
        return super().can | {Capability.TELLS_WRITES, Capability.TELLS_IDLE}

    def is_idle(self) -> bool:
        return self.sleeps

    def has_written(self) -> bool:
        return any(self._dirty)

    def advance(self) -> None:
        if not self.sleeps:
            super().advance()

    def wake(self) -> None:
        self.sleeps = False
        assert self._sink is not None
        self._sink.moved_clock(self.position, 1)


def asleep(engine: Engine) -> tuple[Pair, Any, list[Cut]]:
    """Return a protected pair, its guest, which has slept for a while, and the cuts that are ordered from then on."""
    pair = Pair(guest=Dozer, engine=engine).protected()
    guest: Any = pair.a.guest
    guest.sleeps = True
    pair.run(1100)
    orders: list[Cut] = []
    act = pair.a.driver._acts[Cut]

    def noted(order: Cut) -> None:
        orders.append(order)
        act(order)

    pair.a.driver._acts[Cut] = noted
    return pair, guest, orders


ENGINES = [
    Remus(interval=INTERVAL_MS / 1000),
    Remus(interval=INTERVAL_MS / 1000, latency=0.005),
    Kemari(interval=INTERVAL_MS / 1000),
    Hybrid(interval=INTERVAL_MS / 1000),
]


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_a_guest_at_rest_is_asked_only_around_the_epoch_of_each_second(engine: Engine) -> None:
    pair, _, orders = asleep(engine)
    epoch = pair.b.standby.epoch

    pair.run(3000)

    assert pair.b.standby.epoch - epoch == 3
    assert len(orders) <= 6


@pytest.mark.parametrize("engine", [ENGINES[0], ENGINES[3]], ids=repr)
def test_what_a_guest_writes_after_a_rest_is_committed_an_interval_later(engine: Engine) -> None:
    pair, guest, _ = asleep(engine)
    pair.run(300)
    epoch = pair.b.standby.epoch

    guest.wake()
    pair.run(INTERVAL_MS + 5)

    assert pair.b.standby.epoch == epoch + 1


def test_a_guest_that_sleeps_again_is_cut_once_and_not_looked_at_behind_that() -> None:
    pair, guest, orders = asleep(ENGINES[0])
    pair.run(300)
    orders.clear()

    guest.wake()
    guest.advance()
    guest.sleeps = True
    pair.run(5 * INTERVAL_MS)

    assert len(orders) == 1


def test_a_guest_that_wakes_and_sleeps_at_once_is_cut_for_what_it_wrote_between() -> None:
    pair, guest, _ = asleep(ENGINES[0])
    pair.run(300)
    epoch = pair.b.standby.epoch

    guest.wake()
    guest.advance()
    guest.sleeps = True
    pair.run(INTERVAL_MS + 5)

    assert pair.b.standby.epoch == epoch + 1
