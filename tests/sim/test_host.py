"""A simulated host shows each of its steps to the checkers: what is wrong in one ends the history."""

from dataclasses import replace

import pytest

from ftvm.config import Limits
from ftvm.errors import InternalError
from ftvm.protocol.view import Role
from ftvm.sim.checkers import InvariantViolated
from ftvm.sim.simulation import MS, SECOND, Simulation
from ftvm.units import Nanos

from .worlds import PAIR, world_of


@pytest.fixture
def world() -> Simulation:
    """A pair that is protected, and to which nothing happens."""
    world = world_of(PAIR)
    world.start()
    return world


def test_a_pair_to_which_nothing_is_done_breaks_nothing(world: Simulation) -> None:
    world.play(SECOND)


@pytest.mark.parametrize("host", ["a", "b"])
def test_a_position_that_goes_back_ends_the_history(world: Simulation, host: str) -> None:
    world.checkers.positions.stands(world.hosts[host].view.id, 2, 1_000_000)

    with pytest.raises(InvariantViolated, match="I6"):
        world.play(SECOND)


def test_a_queue_beyond_its_limit_ends_the_history(world: Simulation) -> None:
    world.hosts["a"].limits = replace(Limits(), outputs_held_bytes=1)

    with pytest.raises(InvariantViolated, match="I8"):
        world.play(SECOND)


@pytest.mark.parametrize("host", ["a", "b"])
def test_a_host_that_stopped_on_an_error_ends_the_history(world: Simulation, host: str) -> None:
    world.hosts[host].driver.halt(InternalError("planted"))

    with pytest.raises(InvariantViolated, match=r"liveness.*planted"):
        world.play(SECOND)


def test_a_host_that_never_comes_to_rest_ends_the_history(world: Simulation) -> None:
    host = world.hosts["a"]
    host.endpoint.step = lambda now: now  # type: ignore[method-assign]

    with pytest.raises(InvariantViolated, match="to be called at once"):
        world.play(SECOND)


def test_who_handed_the_guest_over_must_stand_by_with_what_it_cut(world: Simulation) -> None:
    host = world.hosts["a"]
    real = host.guest.fingerprint
    host.guest.fingerprint = lambda: real() if host.role is Role.ACTIVE else b"another"  # type: ignore[method-assign]

    host.switch_over(Nanos(SECOND))
    with pytest.raises(InvariantViolated, match="I3"):
        world.play(SECOND)


def test_a_healed_world_has_no_faults_any_more(world: Simulation) -> None:
    world.make_bad()
    world.play(500 * MS)
    world.links.cut.add(("a", "b"))
    world.arbiter_faults.is_down, world.arbiter_faults.disk_ns = True, SECOND
    world.hosts["a"].pause(SECOND)

    world.heal()
    before = list(world.faults.happened)
    world.play(2 * SECOND)

    assert before
    assert world.faults.happened == before
    assert not world.links.cut
    assert (world.arbiter_faults.is_down, world.arbiter_faults.disk_ns) == (False, 0)
    assert world.hosts["a"].is_up
