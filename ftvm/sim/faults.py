"""The faults that hit a simulated world from time to time: crashes, pauses, cut links, a dead or slow arbiter.

Faults of single messages (loss, repeats, long delays, corruption) are drawn for each message, in network.py and
arbiter.py.
"""

from itertools import permutations
from typing import Final

from ftvm.interfaces import Sign
from ftvm.protocol.view import NAMED, Role
from ftvm.sim.faultkind import FaultKind
from ftvm.sim.port import HostPort, WorldPort
from ftvm.sim.rng import Rng

__all__ = ["FAULTS", "ambush"]

_MS: Final = 1_000_000
_AMBUSH_NS_MAX: Final = 40 * _MS


def _crash(world: WorldPort, rng: Rng) -> None:
    """Crash a host whose partner holds the state, and start it again a little later."""
    address = rng.choice([address for address in world.hosts if world.can_spare(address)])
    host = world.hosts[address]
    world.trace(f"CRASH {host.name} {host.role.value}")
    world.kill(address, rng.randrange(20 * _MS, 600 * _MS))


def _can_crash(world: WorldPort) -> bool:
    return any(world.can_spare(address) for address in world.hosts)


def _pause(world: WorldPort, rng: Rng) -> None:
    """Stop a host's process for a while, at times for longer than every time-out."""
    host = _any_host(world, rng)
    length_ns = rng.choice([20, 100, 250, 450, 900, 1800]) * _MS
    world.trace(f"PAUSE {host.name} {length_ns // _MS} ms")
    host.pause(length_ns)


def _pulse(world: WorldPort, rng: Rng) -> None:
    """Stop a host's process again and again, for most of the time."""
    host, times = _any_host(world, rng), rng.randrange(2, 8)
    world.trace(f"PULSE {host.name} {times} times")
    for number in range(times):
        world.after(number * 300 * _MS, lambda: None if world.is_calm else host.pause(250 * _MS))


def _hang(world: WorldPort, rng: Rng) -> None:
    """Keep a host's loop busy with one step for a while, at times for longer than is tolerated."""
    host = _any_host(world, rng)
    length_ns = rng.choice([100, 400, 900, 1800, 3600]) * _MS
    world.trace(f"HANG {host.name} {length_ns // _MS} ms")
    host.hang(length_ns)


def _any_host(world: WorldPort, rng: Rng) -> HostPort:
    return world.hosts[rng.choice(list(world.hosts))]


def _cut(world: WorldPort, rng: Rng) -> None:
    """Cut a link, one way or both."""
    one, other = rng.choice(list(permutations(world.hosts, 2)))
    pairs = rng.choice([[(one, other)], [(one, other), (other, one)]])
    world.trace(f"CUT {pairs}")
    world.cut(pairs, rng.randrange(10 * _MS, 1000 * _MS))


def _reset(world: WorldPort, rng: Rng) -> None:
    """Reset the connections of a healthy link, as a firewall does; at times it also breaks, or refuses, who asks."""
    false_answers = rng.choice([[], [], [Sign.UNCLEAR] * 5, [Sign.REFUSED], [Sign.REFUSED, Sign.UNCLEAR]])
    world.trace(f"RESET {[sign.value for sign in false_answers]}")
    world.reset(false_answers)


def _outage(world: WorldPort, rng: Rng) -> None:
    """Make the arbiter unreachable for a while."""
    world.take_arbiter_down(rng.randrange(20 * _MS, 800 * _MS))


def _slow_disk(world: WorldPort, rng: Rng) -> None:
    """Make each write of the arbiter slow for a while."""
    world.slow_disk(rng.choice([20, 100, 500]) * _MS, rng.randrange(50 * _MS, 1000 * _MS))


def _disk_stall(world: WorldPort, rng: Rng) -> None:
    """Make a host's disk slow for a while, at times slower than any time-out."""
    host, stall_ms = _any_host(world, rng), rng.choice([5, 50, 300, 1500])
    world.trace(f"DISK STALLS {host.name} {stall_ms} ms")
    host.stall_disk(stall_ms * _MS, rng.randrange(100 * _MS, 2000 * _MS))


def _guest_death(world: WorldPort, rng: Rng) -> None:
    """Have the guest fail where it runs, as a QEMU that is killed: its host stops, and the standby must go on."""
    del rng
    host = world.active()
    if host is not None:
        world.trace(f"GUEST DIES {host.name}")
        host.kill_guest()


def _can_guest_die(world: WorldPort) -> bool:
    host = world.active()
    if host is None or host.is_leaving or not world.can_spare(host.address):
        return False
    active = host.view.active
    return active is not None and active.link in NAMED


def _mislead(world: WorldPort, rng: Rng) -> None:
    """Give a host that has no part in the guest its own arbiter: it must not be copied to."""
    host = rng.choice(_idlers(world))
    world.trace(f"MISLEAD {host.name}")
    world.mislead(host.address, rng.choice(["", "1" * 32]), rng.randrange(100 * _MS, 3000 * _MS))


def _idlers(world: WorldPort) -> list[HostPort]:
    members = {world.record.active, world.record.standby}
    return [
        host
        for host in world.hosts.values()
        if host.is_up and host.role is Role.EMPTY and not host.is_leaving and not members & host.ids
    ]


def ambush(world: WorldPort, rng: Rng) -> None:
    """Strike in the few milliseconds after a change of the record, when two sides know different things."""
    addresses = [address for address, host in world.hosts.items() if host.is_up]
    address = rng.choice(addresses or list(world.hosts))
    kind, length_ns = rng.choice(["crash", "pause", "cut"]), rng.choice([30, 250, 900]) * _MS

    def strike() -> None:
        if world.is_calm:
            return
        world.trace(f"AMBUSH {kind} {address}")
        if kind == "cut":
            world.cut([(address, other) for other in world.hosts if other != address], length_ns)
        elif kind == "pause":
            world.hosts[address].pause(length_ns)
        elif world.can_spare(address):
            world.kill(address, length_ns)

    world.after(int(rng.random() ** 2 * _AMBUSH_NS_MAX), strike)


FAULTS: Final[tuple[FaultKind, ...]] = (
    FaultKind(kind="crash", gap_ms=(100, 1200), act=_crash, is_possible=_can_crash),
    FaultKind(kind="pause", gap_ms=(100, 1500), act=_pause),
    FaultKind(kind="pulse", gap_ms=(300, 3000), act=_pulse),
    FaultKind(kind="hang", gap_ms=(200, 3000), act=_hang),
    FaultKind(kind="cut", gap_ms=(100, 1500), act=_cut),
    FaultKind(kind="reset", gap_ms=(50, 600), act=_reset),
    FaultKind(kind="outage", gap_ms=(200, 1500), act=_outage),
    FaultKind(kind="slow_disk", gap_ms=(200, 1500), act=_slow_disk),
    FaultKind(kind="disk_stall", gap_ms=(100, 1500), act=_disk_stall, share=0.25),
    FaultKind(kind="guest_death", gap_ms=(400, 3000), act=_guest_death, is_possible=_can_guest_die),
    FaultKind(
        kind="other_place",
        gap_ms=(300, 2000),
        act=_mislead,
        share=0.15,
        is_possible=lambda world: bool(_idlers(world)),
    ),
)
