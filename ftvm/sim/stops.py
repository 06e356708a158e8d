"""Hosts that are stopped in order, at any moment, and what must hold behind them (protocol/stop.py).

In the fault phase one host at a time is asked to stop, whatever it is doing, and started again a little later, as after
a crash. At the end of a run, when all is well, one host or both are stopped: then nothing excuses a stop that is not in
order, a guest that ended although somebody could take it, or a record that names a host that is gone.
"""

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

FINALES: Final = (("active",), ("standby",), ("active", "standby"), ("standby", "active"))


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
    """End a run in which all is well again: stop a host or both, and see that nothing is left to clean up."""
    active = world.active()
    if active is None or not _is_well(world, active):
        return
    (standby,) = (host for host in world.hosts.values() if host is not active)
    rng = stream(world.seed, "finale")
    wanted, gap_ns = rng.choice(FINALES), rng.randrange(100 * _MS)
    hosts = [active if name == "active" else standby for name in wanted]
    for host in hosts:
        if not host.is_dead:
            _stop(world, host)
        world.play(gap_ns)
    end = _STOP_NS_MAX
    while end > 0 and not all(host.is_dead for host in hosts):
        world.play(_LOOK_NS)
        end -= _LOOK_NS
    _judge(world, active, standby, wanted)


def _is_well(world: WorldPort, active: HostPort) -> bool:
    """Whether both hosts are what the record says, and nobody has asked one to stop."""
    (standby,) = (host for host in world.hosts.values() if host is not active)
    is_named = standby.role is Role.STANDBY and standby.view.id == world.record.standby
    is_protected = active.role is Role.ACTIVE and active.view.record.standby is not None
    return is_protected and standby.is_up and is_named and not (active.is_leaving or standby.is_leaving)


def _judge(world: WorldPort, active: HostPort, standby: HostPort, wanted: tuple[str, ...]) -> None:
    for host in (active, standby):
        if host.is_dead and (host.outcome is None or not host.outcome[1]):
            raise InvariantViolated("stop", f"{host.name} has not stopped in order: {host.outcome}")
    if len(wanted) == 1:
        world.play(_SETTLE_NS)
    record, stays = world.record, standby if wanted == ("active",) else active
    if len(wanted) == 2:
        if record.active is not None or record.standby is not None:
            raise InvariantViolated("stop", f"both hosts have stopped, and {record} still names one")
    elif record.active not in stays.ids or stays.role is not Role.ACTIVE:
        raise InvariantViolated("stop", f"the guest does not run at {stays.name} after the other was stopped: {record}")
    elif record.standby is not None and not world.halts_alone:
        raise InvariantViolated("stop", f"{record} still names a standby that was stopped")


def _may_be_stopped(world: WorldPort, host: HostPort) -> bool:
    """Whether the guest may go on without this host: at another, which is a member, or is about to become one."""
    others = [other for other in world.hosts.values() if other is not host and not other.is_dead]
    if not host.is_up or not others or host.is_leaving or any(other.is_leaving for other in others):
        return False
    is_awaited = host.role is Role.ACTIVE and any(other.role is Role.STANDBY for other in others)
    return is_awaited or world.can_spare(host.address)
