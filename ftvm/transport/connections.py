"""The TCP connections under our ZeroMQ sockets: hangs up on a peer whose unfinished message fills our memory.

libzmq bounds the bytes of a frame and the number of whole messages in a queue, but not the frames of a message that is
still coming in; whoever holds an allowed key could fill the memory with one message that never ends. One frame per
message of our own would not help: the peer decides how many it sends. So each connection is measured from outside, by
what the kernel says it has received less what was delivered of it, and when the sum passes a bound the largest is shut
down. libzmq then frees what it held of it.

Promises: what libzmq holds of incoming messages stays below `unread_bytes_max` plus what comes in between two calls of
`look`, or eight of them while messages are delivered: to measure at each would cost a busy host a seventh of its time.
Knows nothing of unix sockets, where only this machine's users can do harm, and of keys and peers.

Source: tcp(7), TCP_INFO; zmq_socket_monitor(3); zmq_msg_get(3), ZMQ_SRCFD.
"""

import contextlib
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from ftvm.transport.line import Line

__all__ = ["Connections"]

_OPENED: Final = int(zmq.EVENT_ACCEPTED) | int(zmq.EVENT_CONNECTED)
_CLOSED: Final = int(zmq.EVENT_DISCONNECTED)
_FAILED: Final = (
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    | int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
    | int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
)
# Plain ints: this runs for each connection whenever the loop turns.
_INET: Final = int(socket.AF_INET)
_STREAM: Final = int(socket.SOCK_STREAM)
_TCP: Final = int(socket.IPPROTO_TCP)
_INFO: Final = int(socket.TCP_INFO)
_BYTES_RECEIVED: Final = struct.Struct("=128xQ")
"""Where struct tcp_info has tcpi_bytes_received (Linux 4.1 and later)."""
_FRAME_OVERHEAD_BYTES: Final = 128
"""More than ZMTP and CURVE add to a frame: what was delivered must never be counted too low, or it adds up."""
_LOOKS_PER_CALL: Final = 64
"""So many connections are measured in one call, in turn: a flood of idle ones may not cost the loop its time."""
_LOOKS_PER_MEASURE: Final = 8
_EVENTS_PER_CALL: Final = 4096
"""More than a monitor's queue holds. It must not be left full: libzmq's thread would wait for us to read it."""
_REASONS_KEPT: Final = 16


def _ignore(event: int) -> None:
    """Nobody wants to know why a handshake failed: whoever knocks here is answered by the gate."""


@dataclass(slots=True)
class _Connection:
    """One TCP connection: what the kernel had received of it at the last look, what we took out since it began."""

    fd: int
    peer: str
    received: int = 0
    delivered: int = 0

    @property
    def unread(self) -> int:
        return self.received - self.delivered

    def look(self) -> None:
        """Ask the kernel. The descriptor is libzmq's, which may just have closed it: then its event is on the way."""
        with contextlib.suppress(OSError):
            self.received = _bytes_received(self.fd)
        self.delivered = min(self.delivered, self.received)

    def hang_up(self) -> None:
        """Shut the connection down, if the descriptor still is what it was; libzmq sees its end and closes it."""
        with contextlib.suppress(OSError):
            if _peer_of(self.fd) == self.peer:
                with _borrowed(self.fd) as tcp:
                    tcp.shutdown(socket.SHUT_RDWR)


