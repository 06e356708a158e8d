"""Histories told by hand, for breaks that need two things to happen within milliseconds of each other.

Each script plays in a calm world, stops it at a moment that chance would rarely hit, and does the worst thing there. A
script passes, however often it is played, unless the code is broken; the mutants show that it would see that.
"""

from collections.abc import Callable

from ftvm.interfaces import Sign
from ftvm.protocol.view import LinkState, Role
from ftvm.sim.checkers import InvariantViolated
from ftvm.sim.simulation import Simulation

from .worlds import PAIR, world_of

MS = 1_000_000
SECOND = 1_000 * MS
GRAIN_NS = 10_000
"""How finely a script watches the world."""


class MomentMissed(Exception):
    """What a script waits for did not come about."""


def calm_world(seed: int) -> Simulation:
    """Return a world in which nothing goes wrong by itself, and what is released has left at once."""
    world = world_of(PAIR, seed, release_ns_max=0)
    world.bring_inputs()
    return world


def play_until(world: Simulation, is_true: Callable[[], object]) -> None:
    """Let the world go on until something is so, and stop it right then."""
    end = world.schedule.now + 5 * SECOND
    while not is_true():
        if world.schedule.now >= end:
            raise MomentMissed("the moment never comes")
        world.schedule.run_until(world.schedule.now + GRAIN_NS)


def play(world: Simulation, milliseconds: int) -> None:
    world.schedule.run_until(world.schedule.now + milliseconds * MS)


def link_of(world: Simulation, address: str) -> LinkState | None:
    active = world.hosts[address].view.active
    return active.link if active is not None else None


def the_active_dies_right_after_its_add(seed: int) -> None:
    """The standby is slow with its first epoch, nothing more reaches it, and the moment it is added the active dies."""
    world = calm_world(seed)
    play_until(world, lambda: link_of(world, "a") not in (None, LinkState.NONE, LinkState.COPYING))
    world.hosts["b"].pause(15 * MS)
    play_until(world, lambda: link_of(world, "a") is LinkState.ADDING)
    world.links.cut.add(("a", "b"))
    play_until(world, lambda: world.store.record.standby is not None)
    world.crash("a")
    world.links.cut.clear()
    world.reboot("a")
    play(world, 3_000)
    world.check_alive()


def the_standby_of_a_dead_active_is_stopped_again_and_again(seed: int) -> None:
    """The active's host loses power; the standby runs for 50 ms of each 300, and must take over all the same."""
    world = calm_world(seed)
    play_until(world, world.is_protected)
    world.crash("a")
    for _ in range(40):
        world.hosts["b"].pause(250 * MS)
        play(world, 300)
    if world.hosts["b"].role is not Role.ACTIVE:
        raise InvariantViolated("liveness", "a dead active was excused for 12 s")


def the_actives_loop_hangs_for_good(seed: int) -> None:
    """The active's process lives, and its heart beats, but its loop does nothing more: the standby must take over."""
    world = calm_world(seed)
    play_until(world, world.is_protected)
    world.hosts["a"].hang(60 * SECOND)
    play(world, 12_000)
    if world.hosts["b"].role is not Role.ACTIVE:
        raise InvariantViolated("liveness", "an active that hangs was borne with for 12 s")


def the_active_dies_while_its_add_is_written(seed: int) -> None:
    """The arbiter's disk is slow; the standby finds its active silent, which dies the moment the ADD is in force."""
    world = calm_world(seed)
    play_until(world, lambda: link_of(world, "a") is LinkState.COPYING)
    world.arbiter_faults.disk_ns = SECOND
    play_until(world, lambda: link_of(world, "a") is LinkState.ADDING)
    world.links.cut |= {("a", "b"), ("b", "a")}
    play_until(world, lambda: world.store.record.standby is not None)
    world.crash("a")
    world.arbiter_faults.disk_ns = 0
    world.links.cut.clear()
    world.reboot("a")
    world.check_alive()


def the_firewall_resets_twice_and_refuses_once_each_time(seed: int) -> None:
    """The second reset comes before the first refusal was asked after: two refusals in a row, and nobody has died."""
    world = calm_world(seed)
    play_until(world, world.is_protected)
    for _ in range(50):
        world.network.reset([Sign.REFUSED] * len(world.hosts))
        play_until(world, lambda: not world.links.false_answers)
        world.network.reset([Sign.REFUSED] * len(world.hosts))
        play(world, 100)
