"""The relay: bytes unchanged and in order, after the delay, within the rate, and none across a cut.

No test measures time: `now` is an argument, and a test says what it is.
"""

import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError, TransportError
from ftvm.lab.relay import PACKET_BYTES, QUEUE_NS, READ_BYTES, ROOM_BYTES, DelayLine, Flow, Relay
from ftvm.lab.stage import free_ports
from ftvm.units import Nanos

MS = 1_000_000
START = Nanos(-77 * MS)
LIMIT_SECONDS = 60.0
"""How long a test waits for the kernel's loopback before it gives up."""


def at(milliseconds: float) -> Nanos:
    return Nanos(START + int(milliseconds * MS))


def arrived(way: Flow, now: Nanos, byte_count: int = 1 << 30) -> bytes:
    """Take what has arrived, so many bytes at a time."""
    found = b""
    while (piece := way.next_piece(now)) is not None:
        found += piece[:byte_count]
        way.taken(min(byte_count, len(piece)))
    return found


# --- a line and its ways -------------------------------------------------------------------------------------------


def test_a_piece_arrives_one_delay_after_it_was_put() -> None:
    way = Flow(DelayLine(4 * MS, None))

    way.put(b"abc", at(0))

    assert arrived(way, Nanos(at(4) - 1)) == b""
    assert arrived(way, at(4)) == b"abc"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=12), st.integers(1, 7))
def test_bytes_arrive_unchanged_and_in_order_however_they_are_taken(pieces: list[bytes], taken: int) -> None:
    way = Flow(DelayLine(4 * MS, 1_000_000))
    for number, piece in enumerate(pieces):
        way.put(piece, at(number))

    assert arrived(way, at(1_000), taken) == b"".join(pieces)
    assert way.on_its_way == 0


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(1, READ_BYTES), st.integers(0, 50)), min_size=1, max_size=20),
)
def test_no_stretch_of_time_carries_more_than_the_rate(rate: int, puts: list[tuple[int, int]]) -> None:
    line, now = DelayLine(4 * MS, rate), 0
    arrivals = []
    for byte_count, after_ms in puts:
        now += after_ms
        arrivals.append((byte_count, line.arrival(byte_count, at(now))))

    for first in range(len(arrivals)):
        for last in range(first + 1, len(arrivals)):
            carried = sum(byte_count for byte_count, _ in arrivals[first + 1 : last + 1])
            took_ns = arrivals[last][1] - arrivals[first][1]
            assert carried * 10**9 // rate <= took_ns + len(arrivals)  # each piece is rounded down to a nanosecond


def test_all_connections_share_the_rate() -> None:
    line = DelayLine(0, 1_000_000)
    one, other = Flow(line), Flow(line)

    one.put(bytes(1_000), at(0))
    other.put(bytes(1_000), at(0))

    assert (one.arrives_at, other.arrives_at) == (at(1), at(2))


@pytest.mark.parametrize(
    ("rate", "piece"), [(100, PACKET_BYTES), (5_000_000, PACKET_BYTES), (125_000_000, 31_250), (None, READ_BYTES)]
)
def test_a_line_with_a_rate_does_not_hold_back_what_has_arrived_for_what_came_with_it(
    rate: int | None, piece: int
) -> None:
    assert DelayLine(4 * MS, rate).read_limit() == piece


def test_a_line_takes_no_more_than_it_can_send_soon() -> None:
    way = Flow(DelayLine(40 * MS, 1_000_000))

    way.put(bytes(8_000), at(0))

    assert not way.takes(at(2))
    assert way.takes(Nanos(at(8) - QUEUE_NS))


def test_a_way_takes_no_more_than_its_room() -> None:
    way = Flow(DelayLine(40 * MS, None))

    while way.takes(at(0)):
        way.put(bytes(READ_BYTES), at(0))

    assert way.on_its_way == ROOM_BYTES
    assert arrived(way, at(40)) == bytes(ROOM_BYTES)
    assert way.takes(at(40))


def test_a_way_is_over_when_its_sender_has_finished_and_all_has_arrived() -> None:
    way = Flow(DelayLine(4 * MS, None))
    way.put(b"last", at(0))
    way.is_finished = True

    was_over = way.is_over
    arrived(way, at(4))

    assert not was_over
    assert way.is_over


