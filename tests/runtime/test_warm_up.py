"""A shadow is warmed up only for a guest that does not run here: a page that it has written must not get into it."""

from dataclasses import replace

import pytest

from ftvm.protocol.view import Role
from ftvm.runtime import capture
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import HASTY, Pair
from ftvm.units import Nanos


@pytest.fixture
def warming(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A pair whose standby warms up for a switchover, for longer than it takes to suspect a silent active."""

    def make(boots: bool) -> SimGuest:
        return SimGuest(page_count=6000, pages_per_step=2, output_every=4, boots=boots)

    pair = Pair(guest=make, timing=HASTY).protected()
    monkeypatch.setattr(capture, "_PAGES_PER_COPY_STEP", 1)
    pair.a.driver.begin_switchover(Nanos(10**10))
    pair.until(lambda: pair.b.driver._capturer.is_warming_up)
    return pair


def test_a_warm_up_ends_when_the_guest_is_taken_over(warming: Pair) -> None:
    warming.kill(warming.a)

    warming.until(lambda: warming.b.role is Role.ACTIVE)

    assert not warming.b.driver._capturer.is_warming_up


def test_a_warm_up_ends_when_the_standby_discards_what_it_had(warming: Pair) -> None:
    record = warming.record()
    warming.store.compare_and_set("vm", replace(record, generation=record.generation + 1, standby=None))

    warming.until(lambda: warming.b.role is Role.EMPTY)

    assert not warming.b.driver._capturer.is_warming_up
