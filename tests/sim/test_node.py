"""A simulated host shows each of its steps to the checkers: what is wrong in one ends the history."""

from dataclasses import replace

import pytest

from ftvm.config import Limits
from ftvm.engines.remus import Remus
from ftvm.errors import InternalError
from ftvm.protocol.view import Role
from ftvm.sim.checkers import Violation
from ftvm.sim.world import MS, SECOND, World
from ftvm.units import Nanos


@pytest.fixture
def world() -> World:
    """A pair that is protected, and to which nothing happens."""
    world = World(0, engine=Remus(interval=0.04))
    world.start()
    return world


def test_a_pair_to_which_nothing_is_done_breaks_nothing(world: World) -> None:
    world.play(SECOND)


@pytest.mark.parametrize("host", ["a", "b"])
def test_a_position_that_goes_back_ends_the_history(world: World, host: str) -> None:
    world.positions.stands(world.nodes[host].view.id, 2, 1_000_000)

    with pytest.raises(Violation, match="I6"):
        world.play(SECOND)


def test_a_queue_beyond_its_limit_ends_the_history(world: World) -> None:
    world.nodes["a"].limits = replace(Limits(), outputs_held_bytes=1)

    with pytest.raises(Violation, match="I8"):
        world.play(SECOND)


@pytest.mark.parametrize("host", ["a", "b"])
def test_a_host_that_stopped_on_an_error_ends_the_history(world: World, host: str) -> None:
    world.nodes[host].driver.failure = InternalError("planted")

    with pytest.raises(Violation, match=r"liveness.*planted"):
        world.play(SECOND)


def test_a_host_that_never_comes_to_rest_ends_the_history(world: World) -> None:
    node = world.nodes["a"]
    node.endpoint.step = lambda now: now  # type: ignore[method-assign]

    with pytest.raises(Violation, match="to be called at once"):
        world.play(SECOND)


def test_who_handed_the_guest_over_must_stand_by_with_what_it_cut(world: World) -> None:
    node = world.nodes["a"]
    real = node.guest.fingerprint
    node.guest.fingerprint = lambda: real() if node.role is Role.ACTIVE else b"another"  # type: ignore[method-assign]

    node.driver.begin_switchover(Nanos(SECOND))
    node.wake()
    with pytest.raises(Violation, match="I3"):
        world.play(SECOND)


def test_a_healed_world_has_no_faults_any_more(world: World) -> None:
    world.make_bad()
    world.play(500 * MS)
    world.links.cut.add(("a", "b"))
    world.arbiter_faults.is_down, world.arbiter_faults.disk_ns = True, SECOND
    world.nodes["a"].pause(SECOND)

    world.heal()
    before = list(world.ledger.happened)
    world.play(2 * SECOND)

    assert before
    assert world.ledger.happened == before
    assert not world.links.cut
    assert (world.arbiter_faults.is_down, world.arbiter_faults.disk_ns) == (False, 0)
    assert world.nodes["a"].is_up
