"""How often the connections are measured, and how many strangers may knock at once."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ftvm.transport.connections import KNOCKING_MAX, Connections, _Connection, _of_the_largest_hosts
from ftvm.transport.keys import Keys, generate_keys
from ftvm.transport.zeromq import ZeroMqTransport


class Measured:
    """A connection that only counts how often the kernel was asked of it."""

    unread = 0

    def __init__(self) -> None:
        self.times = 0

    def look(self) -> None:
        self.times += 1


def test_every_eighth_turn_measures_and_so_does_every_look_round() -> None:
    connections, connection = Connections(1000, has_keys=True), Measured()
    connections._open[0] = connection  # type: ignore[assignment]

    for _ in range(80):
        connections.look()
    assert connection.times == 10

    connections.measure()
    assert connection.times == 11


class House:
    """A listener, a peer that has dialled it and said nothing yet, and any number of strangers."""

    def __init__(self, stack: ExitStack, keys: tuple[Keys, Keys] | None) -> None:
        own, peers = keys or (None, None)
        self.listener = ZeroMqTransport("tcp://127.0.0.1:0", [], own)
        stack.callback(self.listener.close)
        self.endpoint = str(self.listener.endpoint)
        if own is not None and peers is not None:
            peers = Keys(
                public=peers.public, secret=peers.secret, allowed=peers.allowed, servers={self.endpoint: own.public}
            )
        self.peer = ZeroMqTransport(None, [self.endpoint], peers)
        stack.callback(self.peer.close)
        self._stack = stack
        self.strangers: list[socket.socket] = []

    @property
    def connections(self) -> Connections:
        return self.listener._connections

    def until(self, is_reached: Callable[[], bool]) -> None:
        for _ in range(20_000):
            if is_reached():
                return
            self.listener.wait(1_000_000, ())
            self.listener.poll(64)
            self.peer.poll(64)
        pytest.fail("did not come about")

    def crowd(self) -> None:
        """Have more and more strangers knock, until it is too many."""
        for _ in range(KNOCKING_MAX):
            self.knock(KNOCKING_MAX // 4)
            self.listener.poll(64)
            if self.connections.hung_up > 0:
                return
        pytest.fail("nobody was hung up on")

    def knock(self, times: int, source: str = "127.0.0.1") -> None:
        port = int(self.endpoint.rpartition(":")[2])
        for _ in range(times):
            stranger = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
            self.strangers.append(stranger)
            self._stack.callback(stranger.close)


@pytest.fixture(params=[True, False], ids=["keys", "no keys"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    with ExitStack() as stack:
        own, peers = generate_keys(2)
        yield House(stack, (own, peers) if request.param else None)


def test_strangers_that_do_not_end_their_handshake_are_bounded_in_number(house: House) -> None:
    house.until(lambda: len(house.connections._open) == 2)

    house.crowd()

    assert len(house.connections._knocking) <= KNOCKING_MAX
    told = [reason for reason in house.listener.take_refusals() if "127.0.0.1: more than 64 at once" in reason]
    assert told


def test_a_peer_that_was_let_in_and_says_nothing_is_not_crowded_out_by_strangers(house: House) -> None:
    """Its data lane may be silent for as long as it stands by."""
    house.until(lambda: len(house.connections._open) == 2)
    peers = {connection.peer for connection in house.connections._open.values()}
    house.until(lambda: all(_is_let_in(house.connections, connection) for connection in _of(house, peers)))

    house.crowd()

    assert len(_of(house, peers)) == 2


def _of(house: House, peers: set[str]) -> list[_Connection]:
    return [connection for connection in house.connections._open.values() if connection.peer in peers]


def _is_let_in(connections: Connections, connection: _Connection) -> bool:
    connection.look()
    return connection.taken > connections._admitted_bytes


def test_a_stranger_that_is_greeted_and_says_nothing_more_still_knocks(house: House) -> None:
    house.until(lambda: len(house.connections._open) == 2)
    house.knock(1)
    house.strangers[0].sendall(b"\xff" + bytes(8) + b"\x7f\x03")
    house.until(lambda: len(house.connections._open) == 3)
    stranger = list(house.connections._open.values())[-1]
    greeted = 0
    while greeted < 12:
        house.listener.poll(64)
        greeted += len(house.strangers[0].recv(64))

    assert not _is_let_in(house.connections, stranger)


def test_strangers_of_one_address_crowd_out_each_other_first() -> None:
    few = [_Connection(fd, f"10.0.0.1:{fd}") for fd in range(3)]
    many = [_Connection(fd, f"10.0.0.2:{fd}") for fd in range(10, 15)]

    chosen = list(_of_the_largest_hosts([*few, *many], 4))

    assert [connection.fd for connection in chosen[:2]] == [10, 11]
    assert sorted(connection.fd for connection in chosen[2:]) == [0, 12]
