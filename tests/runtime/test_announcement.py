"""A guest that moves is announced on its network: a switch sends a client's frames where it last heard the guest.

The guest speaks only when it is asked, and no address is ever forgotten: without the announcement its clients would
ask a dead host for ever.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from ftvm.config import Timing
from ftvm.guests.datagram import CableWorld, DatagramCounters, mac_bytes
from ftvm.lab.switch import AddressTable
from ftvm.protocol.view import Role
from ftvm.runtime.world import releases_of
from ftvm.sim.guest import SimGuest
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing.pair import MS, Pair, SteppedHost
from ftvm.units import Nanos

GUEST, CLIENT = "52:54:00:00:00:01", bytes.fromhex("525400000002")
FOR_EVER = 1 << 62
PORTS = {"a": 0, "b": 1, "client": 2}
QUESTION = mac_bytes(GUEST) + CLIENT + b"\x88\xb5" + b"question"
ASTRAY = CLIENT + mac_bytes(GUEST) + b"\x88\xb5" + b"a late frame"


class Switch:
    """Learns where each address is; a frame to an address that it knows goes there and nowhere else."""

    def __init__(self, now: Callable[[], Nanos]) -> None:
        self._now = now
        self._table = AddressTable(len(PORTS), ageing_ns=FOR_EVER)
        self.queues: dict[int, deque[bytes]] = {port: deque(maxlen=100) for port in PORTS.values()}

    def send(self, port: int, frame: bytes) -> None:
        self._table.learn(frame[6:12], port, self._now())
        for other in self._table.ports_for(frame[:6], port, self._now()):
            self.queues[other].append(frame)


class Plug:
    """One host's card, plugged into the switch: a datagram.Port."""

    def __init__(self, switch: Switch, port: int) -> None:
        self.counters = DatagramCounters()
        self._switch, self._port = switch, port

    def fileno(self) -> int:
        return -1

    def send(self, frame: bytes) -> bool:
        self._switch.send(self._port, frame)
        return True

    def receive(self, limit: int) -> list[bytes]:
        waiting = self._switch.queues[self._port]
        return [waiting.popleft() for _ in range(min(limit, len(waiting)))]

    def close(self) -> None:
        pass


class Answering(SimGuest):
    """Emits a frame for each that it is given, and nothing unasked."""

    _is_asked = False

    def attach(self, sink: Any) -> None:
        guest = self

        class Card:
            def emit(self, channel: str, payload: bytes, position: Any) -> None:
                if guest._is_asked:
                    sink.emit(channel, CLIENT + mac_bytes(GUEST) + b"\x88\xb5" + payload, position)

            def took_input(self, *taken: Any) -> None:
                sink.took_input(*taken)

        super().attach(Card())  # type: ignore[arg-type]

    def _step(self, taken: bytes, *, is_live: bool) -> None:
        self._is_asked = bool(taken)
        super()._step(taken, is_live=is_live)


class Network:
    """A pair whose two hosts and a client share a switch."""

    def __init__(self, timing: Timing | None = None) -> None:
        def guest(boots: bool) -> SimGuest:
            return Answering(page_count=24, pages_per_step=2, output_every=255, boots=boots)

        self.pair = Pair(guest=guest, timing=timing)
        self.switch = Switch(self.pair.clock.now)
        for name, machine in (("a", self.pair.a), ("b", self.pair.b)):
            world = CableWorld(Plug(self.switch, PORTS[name]), mac=GUEST)
            machine.driver._world, machine.driver._let_out = world, releases_of(world)
        self.pair.protected()

    def asks(self, milliseconds: int = 300) -> bool:
        """Have the client ask once; tell whether it is answered."""
        answers = self.switch.queues[PORTS["client"]]
        answers.clear()
        self.switch.send(PORTS["client"], QUESTION)
        self.pair.run(milliseconds)
        return any(frame[12:14] == b"\x88\xb5" for frame in answers)

    def lead_astray(self, name: str) -> None:
        """Have a frame of the guest that was under way for long come out of a host now."""
        self.switch.send(PORTS[name], ASTRAY)

    def take_over(self) -> None:
        self.pair.kill(self.pair.a)
        self.pair.until(lambda: self.pair.b.role is Role.ACTIVE)

    def rejoin(self) -> SteppedHost:
        """Start the dead host again, as a standby."""
        self.pair.boot("a", "b")
        self.pair.until(lambda: self.pair.record().standby is not None)
        return self.pair.a


