"""Hosts that are stopped in order, at any moment, and what must hold behind them (protocol/stop.py).

In the fault phase one host at a time is asked to stop, whatever it is doing, and started again a little later, as after
a crash. At the end of a history, when all is well, one host or both are stopped: then nothing excuses a stop that is
not in order, a guest that ended although somebody could take it, or a record that names a host that is gone.
"""

import random
from typing import TYPE_CHECKING, Final

from ftvm.errors import ClosedError
from ftvm.protocol.view import Role
from ftvm.sim.chance import stream
from ftvm.sim.checkers import Violation

if TYPE_CHECKING:
    from ftvm.sim.node import Node
    from ftvm.sim.world import World

__all__ = ["can_stop", "finish", "stop_one", "was_stopped"]

_MS: Final = 1_000_000
_STOP_NS_MAX: Final = 10_000 * _MS
_SETTLE_NS: Final = 1_500 * _MS
_LOOK_NS: Final = 10 * _MS

FINALES: Final = (("active",), ("standby",), ("active", "standby"), ("standby", "active"))


def stop_one(world: "World", chance: random.Random) -> None:
    """Ask a host to stop that the other could do without."""
    stop(world, chance.choice([node for node in world.nodes.values() if _may_be_stopped(world, node)]))


def can_stop(world: "World") -> bool:
    """Tell whether there is such a host."""
    return any(_may_be_stopped(world, node) for node in world.nodes.values())


def stop(world: "World", node: "Node") -> None:
    """Ask a host to stop."""
    world.trace(f"STOP {node.name} {node.role.value}")
    node.driver.stop(ClosedError("an operator stops this host"))
    node.look()
    node.check_stop()
    node.wake()


def was_stopped(world: "World", node: "Node") -> None:
    """Look at what a host leaves behind that has stopped, and start it anew later."""
    outcome, record = node.driver.stopped, world.store.record
    if outcome is None or node.is_dead:
        return
    world.trace(f"STOPPED {node.name} {outcome.outcome}")
    if outcome.is_in_order and record.active in node.ids:
        raise Violation("stop", f"{node.name} has stopped in order, but {record} names it active")
    if not outcome.is_in_order:
        world.stopped_badly |= node.ids
    node.crash()
    if not (world.is_finishing or world.is_ended):
        delay_ns = stream(world.seed, "stopped", node.name).randrange(20 * _MS, 600 * _MS)
        world.timeline.after(delay_ns, lambda: world.reboot(node.address))


def finish(world: "World") -> None:
    """End a history in which all is well again: stop a host or both, and see that nothing is left to clean up."""
    active = world.active()
    if active is None or not _is_well(world, active):
        return
    (standby,) = (node for node in world.nodes.values() if node is not active)
    chance = stream(world.seed, "finale")
    wanted, gap_ns = chance.choice(FINALES), chance.randrange(100 * _MS)
    world.is_finishing = True
    nodes = [active if name == "active" else standby for name in wanted]
    for node in nodes:
        if not node.is_dead:
            stop(world, node)
        world.play(gap_ns)
    end = world.timeline.now + _STOP_NS_MAX
    while world.timeline.now < end and not all(node.is_dead for node in nodes):
        world.play(_LOOK_NS)
    _judge(world, active, standby, wanted)


def _is_well(world: "World", active: "Node") -> bool:
    """Whether both hosts are what the record says, and nobody has asked one to stop."""
    (standby,) = (node for node in world.nodes.values() if node is not active)
    is_named = standby.role is Role.STANDBY and standby.view.id == world.store.record.standby
    is_asked = active.driver.is_leaving or standby.driver.is_leaving
    return active.is_protected and standby.is_up and is_named and not is_asked


def _judge(world: "World", active: "Node", standby: "Node", wanted: tuple[str, ...]) -> None:
    for node in (active, standby):
        outcome = node.driver.stopped
        if node.is_dead and (outcome is None or not outcome.is_in_order):
            raise Violation("stop", f"{node.name} has not stopped in order: {outcome}")
    if len(wanted) == 1:
        world.play(_SETTLE_NS)
    record, stays = world.store.record, standby if wanted == ("active",) else active
    if len(wanted) == 2:
        if record.active is not None or record.standby is not None:
            raise Violation("stop", f"both hosts have stopped, and {record} still names one")
    elif record.active not in stays.ids or stays.role is not Role.ACTIVE:
        raise Violation("stop", f"the guest does not run at {stays.name} after the other was stopped: {record}")
    elif record.standby is not None and not world.plan.halts_alone:
        raise Violation("stop", f"{record} still names a standby that was stopped")


def _may_be_stopped(world: "World", node: "Node") -> bool:
    """Whether the guest may go on without this host: at the other, which is a member, or is about to become one."""
    (other,) = (one for one in world.nodes.values() if one is not node)
    if not node.is_up or other.is_dead or node.driver.is_leaving or other.driver.is_leaving:
        return False
    is_awaited = node.role is Role.ACTIVE and other.role is Role.STANDBY
    return is_awaited or world.is_survived_by_other(node.address)