@pytest.mark.parametrize(("delay_ns", "rate"), [(-1, None), (0, 0), (0, -5)])
def test_an_impossible_line_is_refused(delay_ns: int, rate: int | None) -> None:
    with pytest.raises(ConfigError, match=r"less than 0|more than 0"):
        DelayLine(delay_ns, rate)


# --- real connections ----------------------------------------------------------------------------------------------


class Lab:
    """A target that listens, a relay before it, and connections through it."""

    def __init__(self, delay_ms: int = 0) -> None:
        self.target = socket.create_server(("127.0.0.1", 0))
        self.relay = Relay(0, self.target.getsockname()[1], delay_ns=delay_ms * MS)
        self.sockets = [self.target]

    def connect(self, now: Nanos) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection through the relay."""
        near = socket.create_connection(("127.0.0.1", self.relay.port), timeout=LIMIT_SECONDS)
        self.relay.wait(now)
        self.relay.step(now)
        self.target.settimeout(LIMIT_SECONDS)
        far, _ = self.target.accept()
        far.settimeout(LIMIT_SECONDS)
        self.sockets += [near, far]
        return near, far

    def send(self, sender: socket.socket, data: bytes, now: Nanos) -> None:
        """Send, and have the relay take all of it."""
        before = sum(leg.outgoing.on_its_way for leg in self.relay._legs)
        sender.sendall(data)
        for _ in range(1_000):
            self.relay.step(now)
            if sum(leg.outgoing.on_its_way for leg in self.relay._legs) == before + len(data):
                return
            self.relay.wait(now)
        raise AssertionError("the relay did not take it")

    def close(self) -> None:
        self.relay.close()
        for one in self.sockets:
            one.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab(delay_ms=4)
    yield lab
    lab.close()


def is_readable(one: socket.socket) -> bool:
    return bool(select.select([one], [], [], 0)[0])


def test_both_directions_are_carried_after_the_delay(lab: Lab) -> None:
    near, far = lab.connect(at(0))
    lab.send(near, b"ping", at(0))
    lab.send(far, b"pong", at(1))

    lab.relay.step(Nanos(at(4) - 1))
    is_early = is_readable(far) or is_readable(near)
    lab.relay.step(at(5))

    assert not is_early
    assert (far.recv(9), near.recv(9)) == (b"ping", b"pong")


def test_the_end_of_a_stream_comes_after_its_last_byte(lab: Lab) -> None:
    near, far = lab.connect(at(0))
    lab.send(near, b"bye", at(0))
    near.shutdown(socket.SHUT_WR)

    for now in range(1, 100):
        lab.relay.wait(at(now))
        lab.relay.step(at(now))
        if is_readable(far):
            break

    assert far.recv(9) == b"bye"
    lab.relay.step(at(200))
    assert far.recv(9) == b""


def test_a_cut_drops_what_is_on_its_way_and_says_nothing(lab: Lab) -> None:
    near, far = lab.connect(at(0))
    lab.send(near, b"lost", at(0))

    lab.relay.cut()
    lab.relay.step(at(1_000))

    assert lab.relay.bytes_lost == 4
    assert not is_readable(far)
    assert not is_readable(near)


def test_a_link_cut_one_way_carries_the_other(lab: Lab) -> None:
    near, far = lab.connect(at(0))

    lab.relay.cut(back=False)
    near.sendall(b"lost")
    lab.send(far, b"found", at(0))
    lab.relay.step(at(4))

    assert near.recv(9) == b"found"
    assert not is_readable(far)


def test_a_burst_of_delay_holds_up_what_comes_after_it_ended(lab: Lab) -> None:
    near, far = lab.connect(at(0))
    lab.relay.delay(300 * MS)
    lab.send(near, b"slow ", at(0))
    lab.relay.delay(4 * MS)
    lab.send(near, b"quick", at(1))

    lab.relay.step(at(299))
    was_early = is_readable(far)
    lab.relay.step(at(300))

    assert not was_early
    assert far.recv(10) == b"slow quick"


def test_what_comes_in_by_the_back_door_goes_the_other_way() -> None:
    (back_port,) = free_ports(socket.SOCK_STREAM, 1)
    with socket.create_server(("127.0.0.1", 0)) as home:
        relay = Relay(0, 1, back=(back_port, home.getsockname()[1]))
        near = socket.create_connection(("127.0.0.1", back_port), timeout=LIMIT_SECONDS)
        relay.wait(at(0))
        relay.step(at(0))
        far, _ = home.accept()

        relay.cut(there=False)
        near.sendall(b"lost")
        far.sendall(b"found")
        for _ in range(2):  # taken in one step, handed on in the next
            relay.wait(at(0))
            relay.step(at(0))

        assert near.recv(9) == b"found"
        assert not is_readable(far)
        relay.close()
        near.close()
        far.close()


def test_a_healed_link_ends_what_lost_bytes_and_carries_what_is_new(lab: Lab) -> None:
    near, far = lab.connect(at(0))
    lab.send(near, b"lost", at(0))
    lab.relay.cut()

    lab.relay.heal()
    again, far_again = lab.connect(at(10))
    lab.send(again, b"found", at(10))
    lab.relay.step(at(14))

    assert near.recv(9) == b""
    assert far.recv(9) == b""
    assert far_again.recv(9) == b"found"
    assert len(lab.relay._legs) == 2


def test_a_link_without_a_cut_heals_without_harm(lab: Lab) -> None:
    lab.connect(at(0))

    lab.relay.heal()

    assert len(lab.relay._legs) == 2


def test_a_connection_to_nobody_ends() -> None:
    relay = Relay(0, *free_ports(socket.SOCK_STREAM, 1))
    near = socket.create_connection(("127.0.0.1", relay.port), timeout=LIMIT_SECONDS)

    relay.wait(at(0))
    relay.step(at(0))

    assert near.recv(9) == b""
    near.close()
    relay.close()


def test_who_dials_is_refused_while_nobody_listens_at_the_target_and_let_in_again_when_somebody_does(lab: Lab) -> None:
    target, relay = lab.target.getsockname(), lab.relay
    lab.target.close()
    first = socket.create_connection(("127.0.0.1", relay.port), timeout=LIMIT_SECONDS)
    lab.sockets.append(first)
    relay.wait(at(0))
    relay.step(at(0))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port))
    lab.target = socket.create_server(target)
    lab.sockets.append(lab.target)
    relay.step(at(4))
    with pytest.raises(ConnectionRefusedError):  # it has not looked again yet
        socket.create_connection(("127.0.0.1", relay.port))
    relay.step(at(5))
    lab.target.accept()[0].close()  # its look

    lab.connect(at(5))

    assert len(relay._legs) == 2


def test_a_reset_ends_both_ends_at_once_and_new_connections_are_carried(lab: Lab) -> None:
    near, far = lab.connect(at(0))

    lab.relay.reset()

    for end in (near, far):
        with pytest.raises(ConnectionResetError):
            end.recv(9)
    near, far = lab.connect(at(0))
    lab.send(near, b"again", at(0))
    lab.relay.step(at(4))
    assert far.recv(9) == b"again"


def test_a_port_in_use_is_a_named_error(lab: Lab) -> None:
    with pytest.raises(TransportError, match=f"cannot listen on port {lab.relay.port}"):
        Relay(lab.relay.port, 1)


@pytest.mark.parametrize("how", ["SIGTERM", "end of input"])
def test_the_process_ends_when_told_to(how: str) -> None:
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    with socket.create_server(("127.0.0.1", 0)) as target:
        far = target.getsockname()[1]
        command = [sys.executable, "-m", "ftvm.lab.relay", "--listen", str(port), "--target", str(far)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            ready = process.stdout.readline()
            process.stdin.write(b'{"cut": "back"}\n{"cut": true}\n{"cut": false}\n{"delay_ms": 2}\n')
            process.stdin.flush()

            if how == "SIGTERM":
                process.send_signal(signal.SIGTERM)
            else:
                process.stdin.close()

            assert ready == b'{"relay": "ready"}\n'
            assert process.wait(timeout=LIMIT_SECONDS) == 0
