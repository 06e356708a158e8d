import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError, TransportError
from ftvm.guests.datagram import DatagramPort, cable_ends
from ftvm.lab.stage import free_ports
from ftvm.lab.switch import AddressTable, Moved, Switch
from ftvm.units import Nanos

ALICE = bytes.fromhex("020000000001")
BOB = bytes.fromhex("020000000002")
BROADCAST = b"\xff" * 6
NOW = Nanos(10**9)


def frame(destination: bytes, source: bytes, text: bytes = b"") -> bytes:
    return destination + source + b"\x88\xb5" + text


class Lab:
    """A switch with three cards on it."""

    def __init__(self) -> None:
        ports = free_ports(socket.SOCK_DGRAM, 6)
        self.cables = [f"udp:{ports[n]}:{ports[n + 1]}" for n in (0, 2, 4)]
        self.moves: list[Moved] = []
        self.switch = Switch(self.cables, on_moved=self.moves.append)
        ends = [cable_ends(cable) for cable in self.cables]
        self.cards = [DatagramPort(remote, local) for local, remote in ends]

    def exchange(self, card: int, data: bytes) -> list[list[bytes]]:
        """Send from one card and return what each card got."""
        self.cards[card].send(data)
        self.switch.step(NOW)
        return [other.receive(10) for other in self.cards]

    def close(self) -> None:
        self.switch.close()
        for card in self.cards:
            card.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


def test_frame_to_an_unknown_address_goes_to_all_others(lab: Lab) -> None:
    sent = frame(BOB, ALICE)

    assert lab.exchange(0, sent) == [[], [sent], [sent]]


def test_frame_to_a_known_address_goes_there_only(lab: Lab) -> None:
    lab.exchange(1, frame(BROADCAST, BOB))
    sent = frame(BOB, ALICE)

    assert lab.exchange(0, sent) == [[], [sent], []]


def test_broadcast_goes_to_all_others_although_everybody_is_known(lab: Lab) -> None:
    lab.exchange(0, frame(BOB, ALICE))
    lab.exchange(1, frame(ALICE, BOB))
    sent = frame(BROADCAST, ALICE)

    assert lab.exchange(0, sent) == [[], [sent], [sent]]


def test_moved_address_is_learned_from_its_first_frame(lab: Lab) -> None:
    lab.exchange(1, frame(BROADCAST, BOB))

    lab.exchange(2, frame(BROADCAST, BOB))

    sent = frame(BOB, ALICE)
    assert lab.exchange(0, sent) == [[], [], [sent]]
    assert lab.moves == [Moved(mac=BOB, port=2, port_before=1, at=NOW)]


def test_frame_to_an_address_on_the_same_port_is_filtered() -> None:
    table = AddressTable(3)
    table.learn(BOB, 1, NOW)

    assert table.ports_for(BOB, 1, NOW) == ()


def test_group_address_is_never_learned() -> None:
    table = AddressTable(3)

    table.learn(BROADCAST, 1, NOW)

    assert len(table) == 0


def test_address_not_heard_for_the_ageing_time_is_flooded_again() -> None:
    table = AddressTable(3, ageing_ns=100)
    table.learn(BOB, 1, NOW)

    assert table.ports_for(BOB, 0, Nanos(NOW + 100)) == (1,)
    assert table.ports_for(BOB, 0, Nanos(NOW + 101)) == (1, 2)


@given(st.lists(st.tuples(st.binary(min_size=6, max_size=6), st.integers(0, 3)), max_size=60))
def test_table_never_passes_its_bound_and_keeps_the_latest(heard: list[tuple[bytes, int]]) -> None:
    table = AddressTable(4, addresses_max=5)

    for mac, port in heard:
        table.learn(mac, port, NOW)

    assert len(table) <= 5
    last = {mac: port for mac, port in heard if not mac[0] & 1}
    for mac in list(dict.fromkeys(mac for mac, _ in reversed(heard) if not mac[0] & 1))[:5]:
        assert table.ports_for(mac, 4, NOW) == (last[mac],)


def test_switch_of_one_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="two ports"):
        Switch(["udp:7001:7002"], on_moved=lambda _: None)


def test_busy_port_leaves_no_other_port_open(lab: Lab) -> None:
    free = free_ports(socket.SOCK_DGRAM, 2)
    cable = f"udp:{free[0]}:{free[1]}"

    with pytest.raises(TransportError):
        Switch([cable, lab.cables[0]], on_moved=lambda _: None)

    DatagramPort(*cable_ends(cable)).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_forwards_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    ports = free_ports(socket.SOCK_DGRAM, 4)
    cables = [f"udp:{ports[0]}:{ports[1]}", f"udp:{ports[2]}:{ports[3]}"]
    command = [sys.executable, "-P", "-m", "ftvm.lab.switch", "--port", cables[0], "--port", cables[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()

        process.send_signal(number)
        out, err = process.communicate(timeout=30)

    assert ready == '{"switch": "ready", "ports": 2}\n'
    assert (process.returncode, out, err) == (0, "", "")
