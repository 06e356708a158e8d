"""What seeds have found, each told again as its own story, so that it stays found when seeds draw otherwise."""

import itertools
from collections.abc import Sequence

import pytest

from ftvm.checkpoint import Buffer
from ftvm.engines.lockstep import Lockstep
from ftvm.errors import GuestError
from ftvm.interfaces import Lane
from ftvm.protocol.standby.claiming import NAMING_NS
from ftvm.protocol.view import Role
from ftvm.sim.losses import PATIENCE_NS
from ftvm.sim.network import SimTransport
from ftvm.sim.run import play
from ftvm.sim.simulation import MS, SECOND, Simulation
from ftvm.units import Nanos

from .worlds import PAIR, play_until, world_of


def lockstep_world() -> Simulation:
    return world_of(PAIR, engine=Lockstep(interval=0.04))


def have_the_log_overtake_the_first_epoch(world: Simulation) -> None:
    carry = world.network.carry
    ends = itertools.count()

    def late(sender: SimTransport, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None) -> bool:
        is_first_end = len(frames) == 5 and next(ends) == 0
        if not is_first_end:
            return carry(sender, peer, lane, frames, token)
        world.schedule.after(50 * MS, lambda: carry(sender, peer, lane, frames, token) and None)
        return True

    world.network.carry = late  # type: ignore[method-assign]


def test_a_first_copy_that_does_not_load_is_made_again() -> None:
    """Under lockstep the log came with the copy, and was to be executed by a guest that there was not."""
    world = lockstep_world()
    failures = iter([True])
    world.hosts["b"].guest.fails_to_load = lambda: next(failures, False)
    have_the_log_overtake_the_first_epoch(world)

    world.start()
    world.check_alive()

    assert world.trace_log.told["Diverged"] == 1


def test_who_handed_the_guest_over_follows_from_where_it_stands() -> None:
    """It loaded the devices that it had just saved; had that failed, its state, perhaps the last one, was lost."""
    world = lockstep_world()
    world.start()
    host = world.hosts["a"]
    host.guest.fails_to_load = lambda: True

    host.switch_over(Nanos(SECOND))
    world.play(SECOND)

    assert world.checkers.records.switchovers == 1
    assert host.role is Role.STANDBY
    assert not world.trace_log.told["Diverged"]


def world_with_an_add_under_way(disk_ns: int = SECOND) -> Simulation:
    """A host that runs alone has copied its guest to b, and asks an arbiter with a slow disk to add it."""
    world = world_of(PAIR, 1, halts_alone=False)
    world.start()
    world.crash("b")
    play_until(world, lambda: world.store.record.standby is None)
    world.reboot("b")
    world.arbiter_faults.disk_ns = disk_ns
    play_until(world, lambda: world.hosts["b"].role is Role.STANDBY)
    return world


def test_a_standby_that_gave_up_before_it_was_named_does_not_count_as_protection() -> None:
    """The ADD came into force long after the standby had found its active silent, and the active died with it."""
    world = world_with_an_add_under_way(2 * NAMING_NS)
    world.links.cut |= {("a", "b"), ("b", "a")}
    play_until(world, lambda: world.hosts["b"].role is Role.EMPTY)

    play_until(world, lambda: world.store.record.standby is not None)
    world.crash("a")
    world.reboot("a")

    assert world.is_lost


def test_who_is_named_later_than_a_whole_standby_waits_is_named_too_late() -> None:
    """By any clock: the fastest is ten percent ahead of the slowest."""
    assert PATIENCE_NS == NAMING_NS * 9 // 10


def test_a_whole_standby_whose_active_falls_silent_waits_to_be_named() -> None:
    """It read the record once, threw its state away, and was named then: nobody could go on."""
    world = world_with_an_add_under_way()
    world.links.cut |= {("a", "b"), ("b", "a")}
    play_until(world, lambda: world.store.record.standby is not None)

    world.crash("a")
    world.reboot("a")
    world.arbiter_faults.disk_ns = 0
    world.links.cut.clear()

    play_until(world, lambda: world.hosts["b"].role is Role.ACTIVE)


def test_an_active_that_stops_while_its_add_is_under_way_hands_the_guest_over() -> None:
    """It closed at once; the ADD came into force then, and the record named a host that was gone."""
    world = world_with_an_add_under_way()

    world.hosts["a"].stop()
    world.arbiter_faults.disk_ns = 0

    play_until(world, lambda: world.hosts["b"].role is Role.ACTIVE and world.hosts["a"].is_dead)
    assert world.hosts["a"].outcome[1]


def test_a_standby_that_knows_that_it_is_named_must_not_be_lost() -> None:
    world = world_with_an_add_under_way()
    play_until(world, lambda: world.hosts["b"].view.record.standby is not None)
    world.links.cut |= {("a", "b"), ("b", "a")}
    world.arbiter_faults.is_down = True
    play_until(world, lambda: world.trace_log.told["Suspected"] > 0)

    world.crash("a")
    world.reboot("a")
    world.hosts["b"].crash()

    assert not world.is_lost


def test_a_switchover_that_waits_for_the_arbiter_waits_without_spinning() -> None:
    """The time at which the standby was to be asked again stayed due after it had answered."""
    world = world_of(PAIR)
    world.start()
    world.arbiter_faults.is_down = True
    host = world.hosts["a"]

    host.switch_over(Nanos(10 * SECOND))
    world.play(SECOND)

    assert host.role is Role.ACTIVE


def test_a_guest_that_two_failures_end_after_the_calm_began_is_no_violation() -> None:
    """A TAKE is in flight when its sender dies, and comes into force only after the last fault."""
    world = world_of(PAIR)
    world.start()
    world.arbiter_faults.disk_ns = 400 * MS
    world.hosts["a"].pause(SECOND)
    world.play(500 * MS)

    world.crash("b")
    world.heal()
    world.check_alive()

    assert world.is_lost


@pytest.mark.parametrize("seed", [16429, 18935])
def test_a_standby_whose_guest_died_while_it_was_handed_over_is_no_standby_for_the_next_switchover(seed: int) -> None:
    """It could not run the guest that it was handed back, and said nothing of that until then."""
    assert play(seed).invariant is None


def test_a_standby_that_leaves_an_active_which_halts_is_given_its_time_before_the_guest_must_be_protected() -> None:
    """It waited its 8 s for the record, started again, and the look ended 40 ms after it was protected."""
    assert play(16074).invariant is None


def test_a_guest_that_dies_while_its_switch_is_open_ends_its_host_and_the_other_goes_on() -> None:
    world = world_of(PAIR)
    world.start()
    world.arbiter_faults.disk_ns = 200 * MS
    host = world.hosts["a"]
    host.switch_over(Nanos(SECOND))
    play_until(world, lambda: host.view.proposal is not None)

    host.kill_guest()
    play_until(world, lambda: host.is_dead)
    world.arbiter_faults.disk_ns = 0
    world.check_alive()

    assert host.outcome is not None
    assert host.outcome[1]
    assert not world.is_ended


def test_a_dead_guest_loads_nothing() -> None:
    guest = world_of(PAIR).hosts["a"].guest
    devices = guest.save_devices()
    guest.die("it was killed")

    with pytest.raises(GuestError, match="it was killed"):
        guest.load_devices(devices)
