"""The faults that befall a simulated world from time to time: crashes, pauses, cut links, a dead or slow arbiter.

What befalls single messages (loss, repeats, long delays, corruption) is drawn for each message, in network.py and
arbiter.py.
"""

import random
from typing import TYPE_CHECKING, Final

from ftvm.interfaces import Sign
from ftvm.protocol.view import NAMED
from ftvm.sim.happening import Happening

if TYPE_CHECKING:
    from ftvm.sim.world import World

__all__ = ["FAULTS", "ambush"]

_MS: Final = 1_000_000
_AMBUSH_NS_MAX: Final = 40 * _MS


def _crash(world: "World", chance: random.Random) -> None:
    """Crash a host whose partner holds the state, and start it anew a little later."""
    address = chance.choice([address for address in world.nodes if world.is_survived_by_other(address)])
    node = world.nodes[address]
    world.trace(f"CRASH {node.name} {node.role.value}")
    world.crash(address)
    world.timeline.after(chance.randrange(20 * _MS, 600 * _MS), lambda: world.reboot(address))


def _can_crash(world: "World") -> bool:
    return any(world.is_survived_by_other(address) for address in world.nodes)


def _pause(world: "World", chance: random.Random) -> None:
    """Stop a host's process for a while, at times for longer than every time-out."""
    node = world.nodes[chance.choice(["a", "b"])]
    length_ns = chance.choice([20, 100, 250, 450, 900, 1800]) * _MS
    world.trace(f"PAUSE {node.name} {length_ns // _MS} ms")
    node.pause(length_ns)


def _pulse(world: "World", chance: random.Random) -> None:
    """Stop a host's process again and again, for most of the time."""
    node, times = world.nodes[chance.choice(["a", "b"])], chance.randrange(2, 8)
    world.trace(f"PULSE {node.name} {times} times")
    for number in range(times):
        world.timeline.after(number * 300 * _MS, lambda: None if world.is_calm else node.pause(250 * _MS))


def _hang(world: "World", chance: random.Random) -> None:
    """Keep a host's loop busy with one step for a while, at times for longer than is borne."""
    node = world.nodes[chance.choice(["a", "b"])]
    length_ns = chance.choice([100, 400, 900, 1800, 3600]) * _MS
    world.trace(f"HANG {node.name} {length_ns // _MS} ms")
    node.hang(length_ns)


def _cut(world: "World", chance: random.Random) -> None:
    """Cut the link, one way or both."""
    pairs = chance.choice([[("a", "b")], [("b", "a")], [("a", "b"), ("b", "a")]])
    world.trace(f"CUT {pairs}")
    world.links.cut.update(pairs)
    world.timeline.after(chance.randrange(10 * _MS, 1000 * _MS), world.links.cut.clear)


def _reset(world: "World", chance: random.Random) -> None:
    """Reset the connections of a healthy link, as a firewall does; at times it also breaks, or refuses, who asks."""
    false_answers = chance.choice([[], [], [Sign.UNCLEAR] * 5, [Sign.REFUSED], [Sign.REFUSED, Sign.UNCLEAR]])
    world.trace(f"RESET {[sign.value for sign in false_answers]}")
    world.network.reset(false_answers)


def _outage(world: "World", chance: random.Random) -> None:
    """Have nobody reach the arbiter for a while."""
    world.trace("ARBITER down")
    world.arbiter_faults.is_down = True

    def come_back() -> None:
        world.trace("ARBITER up")
        world.arbiter_faults.is_down = False

    world.timeline.after(chance.randrange(20 * _MS, 800 * _MS), come_back)


def _slow_disk(world: "World", chance: random.Random) -> None:
    """Have the arbiter take long over each write for a while."""
    world.trace("DISK slow")
    world.arbiter_faults.disk_ns = chance.choice([20, 100, 500]) * _MS

    def recover() -> None:
        world.trace("DISK fast")
        world.arbiter_faults.disk_ns = 0

    world.timeline.after(chance.randrange(50 * _MS, 1000 * _MS), recover)


def _guest_death(world: "World", chance: random.Random) -> None:
    """Have the guest fail where it runs, as a QEMU that is killed: its host stops, and the standby must go on."""
    del chance
    node = world.active()
    if node is not None:
        world.trace(f"GUEST DIES {node.name}")
        node.survivor = world.store.record.standby
        node.guest.die("the guest was killed")  # its host notices at its next step, which may well be a cut


def _can_guest_die(world: "World") -> bool:
    node = world.active()
    if node is None or node.driver.is_leaving or not world.is_survived_by_other(node.address):
        return False
    active = node.view.active
    return active is not None and active.link in NAMED


def ambush(world: "World", chance: random.Random) -> None:
    """Strike in the few milliseconds after a change of the record, when the two sides know different things."""
    addresses = [address for address, node in world.nodes.items() if node.is_up]
    address = chance.choice(addresses or ["a"])
    kind, length_ns = chance.choice(["crash", "pause", "cut"]), chance.choice([30, 250, 900]) * _MS

    def strike() -> None:
        if world.is_calm:
            return
        world.trace(f"AMBUSH {kind} {address}")
        if kind == "cut":
            other = "b" if address == "a" else "a"
            world.links.cut.add((address, other))
            world.timeline.after(length_ns, world.links.cut.clear)
        elif kind == "pause":
            world.nodes[address].pause(length_ns)
        elif world.is_survived_by_other(address):
            world.crash(address)
            world.timeline.after(length_ns, lambda: world.reboot(address))

    world.timeline.after(int(chance.random() ** 2 * _AMBUSH_NS_MAX), strike)


FAULTS: Final[tuple[Happening, ...]] = (
    Happening(kind="crash", gap_ms=(100, 1200), act=_crash, is_possible=_can_crash),
    Happening(kind="pause", gap_ms=(100, 1500), act=_pause),
    Happening(kind="pulse", gap_ms=(300, 3000), act=_pulse),
    Happening(kind="hang", gap_ms=(200, 3000), act=_hang),
    Happening(kind="cut", gap_ms=(100, 1500), act=_cut),
    Happening(kind="reset", gap_ms=(50, 600), act=_reset),
    Happening(kind="outage", gap_ms=(200, 1500), act=_outage),
    Happening(kind="slow_disk", gap_ms=(200, 1500), act=_slow_disk),
    Happening(kind="guest_death", gap_ms=(400, 3000), act=_guest_death, is_possible=_can_guest_die),
)
