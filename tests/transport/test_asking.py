"""What the transport learns of a peer whose connection has ended: refused, answered, unclear, or nothing at all."""

import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.interfaces import Lane, Sign
from ftvm.transport.asking import Asker
from ftvm.transport.keys import generate_keys
from ftvm.transport.zeromq import ZeroMqTransport

HERE = "127.0.0.1"
WAIT_SECONDS = 20.0
RESET = struct.pack("ii", 1, 0)


class Server:
    """A listening socket, to which an asker has connected on both lanes before."""

    def __init__(self) -> None:
        self.listener = socket.create_server((HERE, 0))
        self.endpoint = f"tcp://{HERE}:{self.listener.getsockname()[1]}"
        self.asker = Asker({self.endpoint: None})
        self.open = [self.listener]
        for lane in Lane:
            near = socket.create_connection(self.listener.getsockname())
            self.open += [near, self.listener.accept()[0]]
            self.asker.opened_by(self.endpoint, lane)(near.fileno())

    def sign(self) -> Sign:
        """Wait for the one sign of this peer."""
        signs = self.asker.take_signs()
        while not signs:
            assert select.select([self.asker], [], [], WAIT_SECONDS)[0], "no sign came"
            signs = self.asker.take_signs()
        ((peer, sign),) = signs
        assert peer == self.endpoint
        return sign

    def close(self) -> None:
        self.asker.close()
        for each in self.open:
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_port_at_which_nobody_listens_refuses(server: Server) -> None:
    server.listener.close()

    is_asked = server.asker.ask(server.endpoint, None)

    assert is_asked
    assert server.sign() is Sign.REFUSED


def test_who_greets_lives(server: Server) -> None:
    server.asker.ask(server.endpoint, None)
    for _ in Lane:
        accepted, _address = server.listener.accept()
        server.open.append(accepted)
    accepted.send(b"\xff")

    assert server.sign() is Sign.ANSWERED


def test_a_connection_that_breaks_before_a_greeting_is_unclear(server: Server) -> None:
    server.asker.ask(server.endpoint, None)
    for _ in Lane:
        accepted, _address = server.listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        accepted.close()

    assert server.sign() is Sign.UNCLEAR


def test_one_lane_refused_is_no_refusal(server: Server) -> None:
    other = socket.create_server((HERE, 0))
    near = socket.create_connection(other.getsockname())
    server.open += [near, other.accept()[0]]
    server.asker.opened_by(server.endpoint, Lane.DATA)(near.fileno())
    other.close()

    server.asker.ask(server.endpoint, None)
    server.listener.accept()[0].close()

    assert server.sign() is Sign.UNCLEAR


def test_who_accepts_and_is_silent_says_nothing(server: Server) -> None:
    server.asker.ask(server.endpoint, None)

    assert select.select([server.asker], [], [], 0.05)[0] == []
    assert server.asker.take_signs() == ()


def test_a_peer_that_was_never_reached_cannot_be_asked_after() -> None:
    asker = Asker({"tcp://127.0.0.1:1": None, "tcp://127.0.0.1:2": None})

    is_asked = [asker.ask(peer, None) for peer in ("tcp://127.0.0.1:1", "-/caller")]

    assert is_asked == [False, False]
    asker.close()


# --- between two transports ------------------------------------------------------------------------------------------


def transports(folder: Path, *, has_keys: bool) -> tuple[ZeroMqTransport, ZeroMqTransport]:
    """Give two that dial each other, at paths in a folder."""
    ours, theirs = generate_keys(2) if has_keys else (None, None)
    one, two = f"ipc://{folder}/one", f"ipc://{folder}/two"
    return ZeroMqTransport(one, [two], ours), ZeroMqTransport(two, [one], theirs)


def drive(*ends: ZeroMqTransport) -> list[tuple[ZeroMqTransport, str, object]]:
    """Let some time pass; return what each end was told: the peer, and a message or a sign."""
    told: list[tuple[ZeroMqTransport, str, object]] = []
    for end in ends:
        end.wait(5_000_000, ())
        polled = end.poll(64)
        told += [(end, delivery.peer, delivery.lane) for delivery in polled.deliveries]
        told += [(end, peer, sign) for peer, sign in polled.signs]
    return told


def connect(one: ZeroMqTransport, two: ZeroMqTransport) -> str:
    """Have both ends reach each other on both lanes; return by which name the second calls the first."""
    told: list[tuple[ZeroMqTransport, str, object]] = []
    for _ in range(2000):
        for end in (one, two):
            for lane in Lane:
                end.send(end.dialled[0], lane, [b"hello"])
        told += drive(one, two)
        if {(end, what) for end, _peer, what in told} >= {(end, lane) for end in (one, two) for lane in Lane}:
            return next(peer for end, peer, _what in told if end is two)
    pytest.fail("they did not connect")


@pytest.mark.parametrize("has_keys", [True, False], ids=["curve", "plain"])
def test_a_peer_that_ends_is_refused_by_either_of_its_names(has_keys: bool, tmp_path: Path) -> None:
    one, two = transports(tmp_path, has_keys=has_keys)
    name = connect(one, two)
    one.close()

    told: set[tuple[str, object]] = set()
    for peer in (one.endpoint, name):
        for _ in range(2000):
            told |= {(who, what) for _end, who, what in drive(two) if isinstance(what, Sign)}
            if (peer, Sign.RESET) in told:
                break
        assert two.ask(str(peer))
        for _ in range(2000):
            told |= {(who, what) for _end, who, what in drive(two) if isinstance(what, Sign)}
            if (peer, Sign.REFUSED) in told:
                break

    two.close()
    assert told == {(who, sign) for who in (one.endpoint, name) for sign in (Sign.RESET, Sign.REFUSED)}


def test_a_peer_that_ends_is_refused_over_tcp() -> None:
    listener = ZeroMqTransport(f"tcp://{HERE}:0", [], None)
    dialler = ZeroMqTransport(None, [str(listener.endpoint)], None)
    sent: set[Lane] = set()
    while sent != set(Lane):
        sent |= {lane for lane in Lane if dialler.send(dialler.dialled[0], lane, [b"hello"])}
        drive(dialler, listener)
    listener.close()

    signs: list[object] = []
    for _ in range(2000):
        signs += [what for _end, _peer, what in drive(dialler)]
        if signs == [Sign.RESET, Sign.RESET]:
            dialler.ask(dialler.dialled[0])
        if Sign.REFUSED in signs:
            break

    dialler.close()
    assert signs == [Sign.RESET, Sign.RESET, Sign.REFUSED]


def test_a_live_transport_answers_though_nobody_drives_it(tmp_path: Path) -> None:
    one, two = transports(tmp_path, has_keys=True)
    name = connect(one, two)

    signs: set[object] = set()
    assert two.ask(name)
    for _ in range(2000):
        signs |= {what for _end, _peer, what in drive(two) if isinstance(what, Sign)}
        if signs:
            break

    one.close()
    two.close()
    assert signs == {Sign.ANSWERED}