class Connections:
    """All TCP connections of one transport. Use it in the transport's thread."""

    def __init__(self, unread_bytes_max: int) -> None:
        self.hung_up = 0
        self._unread_bytes_max = unread_bytes_max
        self._open: dict[int, _Connection] = {}
        self._monitors: list[tuple[Line, zmq.Socket[bytes], Callable[[int], None]]] = []
        self._reasons: deque[str] = deque(maxlen=_REASONS_KEPT)
        self._turn = 0
        self._unmeasured = 0

    def watch(self, watched: "zmq.Socket[bytes]", on_failure: Callable[[int], None] = _ignore) -> Line:
        """Watch a socket, before it is bound or connected; returns the line whose signals call for a `look`.

        on_failure  is told the event of each handshake that failed
        """
        line = Line(watched.get_monitor_socket(_OPENED | _CLOSED | _FAILED))
        self._monitors.append((line, watched, on_failure))
        return line

    def deliver(self, fd: int, frames: Sequence[zmq.Frame]) -> None:
        """Note that a message was taken out of what came over the connection `fd`."""
        connection = self._open.get(fd)
        if connection is not None:
            connection.delivered += sum(len(frame) + _FRAME_OVERHEAD_BYTES for frame in frames)

    def look(self, *, is_busy: bool) -> None:
        """Learn who came and went, measure, and hang up on the largest if all together hold too much.

        is_busy  messages are being delivered: the next calls come soon, and not each of them needs to measure
        """
        for line, _watched, on_failure in self._monitors:
            self._take_events(line, on_failure)
        self._unmeasured += 1
        if is_busy and self._unmeasured < _LOOKS_PER_MEASURE:
            return
        self._unmeasured = 0
        for connection in self._next_in_turn():
            connection.look()
        unread = sum(connection.unread for connection in self._open.values())
        if unread > self._unread_bytes_max:
            self._hang_up(max(self._open.values(), key=lambda connection: connection.unread))

    def take_reasons(self) -> tuple[str, ...]:
        """Return on whom we hung up, and why, since the last call: the latest few, for a person to read."""
        reasons = tuple(self._reasons)
        self._reasons.clear()
        return reasons

    def close(self) -> None:
        """Stop watching; before the watched sockets are closed."""
        for line, watched, _on_failure in self._monitors:
            self._take_events(line, _ignore)
            watched.disable_monitor()
            line.close()
        self._monitors.clear()
        self._open.clear()

    def _take_events(self, line: Line, on_failure: Callable[[int], None]) -> None:
        for _ in range(_EVENTS_PER_CALL):
            if not line.has_message():
                return
            told = parse_monitor_message([frame.bytes for frame in line.pull()])
            event, fd = int(told["event"]), int(told["value"])
            if event & _OPENED:
                self._note_opened(fd)
            elif event & _CLOSED:
                self._open.pop(fd, None)
            else:
                on_failure(event)

    def _note_opened(self, fd: int) -> None:
        """Take a connection in, unless it is closed again or is no TCP connection."""
        self._open.pop(fd, None)
        with contextlib.suppress(OSError):
            _bytes_received(fd)  # refused for anything but TCP
            self._open[fd] = _Connection(fd, _peer_of(fd))

    def _next_in_turn(self) -> list[_Connection]:
        count = len(self._open)
        if count <= _LOOKS_PER_CALL:
            return list(self._open.values())
        self._turn = (self._turn + _LOOKS_PER_CALL) % count
        return list(itertools.islice(itertools.cycle(self._open.values()), self._turn, self._turn + _LOOKS_PER_CALL))

    def _hang_up(self, connection: _Connection) -> None:
        self.hung_up += 1
        self._reasons.append(
            f"hung up on {connection.peer}: it sent {connection.unread} bytes of messages that it did not finish, or "
            f"that nobody read; all connections together may hold {self._unread_bytes_max}"
        )
        connection.hang_up()
        del self._open[connection.fd]


@contextlib.contextmanager
def _borrowed(fd: int, family: int = socket.AF_INET) -> Iterator[socket.socket]:
    """Give a socket object on a descriptor that somebody else owns and closes."""
    borrowed = socket.socket(family, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _bytes_received(fd: int) -> int:
    tcp = socket.socket(_INET, _STREAM, 0, fd)  # as `_borrowed` has it, which would cost twice as much
    try:
        info = tcp.getsockopt(_TCP, _INFO, _BYTES_RECEIVED.size)
    finally:
        tcp.detach()
    return int(_BYTES_RECEIVED.unpack(info)[0]) if len(info) == _BYTES_RECEIVED.size else 0


def _peer_of(fd: int) -> str:
    with _borrowed(fd) as any_family:
        family = any_family.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    with _borrowed(fd, family) as tcp:
        address = tcp.getpeername()
    return f"{address[0]}:{address[1]}"
