"""A third host stands ready with nothing, and takes the place of one that is lost."""

import pytest

from ftvm.protocol.view import Role
from ftvm.sim.simulation import SECOND, Simulation

from .worlds import TRIO, play_until, world_of


@pytest.fixture
def world() -> Simulation:
    """Three hosts: a is active; one of the others stands by, and one is the spare."""
    world = world_of(TRIO, halts_alone=False)
    world.start()
    return world


def host_in(world: Simulation, role: Role) -> str:
    (address,) = (host.address for host in world.hosts.values() if host.role is role and not host.is_dead)
    return address


def test_a_spare_stays_empty_while_there_is_a_standby(world: Simulation) -> None:
    before = world.record

    world.play(2 * SECOND)

    assert [host_in(world, role) for role in (Role.ACTIVE, Role.EMPTY)] == ["a", host_in(world, Role.EMPTY)]
    assert world.record == before


def test_a_spare_takes_the_place_of_a_standby_that_is_lost(world: Simulation) -> None:
    spare, standby = host_in(world, Role.EMPTY), host_in(world, Role.STANDBY)

    world.crash(standby)
    play_until(world, lambda: world.record.standby in world.hosts[spare].ids)

    assert world.hosts["a"].role is Role.ACTIVE


def test_a_spare_becomes_the_standby_of_who_took_over(world: Simulation) -> None:
    spare, standby = host_in(world, Role.EMPTY), host_in(world, Role.STANDBY)

    world.crash("a")
    play_until(world, lambda: world.record.standby in world.hosts[spare].ids)

    assert world.record.active in world.hosts[standby].ids


def test_the_guest_lives_on_at_the_spare_when_two_hosts_are_lost_in_turn(world: Simulation) -> None:
    spare, standby = host_in(world, Role.EMPTY), host_in(world, Role.STANDBY)

    world.crash("a")
    play_until(world, lambda: world.record.standby in world.hosts[spare].ids)
    world.crash(standby)
    play_until(world, lambda: world.hosts[spare].role is Role.ACTIVE)

    released = len(world.checkers.outputs.released)
    play_until(world, lambda: len(world.checkers.outputs.released) > released)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_to_clean_up_when_hosts_of_three_stop(seed: int) -> None:
    world = world_of(TRIO, seed, fault_kinds=frozenset(), rates={})

    world.run()

    assert any(host.outcome is not None for host in world.hosts.values())
