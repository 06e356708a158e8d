"""A link between two hosts, as slow, narrow or broken as you like: a TCP relay with a delay.

What comes to the listening port goes to the target, and back, unchanged and in order, after a one-way delay and at no
more than a rate that all connections share, each direction for itself. A cut link is silent, both ways or one: nothing
is taken, what is on its way is dropped, nobody is told. Since a TCP stream that lost bytes must not go on, the
connections of before end when the link heals. Run as a process::

    python -m ftvm.lab.relay --listen 7001 --target 7000 --delay-ms 4 --rate 12500000

it prints ``{"relay": "ready"}`` and obeys JSON lines on its standard input: ``{"cut": true}`` (or ``"there"``, from
listener to target, or ``"back"``), ``{"cut": false}``, ``{"delay_ms": 40}``, ``{"reset": true}``, which
resets every connection of a healthy link as a firewall does. It ends on SIGTERM, SIGINT or the end of
that input. A link that both ends may dial has a second door, ``--back-listen`` and ``--back-target``: what comes in
there goes the other way.

`DelayLine` and `Flow` are pure: time is an argument. A flow takes no more than `ROOM_BYTES`, and a line
with a rate no more than it can send within `QUEUE_NS`, as a switch's port does; the rest waits in the senders' kernels.
"""

import argparse
import selectors
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ftvm.errors import ConfigError, FtvmError, TransportError
from ftvm.lab.lines import JsonLine, Orders, say
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import Nanos, nanos_to_seconds, seconds_to_nanos

__all__ = ["DelayLine", "Flow", "Relay", "main"]

_now: Final = MonotonicClock().now

