"""The simulator's guest keeps the contract of a guest, with or without an exact stop."""

import pytest
from hypothesis import strategies as st

from ftvm.engines.kemari import Kemari
from ftvm.interfaces import Capability
from ftvm.sim.guest import SimGuest
from ftvm.sim.simulation import SECOND
from ftvm.testing import check_guest

from .worlds import PAIR, play_until, world_of


class OneCard(SimGuest):
    """The kit also tries channels that there are not."""

    def deliver(self, channel: str, payload: bytes) -> None:
        if channel == "net0":
            super().deliver(channel, payload)


def advance(guest: SimGuest) -> None:
    for _ in range(20):
        guest.advance()


@pytest.mark.parametrize("stops_exactly", [False, True])
def test_the_guest_keeps_its_contract(stops_exactly: bool) -> None:
    def make() -> OneCard:
        return OneCard(page_count=24, pages_per_step=2, output_every=2, boots=True, stops_exactly=stops_exactly)

    frames = st.tuples(st.just("net0"), st.binary(min_size=1, max_size=20))
    assert (Capability.EXACT_OUTPUT_STOP in make().can) is stops_exactly
    check_guest(make, inputs=frames, let_run=advance, is_deterministic=True)


def test_a_guest_that_stops_exactly_is_resumed_behind_each_output() -> None:
    """A resume that came before the stop would be lost, and the guest stand still for ever."""
    world = world_of(PAIR, engine=Kemari(interval=0.04), stops_exactly=True)
    world.start()
    guest = world.hosts["a"].guest
    assert guest.is_running

    play_until(world, lambda: not guest.is_running)  # until its next output
    released = len(world.checkers.outputs.released)
    world.play(SECOND)

    assert len(world.checkers.outputs.released) > released + 10
