"""Hosts that are stopped in order, at any moment, and what must hold behind them (protocol/stop.py).

In the fault phase one host at a time is asked to stop, whatever it is doing, and started again a little later, as after
a crash. At the end of a run, when all is well, some hosts are stopped: then nothing excuses a stop that is not in
order, a guest that ended although somebody could take it, or a record that names a host that is gone.
"""

from collections.abc import Callable, Sequence
from typing import Final

from ftvm.protocol.view import Role
from ftvm.sim.checkers import InvariantViolated
from ftvm.sim.port import HostPort, WorldPort
from ftvm.sim.rng import Rng, stream

__all__ = ["can_stop", "finish", "stop_one"]

_MS: Final = 1_000_000
_STOP_NS_MAX: Final = 10_000 * _MS
_SETTLE_NS: Final = 1_500 * _MS
_LOOK_NS: Final = 10 * _MS
_HEAR_NS: Final = 25_000 * _MS
"""A host that waits to join reads the record every ten seconds."""
_ENDS_ONE_IN: Final = 8

FINALES: Final = (("active",), ("standby",), ("spare",), ("active", "standby"), ("standby", "active"))
"""Who is stopped, in this order. Where there is no spare, nobody is stopped in its place."""


def stop_one(world: WorldPort, rng: Rng) -> None:
    """Ask a host to stop that the others could do without."""
    _stop(world, rng.choice([host for host in world.hosts.values() if _may_be_stopped(world, host)]))


def can_stop(world: WorldPort) -> bool:
    """Tell whether there is such a host."""
    return any(_may_be_stopped(world, host) for host in world.hosts.values())


def _stop(world: WorldPort, host: HostPort) -> None:
    world.trace(f"STOP {host.name} {host.role.value}")
    host.stop()


def finish(world: WorldPort) -> None:
    """End a run in which all is well again: stop some hosts, and see that nothing is left to clean up; now and then
    end the guest."""
    by_place = _places(world)
    if not by_place:
        return
    rng = stream(world.seed, "end")
    if rng.randrange(_ENDS_ONE_IN) == 0:
        _end_guest(world, by_place["active"], by_place["standby"], rng)
        return
    rng = stream(world.seed, "finale")
    wanted, gap_ns = rng.choice(FINALES), rng.randrange(100 * _MS)
    hosts = [by_place[place] for place in wanted if place in by_place]
    for host in hosts:
        if not host.is_dead:
            _stop(world, host)
        world.play(gap_ns)
    _play_until(world, lambda: all(host.is_dead for host in hosts), _STOP_NS_MAX)
    for host in by_place.values():
        if host.is_dead and (host.outcome is None or not host.outcome[1]):
            raise InvariantViolated("stop", f"{host.name} has not stopped in order: {host.outcome}")
    _play_until(world, lambda: _what_is_left(world, hosts) is None, _SETTLE_NS)
    what = _what_is_left(world, hosts)
    if what is not None:
        raise InvariantViolated("stop", f"{what} after {', '.join(wanted)} stopped: {world.record}")


def _end_guest(world: WorldPort, active: HostPort, standby: HostPort, rng: Rng) -> None:
    """End the guest for good beside a standby that may be stopped: it must end, too, once it goes on."""
    pause_ns, before_ns = rng.choice((0, 300, 3_000)) * _MS, rng.randrange(1_000) * _MS
    world.trace(f"END at {active.name}, beside {standby.name}, stopped for {pause_ns // _MS} ms")
    if pause_ns:
        standby.pause(pause_ns)
        world.play(before_ns)
    if active.is_dead or active.is_leaving or active.role is not Role.ACTIVE:
        return  # whoever was stopped has taken the guest back before it could be ended
    active.end_guest()
    _play_until(world, lambda: active.is_dead, _STOP_NS_MAX)
    if active.outcome is None or not active.outcome[1]:
        raise InvariantViolated("stop", f"{active.name} has not ended its guest in order: {active.outcome}")
    _play_until(world, lambda: standby.is_dead, pause_ns + _HEAR_NS)
    if not standby.is_dead:
        raise InvariantViolated("stop", f"{standby.name} waits for a guest that has ended for good: {world.record}")


def _play_until(world: WorldPort, is_so: Callable[[], bool], limit_ns: int) -> None:
    for _ in range(limit_ns // _LOOK_NS):
        if is_so():
            return
        world.play(_LOOK_NS)


def _places(world: WorldPort) -> dict[str, HostPort]:
    """Return who is active, standby and spare; nothing unless all is well, and nobody has been asked to stop."""
    active, named = world.active(), world.record.standby
    if active is None or active.view.record.standby is None or any(host.is_leaving for host in world.hosts.values()):
        return {}
    others = [host for host in world.hosts.values() if host is not active and not host.is_dead]
    standbys = [host for host in others if host.is_up and host.role is Role.STANDBY and host.view.id == named]
    if not standbys:
        return {}
    spares = [host for host in others if host not in standbys]
    return dict(zip(("active", "standby", "spare"), (active, *standbys, *spares), strict=False))


def _what_is_left(world: WorldPort, stopped: Sequence[HostPort]) -> str | None:
    """Return what is not in order now that these hosts have stopped; None if all is."""
    record = world.record
    stay = [host for host in world.hosts.values() if host not in stopped]
    runs = any(record.active in host.ids and host.role is Role.ACTIVE for host in stay)
    if record.active is None:
        return None if len(stopped) > 1 else "the guest has ended"  # a spare does not hold its state yet
    if not runs:
        return "the guest runs nowhere"
    is_named = any(record.standby in host.ids for host in stopped)
    return "a standby that was stopped is named" if is_named and not world.halts_alone else None


def _may_be_stopped(world: WorldPort, host: HostPort) -> bool:
    """Whether the guest may go on without this host: at another, which is a member, or is about to become one."""
    others = [other for other in world.hosts.values() if other is not host and not other.is_dead]
    if not host.is_up or not others or host.is_leaving or any(other.is_leaving for other in others):
        return False
    is_awaited = host.role is Role.ACTIVE and any(other.role is Role.STANDBY for other in others)
    return is_awaited or world.can_spare(host.address)
