"""Messages between hosts over ZeroMQ: one ROUTER where a host listens, two DEALERs for each peer that it dials.

Promises: what interfaces.Transport says. A message arrives whole or not at all, in order within one lane of one
connection; a connection that breaks loses what was under way, and libzmq dials again by itself. Nothing here blocks
but `wait`, construction (name resolution) and `close` (at most the linger). Each lane has its own TCP connection, so
that a batch of megabytes on a slow link does not delay a heartbeat.

Who is who: with keys, CURVE admits exactly the allowed keys (curve.py). A dialler gives each of its connections the
routing id ``<nonce>.<lane>``, the nonce being 128 random bits, fresh for each transport and each endpoint dialled.
The peer that dialled is named ``<key>/<nonce>``: the key comes from the handshake and cannot be chosen, so nobody can
speak in the name of another key; the nonce travels encrypted and only to the endpoint it is for, so nobody can take
over another's routing id. A routing id by itself is no identity.

Does not know: what the frames mean, who is alive, sessions. Known limit: libzmq has no bound on the number of frames
of one message that is still coming in; only the holder of an allowed key can abuse that.

Source: ZeroMQ RFC 23, 26, 27, 28; SECURITY.md for each option and its reason.
"""

import errno
import re
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import zmq

from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.errors import ClosedError, ConfigError, LimitExceeded, LocalProtocolError, TransportError
from ftvm.interfaces import Delivery, Lane, Polled
from ftvm.transport.curve import Gate, secure_client, secure_server
from ftvm.transport.endpoints import Endpoint, check_free, parse_endpoint, resolve
from ftvm.transport.keys import Keys
from ftvm.transport.waker import Waker, wait_readable

__all__ = ["FRAMES_MAX", "ZeroMqTransport"]

_LIBZMQ_OLDEST: Final = (4, 3, 3)
"""Older ones can be crashed or filled up by a stranger."""

FRAMES_MAX: Final = 1024
"""Frames of one message. Bulk goes in few large frames; only many small outputs come near this."""
_FRAME_SLACK_BYTES: Final = 64 << 10
_COPY_BELOW_BYTES: Final = 16 << 10
"""Below it a copy is cheaper than keeping track of when libzmq lets go."""

_QUEUE_MESSAGES: Final = 64
_HANDSHAKE_MS: Final = 1_000
_CONNECT_MS: Final = 2_000
_RECONNECT_MS: Final = 50
_RECONNECT_MS_MAX: Final = 1_000
_HEARTBEAT_MS: Final = 2_000
"""libzmq's own heartbeat only clears away dead connections; suspicion has its own, faster one (config.Timing)."""
_HEARTBEAT_MS_MAX: Final = 10_000
_UNACKNOWLEDGED_MS_MAX: Final = 10_000
"""TCP_USER_TIMEOUT: after a long partition a fresh connection is up sooner than an old one that retransmits rarely."""
_LINGER_MS: Final = 250
"""What `close` gives the last messages (a LEAVE) to get out."""
_BACKLOG: Final = 128
_ANONYMOUS: Final = "-"

_LANE_MARKS: Final = {Lane.DATA: "d", Lane.CONTROL: "c"}
_LANES: Final = {mark: lane for lane, mark in _LANE_MARKS.items()}
_ROUTING_ID: Final = re.compile(rb"([0-9a-f]{32})\.([dc])")
_ACCEPTED_NAME: Final = re.compile(r".+/([0-9a-f]{32})")

_Socket = zmq.Socket[bytes]
_Context = zmq.Context[_Socket]


@dataclass(slots=True)
class Counters:
    """What was dropped and who was refused since the start; for metrics."""

    malformed: int = 0
    """Messages with a routing id that no dialler of ours makes, or with too many frames."""
    refused: int = 0
    """Handshakes refused for their key."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A socket to receive from. A dialled one knows who is at its other end, and on which lane; the ROUTER does not."""

    socket: _Socket
    peer: str | None = None
    lane: Lane = Lane.DATA
    key: str | None = None


@dataclass(slots=True)
class _Lent:
    """Sends of one lane whose buffers libzmq may still read, oldest first: it lets go of them in order."""

    waiting: deque[tuple[int, list[zmq.MessageTracker]]] = field(default_factory=deque)

    def take_back(self) -> Iterator[int]:
        while self.waiting and all(tracker.done for tracker in self.waiting[0][1]):
            yield self.waiting.popleft()[0]