LOOPBACK: Final = "127.0.0.1"
CONNECTIONS_MAX: Final = 64
ROOM_BYTES: Final = 8 << 20
"""On its way in one direction of one connection: 200 MB/s at a delay of 40 ms."""
QUEUE_NS: Final = 5_000_000
"""What may wait for a line with a rate: more would make heartbeats look like silence, as it does on real links."""
READ_BYTES: Final = 1 << 16
PACKET_BYTES: Final = 1_448
"""Of a TCP stream in an Ethernet frame."""
PIECE_NS: Final = 250_000
"""A line with a rate passes on what it sends in so long, and a packet at least: what came with it does not wait for it
all."""
WAIT_NS_MAX: Final = 100_000_000
NANOS: Final = 1_000_000_000
LOOK_NS: Final = 5_000_000
"""How often a target at which nobody listens is looked at again."""
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: `close` sends a reset."""


@dataclass(slots=True)
class DelayLine:
    """One direction of the link, shared by all connections. `rate` is in bytes per second; None: no bound."""

    delay_ns: int
    rate: int | None
    free_at: int | None = None
    is_cut: bool = False

    def __post_init__(self) -> None:
        if self.delay_ns < 0:
            raise ConfigError("a delay cannot be less than 0")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError("a rate must be more than 0 bytes per second")

    def read_limit(self) -> int:
        """Return how much to take at a time, so that one connection does not hold the line for long."""
        return READ_BYTES if self.rate is None else min(READ_BYTES, max(PACKET_BYTES, self.rate * PIECE_NS // NANOS))

    def open_at(self, now: Nanos) -> Nanos:
        """Return from when on the line takes more."""
        return now if self.free_at is None else Nanos(max(now, self.free_at - QUEUE_NS))

    def arrival(self, byte_count: int, now: Nanos) -> Nanos:
        """Put so many bytes on the line now; return when the last of them arrives."""
        if self.rate is None:
            return Nanos(now + self.delay_ns)
        starts_at = now if self.free_at is None else max(now, self.free_at)
        self.free_at = starts_at + byte_count * NANOS // self.rate
        return Nanos(self.free_at + self.delay_ns)


@dataclass(slots=True, eq=False)
class Flow:
    """One direction of one connection: what is on its way, and whether its sender has finished."""

    line: DelayLine
    is_finished: bool = False
    on_its_way: int = 0
    _pieces: deque[tuple[Nanos, memoryview]] = field(default_factory=deque)

    @property
    def is_over(self) -> bool:
        """Whether the sender has finished and all has arrived."""
        return self.is_finished and not self._pieces

    @property
    def arrives_at(self) -> Nanos | None:
        """When the next piece arrives; None if nothing is on its way."""
        return self._pieces[0][0] if self._pieces else None

    def takes(self, now: Nanos) -> bool:
        """Tell whether more may be put on its way now."""
        has_room = self.on_its_way + READ_BYTES <= ROOM_BYTES
        is_open = not self.line.is_cut and self.line.open_at(now) <= now
        return has_room and not self.is_finished and is_open

    def put(self, data: bytes, now: Nanos) -> None:
        """Put bytes on their way."""
        self._pieces.append((self.line.arrival(len(data), now), memoryview(data)))
        self.on_its_way += len(data)

    def next_piece(self, now: Nanos) -> memoryview | None:
        """Return the next bytes that have arrived, to be `taken`; None if none have."""
        return self._pieces[0][1] if self._pieces and self._pieces[0][0] <= now else None

    def taken(self, byte_count: int) -> None:
        """Note that the receiver took so many bytes of the next piece."""
        arrived_at, piece = self._pieces.popleft()
        if byte_count < len(piece):
            self._pieces.appendleft((arrived_at, piece[byte_count:]))
        self.on_its_way -= byte_count

    def drop(self) -> int:
        """Lose all that is on its way; return how many bytes that was."""
        lost, self.on_its_way = self.on_its_way, 0
        self._pieces.clear()
        return lost


@dataclass(slots=True, kw_only=True)
class _Door:
    """Where connections come in, and where each is led on to.

    look_at  while nobody listens at the target: when to look again; whoever dials is refused meanwhile
    """

    listener: socket.socket
    target: int
    there: DelayLine
    back: DelayLine
    look_at: Nanos | None = None


@dataclass(slots=True, eq=False)
class _Leg:
    """A socket, what it sends to and what comes to it."""

    socket: socket.socket
    outgoing: Flow
    incoming: Flow
    other: "_Leg | None" = None
    is_blocked: bool = False
    """Its kernel takes no more for the moment."""


class Relay:
    """Connects each connection that comes to the target. Thread-free: `step` does what is due and returns."""

    def __init__(
        self,
        listen: int,
        target: int,
        *,
        delay_ns: int = 0,
        rate: int | None = None,
        back: tuple[int, int] | None = None,
    ) -> None:
        """Listen on a port of the loopback device; `back` is another port and target, for those who dial from there.

        Raises ConfigError or TransportError.
        """
        there, homeward = DelayLine(delay_ns, rate), DelayLine(delay_ns, rate)
        self._lines = (there, homeward)
        self._doors: list[_Door] = []
        self._legs: list[_Leg] = []
        self.bytes_lost = 0
        try:
            self._open(listen, target, there, homeward)
            if back is not None:
                self._open(*back, homeward, there)
        except TransportError:
            self.close()
            raise

    def _open(self, listen: int, target: int, there: DelayLine, back: DelayLine) -> None:
        try:
            listener = socket.create_server((LOOPBACK, listen))
        except OSError as error:
            raise TransportError(f"the relay cannot listen on port {listen}: {error}") from error
        listener.setblocking(False)
        self._doors.append(_Door(listener=listener, target=target, there=there, back=back))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._doors[0].listener.getsockname()[1])

    def cut(self, *, there: bool = True, back: bool = True) -> None:
        """Fall silent, both ways or one: take nothing, and drop what is on its way. Idempotent."""
        for line, is_meant in zip(self._lines, (there, back), strict=True):
            line.is_cut |= is_meant
        for leg in self._legs:
            if leg.outgoing.line.is_cut:
                self.bytes_lost += leg.outgoing.drop()

    def heal(self) -> None:
        """Carry again, for new connections; those of before have lost bytes and end. Idempotent."""
        if any(line.is_cut for line in self._lines):
            for line in self._lines:
                line.is_cut = False
            for leg in list(self._legs):
                self._end(leg)

    def reset(self) -> None:
        """Reset all connections, both ways, as a firewall does; new ones are carried. The link itself is healthy."""
        for leg in self._legs:
            leg.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        for leg in list(self._legs):
            self._end(leg)

    def delay(self, delay_ns: int) -> None:
        """Delay what comes from now on by so much; it still arrives after what came before."""
        for line in self._lines:
            line.delay_ns = delay_ns

    @property
    def _is_silent(self) -> bool:
        return all(line.is_cut for line in self._lines)

    def step(self, now: Nanos) -> None:
        """Carry what is due, a bounded share of each connection."""
        if self._is_silent:
            return
        for door in self._doors:
            self._accept(door, now)
        for leg in list(self._legs):
            if leg in self._legs:  # its other end may have ended it meanwhile
                self._step_leg(leg, now)

    def wait(self, now: Nanos, extra: Sequence[int] = ()) -> None:
        """Block until something is due or can be carried, or one of the descriptors `extra` is readable."""
        timeout_ns = WAIT_NS_MAX
        with selectors.SelectSelector() as selector:  # epoll counts in whole milliseconds
            for fd in extra:
                selector.register(fd, selectors.EVENT_READ)
            if not self._is_silent:
                for door in self._doors:
                    if door.look_at is None:
                        selector.register(door.listener, selectors.EVENT_READ)
                    else:
                        timeout_ns = min(timeout_ns, door.look_at - now)
                for leg in self._legs:
                    timeout_ns = min(timeout_ns, self._watch(leg, selector, now))
            selector.select(nanos_to_seconds(Nanos(max(0, timeout_ns))))

    def close(self) -> None:
        """End all connections and stop listening. Idempotent."""
        for leg in list(self._legs):
            self._end(leg)
        for door in self._doors:
            door.listener.close()

    # --- connections ---

    def _accept(self, door: _Door, now: Nanos) -> None:
        if door.look_at is not None and not self._reopen(door, now):
            return
        while len(self._legs) < 2 * CONNECTIONS_MAX:
            try:
                near, _ = door.listener.accept()
            except BlockingIOError:
                return
            try:
                far = socket.create_connection((LOOPBACK, door.target), timeout=1)
            except OSError:
                near.close()
                self._shut(door, now)
                return
            self._join(near, far, Flow(door.there), Flow(door.back))

    def _shut(self, door: _Door, now: Nanos) -> None:
        """Refuse connections, as the target does without a relay. The port stays ours."""
        door.listener.shutdown(socket.SHUT_RDWR)
        door.look_at = Nanos(now + LOOK_NS)

    def _reopen(self, door: _Door, now: Nanos) -> bool:
        """Accept connections again if somebody listens at the target by now."""
        if door.look_at is not None and now < door.look_at:
            return False
        door.look_at = Nanos(now + LOOK_NS)
        try:
            socket.create_connection((LOOPBACK, door.target), timeout=1).close()
        except OSError:
            return False
        door.listener.listen()
        door.look_at = None
        return True

    def _join(self, near: socket.socket, far: socket.socket, there: Flow, back: Flow) -> None:
        legs = (_Leg(near, there, back), _Leg(far, back, there))
        for leg, other in (legs, legs[::-1]):
            leg.other = other
            leg.socket.setblocking(False)
            leg.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._legs += legs

    def _step_leg(self, leg: _Leg, now: Nanos) -> None:
        try:
            self._read(leg, now)
            self._write(leg, now)
        except OSError:  # a reset: TCP's own way to say that a connection is over
            self._end(leg)
            return
        if leg.outgoing.is_over and leg.incoming.is_over:
            self._end(leg)

    def _read(self, leg: _Leg, now: Nanos) -> None:
        if not leg.outgoing.takes(now):
            return
        try:
            data = leg.socket.recv(leg.outgoing.line.read_limit())
        except BlockingIOError:
            return
        if data:
            leg.outgoing.put(data, now)
        else:
            leg.outgoing.is_finished = True

    def _write(self, leg: _Leg, now: Nanos) -> None:
        leg.is_blocked = False
        while (piece := leg.incoming.next_piece(now)) is not None:
            try:
                leg.incoming.taken(leg.socket.send(piece))
            except BlockingIOError:
                leg.is_blocked = True
                return
        if leg.incoming.is_over:
            with suppress(OSError):  # it may be gone already
                leg.socket.shutdown(socket.SHUT_WR)

    def _watch(self, leg: _Leg, selector: selectors.BaseSelector, now: Nanos) -> int:
        """Register what a leg waits for; return in how many nanoseconds it has something to do anyway."""
        events = selectors.EVENT_WRITE if leg.is_blocked else 0
        due = WAIT_NS_MAX
        if leg.outgoing.takes(now):
            events |= selectors.EVENT_READ
        elif not leg.outgoing.is_finished and not leg.outgoing.line.is_cut and leg.outgoing.line.open_at(now) > now:
            due = leg.outgoing.line.open_at(now) - now
        if events:
            selector.register(leg.socket, events)
        if leg.incoming.arrives_at is not None and not leg.is_blocked:
            due = min(due, leg.incoming.arrives_at - now)
        return due

    def _end(self, leg: _Leg) -> None:
        for one in (leg, leg.other):
            if one is not None and one in self._legs:
                self._legs.remove(one)
                one.socket.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a relay until a signal, or the end of standard input, ends it."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.lab.relay", description="A slow, narrow, breakable TCP link.")
    parser.add_argument("--listen", type=int, required=True, metavar="PORT")
    parser.add_argument("--target", type=int, required=True, metavar="PORT")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one way")
    parser.add_argument("--rate", type=int, metavar="BYTES", help="per second, each direction; default: no bound")
    parser.add_argument("--back-listen", type=int, metavar="PORT", help="for those who dial from the target's side")
    parser.add_argument("--back-target", type=int, metavar="PORT", help="where those are led on to")
    options = parser.parse_args(arguments)
    back = None if options.back_listen is None else (options.back_listen, options.back_target)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: stopping.append(signum))
    try:
        delay_ns = seconds_to_nanos(options.delay_ms / 1000)
        relay = Relay(options.listen, options.target, delay_ns=delay_ns, rate=options.rate, back=back)
    except FtvmError as error:
        print(f"relay: {error}", file=sys.stderr)
        return 2
    say({"relay": "ready"})
    orders = Orders(sys.stdin.fileno())
    while not stopping and not orders.is_over:
        relay.wait(_now(), (orders.fd,))
        for order in orders.take():
            _obey(relay, order)
        relay.step(_now())
    relay.close()
    return 0


def _obey(relay: Relay, order: JsonLine) -> None:
    match order:
        case {"cut": False}:
            relay.heal()
        case {"cut": way}:
            relay.cut(there=way != "back", back=way != "there")
        case {"reset": True}:
            relay.reset()
        case {"delay_ms": delay_ms}:
            relay.delay(seconds_to_nanos(delay_ms / 1000))


if __name__ == "__main__":
    sys.exit(main())
