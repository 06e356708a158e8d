"""The TCP connections under our ZeroMQ sockets: drops a peer whose unfinished message fills our memory.

libzmq bounds the bytes of a frame and the number of whole messages in a queue, but not the frames of a message that is
still coming in; whoever holds an allowed key could fill the memory with one message that never ends. Sending one frame
per message ourselves would not help: the peer decides how many it sends. So each connection is measured from outside,
by what the kernel says it has received less what was delivered of it, and when the sum passes a bound the largest is
shut down. libzmq then frees what it held of it.

Nor does libzmq limit the connections that it accepts: anybody who reaches the port, without a key, could use up our
descriptors within the second that a handshake may take. So connections in their handshake are counted. Beyond a limit,
the oldest one of the address that has the most is shut down: strangers crowd out each other, not a peer of ours. When a
handshake is over no event says; but by then we have sent our READY, and the kernel knows how much was taken.

Promises: at most KNOCKING_MAX connections are in their handshake, and those that came in between two calls of `look`.
What libzmq holds of incoming messages stays below `unread_bytes_max` plus what comes in between two measures: each look
round of the host's loop, and each eighth call of `look`. To measure at each would cost a busy host a seventh of its
time.
Knows nothing of unix sockets, where only this machine's users can do harm, and of keys and peers.

Source: tcp(7), TCP_INFO; zmq_socket_monitor(3); zmq_msg_get(3), ZMQ_SRCFD; ZeroMQ RFC 23 and 26 for the sizes of what
is said in a handshake.
"""

import contextlib
import heapq
import itertools
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from ftvm.transport.line import Line

__all__ = ["KNOCKING_MAX", "Connections"]

KNOCKING_MAX: Final = 64
"""Of ours there are a few, for some milliseconds each time."""

_ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)
_OPENED: Final = _ACCEPTED | int(zmq.EVENT_CONNECTED)
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
_BYTES_ACKED_RECEIVED: Final = struct.Struct("=120xQQ")
"""Where struct tcp_info has tcpi_bytes_acked and tcpi_bytes_received (Linux 4.1 and later)."""
_ADMITTED_BYTES: Final = {True: 64 + 170 + 40, False: 64 + 16}
"""Who took more than so many bytes from us, with keys or without, was sent READY: our greeting has 64, WELCOME 170 (not
said without keys), ERROR 12."""
_FRAME_OVERHEAD_BYTES: Final = 128
"""More than ZMTP and CURVE add to a frame: what was delivered must never be counted too low, or it adds up."""
_LOOKS_PER_CALL: Final = 64
"""So many connections are measured in one call, in turn: a flood of idle ones may not cost the loop its time."""
_LOOKS_PER_MEASURE: Final = 8
_EVENTS_PER_CALL: Final = 4096
"""More than a monitor's queue holds. It must not be left full: libzmq's thread would wait for us to read it."""
_REASONS_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class _Monitor:
    """What libzmq tells of one watched socket, and who wants to know: `failed` is told the event of each handshake
    that failed, `opened` and `closed` the descriptor of each connection."""

    line: Line
    watched: "zmq.Socket[bytes]"
    failed: Callable[[int], None]
    opened: Callable[[int], None]
    closed: Callable[[int], None]


@dataclass(slots=True)
class _Connection:
    """One TCP connection: what the kernel had received of it at the last look, what we took out since it began."""

    fd: int
    peer: str
    received: int = 0
    delivered: int = 0
    taken: int = 0

    @property
    def host(self) -> str:
        return self.peer.rpartition(":")[0]

    @property
    def unread(self) -> int:
        return self.received - self.delivered

    def look(self) -> None:
        """Ask the kernel. The descriptor is libzmq's, which may just have closed it: then its event is on the way."""
        with contextlib.suppress(OSError):
            self.taken, self.received = _bytes_acked_and_received(self.fd)
        self.delivered = min(self.delivered, self.received)

    def hang_up(self) -> None:
        """Shut the connection down, if the descriptor still is what it was; libzmq sees its end and closes it."""
        with contextlib.suppress(OSError):
            if _peer_of(self.fd) == self.peer:
                with _borrowed(self.fd) as tcp:
                    tcp.shutdown(socket.SHUT_RDWR)