class ZeroMqTransport:
    """interfaces.Transport over ZeroMQ. Construct, use and close it in one thread; `wake` is for any."""

    def __init__(
        self, listen: str | None, peers: Sequence[str], keys: Keys | None, limits: Limits | None = None
    ) -> None:
        """Listen and dial. Nothing is left behind if this raises.

        listen  an endpoint, or None; ``tcp://...:0`` takes a free port, see `endpoint`
        peers   endpoints to dial; they need not be up, but their names must resolve
        keys    None only where every endpoint is loopback or ipc

        Raises ConfigError (the arguments), TransportError (a busy port, a name that does not resolve).
        """
        _check_libzmq()
        listening = None if listen is None else parse_endpoint(listen)
        dialling = _parse_peers(peers)
        _check_keys([*([listening] if listening else []), *dialling], keys)
        self._frame_bytes_max = _frame_bytes_max(limits or Limits())
        self._dialled = tuple(peers)
        self._keys = keys
        self._malformed = 0
        self._turn = 0
        self._is_closed = False
        self._lent: dict[tuple[str, Lane], _Lent] = {}
        self._dealers: dict[tuple[str, Lane], _Socket] = {}
        self._router: _Socket | None = None
        self._gate: Gate | None = None
        self._lines: list[_Line] = []
        self._waker = Waker()
        self._context: _Context = zmq.Context(io_threads=1)
        try:
            if listening is not None:
                self._listen(listening)
            for endpoint in dialling:
                self._dial(endpoint)
        except BaseException:
            self.close()
            raise

    @property
    def dialled(self) -> tuple[str, ...]:
        """The peers that this transport connects to, as configured."""
        return self._dialled

    @property
    def endpoint(self) -> str | None:
        """Where it listens, with the port that was chosen; None if it only dials."""
        if self._router is None:
            return None
        return bytes(self._router.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    @property
    def counters(self) -> Counters:
        """What was dropped and refused since the start."""
        return Counters(malformed=self._malformed, refused=self._gate.refused if self._gate else 0)

    def take_refusals(self) -> tuple[str, ...]:
        """Return whom the gate refused since the last call, for a person to read; the latest few only."""
        return self._gate.take_refusals() if self._gate else ()

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """Queue a message; see interfaces.Transport. False also while a dialled peer is not connected.

        Raises LimitExceeded for what the other side would refuse: nothing was taken.
        """
        self._check_open()
        self._check_message(frames)
        route = self._route(peer, lane)
        if route is None:
            return False
        socket, envelope = route
        trackers = _push(socket, [*envelope, *frames], is_lent=token is not None)
        if trackers is None:
            return False
        if token is not None:
            self._lent.setdefault((peer, lane), _Lent()).waiting.append((token, trackers))
        return True

    def poll(self, limit: int) -> Polled:
        """Return up to `limit` messages that have come; also answers who knocks. Never blocks.

        The lines take turns message by message, so that none can keep the others waiting. Frames are views of ZeroMQ's
        own memory, which lives as long as they do.
        """
        self._check_open()
        if self._gate is not None:
            self._gate.serve()
        return Polled(deliveries=tuple(self._receive(limit)), let_go=tuple(self._take_back()))

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> None:
        """Block until a message has come, one of `fds` is readable, `wake` was called, or the time is over.

        May return early, e.g. when somebody connects: the caller polls and waits again. The order matters: asking a
        socket for its events first handles all that was signalled so far; what comes later makes its descriptor
        readable.
        """
        self._check_open()
        sockets = [line.socket for line in self._lines]
        if self._gate is not None:
            sockets.append(self._gate.socket)
        if not any(_number(socket, zmq.EVENTS) & zmq.POLLIN for socket in sockets):
            wait_readable([self._waker.fileno(), *fds, *(_number(socket, zmq.FD) for socket in sockets)], timeout_ns)
        self._waker.drain()

    def wake(self) -> None:
        """End a `wait` now or the next one at once; safe from any thread, does nothing once closed."""
        self._waker.wake()

    def close(self) -> None:
        """Give back sockets and buffers; the last messages get a moment to leave. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for line in self._lines:
            line.socket.close(linger=_LINGER_MS)
        if self._gate is not None:
            self._gate.close()
        self._context.term()
        self._lent.clear()
        self._waker.close()

    # --- opening -----------------------------------------------------------------------------

    def _listen(self, endpoint: Endpoint) -> None:
        check_free(endpoint)
        router = self._socket(zmq.ROUTER, is_ipv6=":" in endpoint.host)
        self._lines.append(_Line(router))
        if self._keys is not None:
            self._gate = Gate(self._context, self._keys.allowed)
            secure_server(router, secret=self._keys.secret)
        router.set(zmq.ROUTER_MANDATORY, 1)  # tell when a message cannot be routed, instead of dropping it
        router.set(zmq.ROUTER_HANDOVER, 1)  # who dials again is let in although its dead connection still looks alive
        router.set(zmq.BACKLOG, _BACKLOG)
        try:
            router.bind(_bindable(endpoint))
        except zmq.ZMQError as error:
            raise TransportError(f"cannot listen on {endpoint.text}: {_why(error)}") from error
        self._router = router

    def _dial(self, endpoint: Endpoint) -> None:
        is_ipv6 = resolve(endpoint)
        key = None if self._keys is None else self._keys.server_of(endpoint.text)
        nonce = secrets.token_hex(16)
        for lane in (Lane.CONTROL, Lane.DATA):
            dealer = self._socket(zmq.DEALER, is_ipv6=is_ipv6)
            self._lines.append(_Line(dealer, endpoint.text, lane, key))
            self._dealers[endpoint.text, lane] = dealer
            if self._keys is not None and key is not None:
                secure_client(dealer, public=self._keys.public, secret=self._keys.secret, server=key)
            dealer.set(zmq.ROUTING_ID, f"{nonce}.{_LANE_MARKS[lane]}".encode("ascii"))
            dealer.set(zmq.IMMEDIATE, 1)  # queue nothing for a peer that is away: it would get stale messages later
            try:
                dealer.connect(endpoint.text)
            except zmq.ZMQError as error:
                raise TransportError(f"cannot dial {endpoint.text}: {_why(error)}") from error

    def _socket(self, kind: int, *, is_ipv6: bool) -> _Socket:
        socket = self._context.socket(kind)
        socket.copy_threshold = _COPY_BELOW_BYTES
        for option, value in _OPTIONS.items():
            socket.set(option, value)
        socket.set(zmq.MAXMSGSIZE, self._frame_bytes_max)
        socket.set(zmq.IPV6, int(is_ipv6))
        return socket

    # --- sending -----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this transport was closed")

    def _check_message(self, frames: Sequence[Buffer]) -> None:
        if not frames:
            raise LocalProtocolError("a message needs at least one frame")
        if len(frames) > FRAMES_MAX:
            raise LimitExceeded("frames of one message", limit=FRAMES_MAX, wanted=len(frames))
        largest = max(memoryview(frame).nbytes for frame in frames)
        if largest > self._frame_bytes_max:
            raise LimitExceeded("bytes of one frame", limit=self._frame_bytes_max, wanted=largest)

    def _route(self, peer: str, lane: Lane) -> tuple[_Socket, list[bytes]] | None:
        dealer = self._dealers.get((peer, lane))
        if dealer is not None:
            return dealer, []
        accepted = _ACCEPTED_NAME.fullmatch(peer)
        if accepted is None or self._router is None:
            return None
        return self._router, [f"{accepted[1]}.{_LANE_MARKS[lane]}".encode("ascii")]

    def _take_back(self) -> Iterator[int]:
        for line in list(self._lent):
            yield from self._lent[line].take_back()
            if not self._lent[line].waiting:
                del self._lent[line]

    # --- receiving ---------------------------------------------------------------------------

    def _receive(self, limit: int) -> Iterator[Delivery]:
        taken, silent = 0, 0
        while taken < limit and silent < len(self._lines):
            self._turn = (self._turn + 1) % len(self._lines)
            line = self._lines[self._turn]
            frames = _pull(line.socket)
            if frames is None:
                silent += 1
                continue
            taken, silent = taken + 1, 0  # a dropped message counts as well: a flood of them may not hold the loop
            delivery = self._deliver(line, frames)
            if delivery is None:
                self._malformed += 1
            else:
                yield delivery

    def _deliver(self, line: _Line, frames: list[zmq.Frame]) -> Delivery | None:
        """Name who sent `frames`; None if they are not what a transport of ours sends."""
        peer, lane, key = line.peer, line.lane, line.key
        if peer is None:
            routing_id = _ROUTING_ID.fullmatch(frames.pop(0).bytes)
            if routing_id is None or not frames:
                return None
            lane = _LANES[routing_id[2].decode("ascii")]
            key = None if self._keys is None else str(frames[0].get("User-Id"))
            peer = f"{key or _ANONYMOUS}/{routing_id[1].decode('ascii')}"
        if not 0 < len(frames) <= FRAMES_MAX:
            return None
        return Delivery(peer=peer, key=key, lane=lane, frames=tuple(frame.buffer for frame in frames))


_OPTIONS: Final = {
    zmq.LINGER: _LINGER_MS,
    zmq.SNDHWM: _QUEUE_MESSAGES,
    zmq.RCVHWM: _QUEUE_MESSAGES,
    zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
    zmq.CONNECT_TIMEOUT: _CONNECT_MS,
    zmq.RECONNECT_IVL: _RECONNECT_MS,
    zmq.RECONNECT_IVL_MAX: _RECONNECT_MS_MAX,
    zmq.HEARTBEAT_IVL: _HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: _HEARTBEAT_MS_MAX,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 5,
    zmq.TCP_MAXRT: _UNACKNOWLEDGED_MS_MAX,
}


def _push(socket: _Socket, parts: Sequence[Buffer], *, is_lent: bool) -> list[zmq.MessageTracker] | None:
    """Hand a message to libzmq without blocking; None if it did not take it.

    When the connection breaks between two frames libzmq drops the rest of the message, but wants to be given it:
    otherwise the next message would be taken for the rest. Such a message counts as sent, and lost with its
    connection.
    """
    trackers = []
    for position, part in enumerate(parts):
        more = zmq.SNDMORE if position + 1 < len(parts) else 0
        try:
            tracker = socket.send(part, zmq.NOBLOCK | more, copy=not is_lent, track=is_lent)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EAGAIN, errno.EHOSTUNREACH):
                raise TransportError(f"ZeroMQ cannot send: {_why(error)}") from error
            if position == 0:
                return None
        else:
            if tracker is not None:
                trackers.append(tracker)
    return trackers


def _pull(socket: _Socket) -> list[zmq.Frame] | None:
    """Take one whole message from libzmq, without copying; None if there is none.

    libzmq shows a message only when it is whole, so only its first frame can be missing. Frames beyond the limit are
    let go of at once; one more than the limit is kept, to tell.
    """
    try:
        frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    except zmq.Again:
        return None
    more = frames[0].more
    while more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        more = frame.more
        if len(frames) <= FRAMES_MAX + 1:
            frames.append(frame)
    return frames


def _number(socket: _Socket, option: int) -> int:
    return int(socket.get(option))


def _check_libzmq() -> None:
    if zmq.zmq_version_info() < _LIBZMQ_OLDEST:
        oldest = ".".join(map(str, _LIBZMQ_OLDEST))
        raise ConfigError(
            f"libzmq {zmq.zmq_version()} has known holes: at least {oldest} is needed (pip install -U pyzmq)"
        )


def _parse_peers(peers: Sequence[str]) -> list[Endpoint]:
    for peer in peers:
        if peers.count(peer) > 1:
            raise ConfigError(f"{peer} is named twice among the peers")
    dialling = [parse_endpoint(peer) for peer in peers]
    for endpoint in dialling:
        if endpoint.scheme == "tcp" and (endpoint.port == 0 or endpoint.host == "*"):
            raise ConfigError(f"{endpoint.text}: to dial, a host and a port are needed")
    return dialling


def _check_keys(endpoints: Sequence[Endpoint], keys: Keys | None) -> None:
    if not endpoints:
        raise ConfigError("nowhere to listen and nobody to dial: name an endpoint for at least one of them")
    for endpoint in endpoints:
        if keys is None and not endpoint.is_private:
            raise ConfigError(
                f"{endpoint.text} can be reached from other machines, so keys are needed: make a pair on each host by "
                "`ftvm keygen NAME` and give each other the .pub files (without keys: loopback and ipc only)"
            )


def _frame_bytes_max(limits: Limits) -> int:
    payloads = (limits.batch_bytes, limits.devices_bytes, limits.output_bytes, limits.header_bytes)
    return max(payloads) + _FRAME_SLACK_BYTES


def _bindable(endpoint: Endpoint) -> str:
    """libzmq binds addresses and interfaces but no names: spell localhost and the free port its way."""
    if endpoint.scheme == "ipc":
        return endpoint.text
    host = "127.0.0.1" if endpoint.host == "localhost" else endpoint.host
    return f"tcp://{f'[{host}]' if ':' in host else host}:{endpoint.port or '*'}"


def _why(error: zmq.ZMQError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror)


_REASONS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this host has no such address; use one of its own, or 0.0.0.0 for all",
    errno.ENODEV: "this host has no such address or interface; use one of its own, or 0.0.0.0 for all",
    errno.EACCES: "permission denied; choose a port above 1023, or a directory that may be written",
    errno.ENOENT: "the directory of the socket does not exist; make it first",
}