def a_takeover(network: Network) -> bool:
    network.take_over()
    return network.asks()


def a_switchover(network: Network) -> bool:
    network.pair.a.driver.begin_switchover(Nanos(1_000 * MS))
    network.pair.until(lambda: network.pair.b.role is Role.ACTIVE)
    return network.asks()


def a_late_frame_of_the_old_host(network: Network) -> bool:
    network.take_over()
    network.pair.run(50)
    network.lead_astray("a")
    network.pair.run(1_000)
    return network.asks()


def a_frame_of_an_old_host_that_wakes_and_joins(network: Network) -> bool:
    network.take_over()
    network.pair.run(2_000)  # the announcements of the takeover are over
    network.lead_astray("a")
    network.rejoin()
    return network.asks()


STORIES = [a_takeover, a_switchover, a_late_frame_of_the_old_host, a_frame_of_an_old_host_that_wakes_and_joins]


@pytest.mark.parametrize("story", STORIES)
def test_a_client_behind_a_switch_reaches_the_guest_where_it_is_now(story: Callable[[Network], bool]) -> None:
    network = Network()
    assert network.asks()

    assert story(network)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_takeover_is_announced_as_often_as_configured_and_in_that_rhythm(count: int) -> None:
    network = Network(Timing(announce_count=count, announce_interval_ns=Nanos(50 * MS)))
    heard = network.switch.queues[PORTS["client"]]
    heard.clear()
    network.take_over()
    seen = []

    for _ in range(count + 2):
        seen.append(sum(frame[12:14] == b"\x80\x35" for frame in heard))
        heard.clear()
        network.pair.run(50)

    assert seen == [1] * count + [0, 0]


MUTANTS = {
    "nothing is announced": (
        a_takeover,
        "ftvm.protocol.active.output:Announcer._announce",
        "self.core.do(Announce())",
        "pass",
    ),
    "a new active does not announce": (
        a_takeover,
        "ftvm.protocol.replica:Replica._activate",
        "state.announcer.begin(now)",
        "state.announcer.tick(now)",
    ),
    "a switchover is not announced": (
        a_switchover,
        "ftvm.protocol.replica:Replica._activate",
        "state.announcer.begin(now)",
        "state.announcer.tick(now)",
    ),
    "the host does not do it": (
        a_takeover,
        "ftvm.runtime.driver:Driver._acts_of",
        "self._world.announce()",
        "None",
    ),
    "the card sends nothing": (
        a_takeover,
        "ftvm.guests.datagram:CableWorld.announce",
        "self._port.send(frame)",
        "pass",
    ),
    "the announcement has another sender": (
        a_takeover,
        "ftvm.guests.datagram:announcement_frames",
        "announcement_frame(mac), neighbour_frame(mac)",
        r'announcement_frame(mac[:5] + b"\xaa"), neighbour_frame(mac[:5] + b"\xaa")',
    ),
    "it is announced once": (
        a_late_frame_of_the_old_host,
        "ftvm.protocol.active.output:Announcer.begin",
        "self.core.settings.timing.announce_count",
        "1",
    ),
    "a host that joins is not": (
        a_frame_of_an_old_host_that_wakes_and_joins,
        "ftvm.protocol.active.joining:_open",
        "active.announcer.begin(now)",
        "pass",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_loses_the_client(name: str) -> None:
    story, where, old, new = MUTANTS[name]

    with broken(Mutant(name=name, breaks=name, edits=(Edit(where, old, new),))):
        network = Network()
        assert network.asks()

        assert not story(network)