class Connections:
    """All TCP connections of one transport. Use it in the transport's thread."""

    def __init__(self, unread_bytes_max: int, *, has_keys: bool) -> None:
        self.hung_up = 0
        self._admitted_bytes = _ADMITTED_BYTES[has_keys]
        self._knocking: dict[int, _Connection] = {}
        self._unread_bytes_max = unread_bytes_max
        self._open: dict[int, _Connection] = {}
        self._monitors: list[_Monitor] = []
        self._reasons: deque[str] = deque(maxlen=_REASONS_KEPT)
        self._turn = 0
        self._unmeasured = 0

    def watch(
        self,
        watched: "zmq.Socket[bytes]",
        failed: Callable[[int], None] = lambda _: None,
        *,
        opened: Callable[[int], None] = lambda _: None,
        closed: Callable[[int], None] = lambda _: None,
    ) -> Line:
        """Watch a socket, before it is bound or connected; returns the line whose signals call for a `look`.

        failed          is told the event of each handshake that failed
        opened, closed  are told the descriptor of each connection as it begins and ends
        """
        line = Line(watched.get_monitor_socket(_OPENED | _CLOSED | _FAILED))
        self._monitors.append(_Monitor(line, watched, failed, opened, closed))
        return line

    def deliver(self, fd: int, frames: Sequence[zmq.Frame]) -> None:
        """Note that a message was taken out of what came over the connection `fd`."""
        connection = self._open.get(fd)
        if connection is not None:
            connection.delivered += sum(len(frame) + _FRAME_OVERHEAD_BYTES for frame in frames)

    def look(self) -> None:
        """Learn who came and went, if anybody did; measure if that is due."""
        for monitor in self._monitors:
            if monitor.line.may_have:
                self._take_events(monitor)
        self._unmeasured += 1
        if self._unmeasured >= _LOOKS_PER_MEASURE:
            self.measure()

    def measure(self) -> None:
        """Ask the kernel what it has received, and drop the largest connection if all together hold too much."""
        self._unmeasured = 0
        for connection in self._next_in_turn():
            connection.look()
        unread = sum(connection.unread for connection in self._open.values())
        if unread > self._unread_bytes_max:
            self._hang_up(max(self._open.values(), key=lambda connection: connection.unread))

    def take_reasons(self) -> tuple[str, ...]:
        """Return whom we dropped, and why, since the last call: the latest few, as text for people."""
        reasons = tuple(self._reasons)
        self._reasons.clear()
        return reasons

    def close(self) -> None:
        """Stop watching; before the watched sockets are closed."""
        for monitor in self._monitors:
            self._take_events(monitor)
            monitor.watched.disable_monitor()
            monitor.line.close()
        self._monitors.clear()
        self._open.clear()
        self._knocking.clear()

    def _take_events(self, monitor: _Monitor) -> None:
        for _ in range(_EVENTS_PER_CALL):
            if not (monitor.line.may_have and monitor.line.has_message()):
                break
            told = parse_monitor_message([frame.bytes for frame in monitor.line.pull()])
            event, fd = int(told["event"]), int(told["value"])
            if event & _OPENED:
                self._note_opened(fd, is_accepted=bool(event & _ACCEPTED))
                monitor.opened(fd)
            elif event & _CLOSED:
                self._forget(fd)
                monitor.closed(fd)
            else:
                monitor.failed(event)
        if len(self._knocking) > KNOCKING_MAX:
            self._thin_out()

    def _note_opened(self, fd: int, *, is_accepted: bool) -> None:
        """Take a connection in, unless it is closed again or is no TCP connection."""
        self._forget(fd)
        with contextlib.suppress(OSError):
            _bytes_acked_and_received(fd)  # refused for anything but TCP
            self._open[fd] = _Connection(fd, _peer_of(fd))
            if is_accepted:
                self._knocking[fd] = self._open[fd]

    def _forget(self, fd: int) -> None:
        self._open.pop(fd, None)
        self._knocking.pop(fd, None)

    def _thin_out(self) -> None:
        """Find out who finished the handshake meanwhile, and drop some of the others if they are too many."""
        for connection in tuple(self._knocking.values()):
            connection.look()
            if connection.taken > self._admitted_bytes:
                del self._knocking[connection.fd]
        excess = len(self._knocking) - KNOCKING_MAX
        hosts = set()
        for connection in _of_the_largest_hosts(tuple(self._knocking.values()), excess):
            hosts.add(connection.host)
            connection.hang_up()
            self._forget(connection.fd)
        self.hung_up += max(excess, 0)
        self._reasons.extend(
            f"dropped connections from {host}: more than {KNOCKING_MAX} at once have not finished their handshake"
            for host in sorted(hosts)[:_REASONS_KEPT]
        )

    def _next_in_turn(self) -> list[_Connection]:
        count = len(self._open)
        if count <= _LOOKS_PER_CALL:
            return list(self._open.values())
        self._turn = (self._turn + _LOOKS_PER_CALL) % count
        return list(itertools.islice(itertools.cycle(self._open.values()), self._turn, self._turn + _LOOKS_PER_CALL))

    def _hang_up(self, connection: _Connection) -> None:
        self.hung_up += 1
        self._reasons.append(
            f"dropped the connection from {connection.peer}: {connection.unread} bytes of it are unfinished or unread; "
            f"all connections together may hold {self._unread_bytes_max}"
        )
        connection.hang_up()
        self._forget(connection.fd)


def _of_the_largest_hosts(connections: Sequence[_Connection], count: int) -> Iterator[_Connection]:
    """Yield `count` connections, oldest first, each of the host that has the most of those that are left."""
    by_host: defaultdict[str, deque[_Connection]] = defaultdict(deque)
    for connection in connections:
        by_host[connection.host].append(connection)
    largest = [(-len(of_host), host) for host, of_host in by_host.items()]
    heapq.heapify(largest)
    for _ in range(count):
        negated, host = largest[0]
        yield by_host[host].popleft()
        heapq.heapreplace(largest, (negated + 1, host))


@contextlib.contextmanager
def _borrowed(fd: int, family: int = socket.AF_INET) -> Iterator[socket.socket]:
    """Give a socket object on a descriptor that somebody else owns and closes."""
    borrowed = socket.socket(family, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _bytes_acked_and_received(fd: int) -> tuple[int, int]:
    tcp = socket.socket(_INET, _STREAM, 0, fd)  # as `_borrowed` has it, which would cost twice as much
    try:
        info = tcp.getsockopt(_TCP, _INFO, _BYTES_ACKED_RECEIVED.size)
    finally:
        tcp.detach()
    if len(info) != _BYTES_ACKED_RECEIVED.size:
        return 0, 0
    acked, received = _BYTES_ACKED_RECEIVED.unpack(info)
    return int(acked), int(received)


def _peer_of(fd: int) -> str:
    with _borrowed(fd) as any_family:
        family = any_family.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    with _borrowed(fd, family) as tcp:
        address = tcp.getpeername()
    return f"{address[0]}:{address[1]}"
