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

What libzmq holds of messages that are still coming in is bounded from outside, see connections.py.

Does not know: what the frames mean, who is alive, sessions.

Source: ZeroMQ RFC 23, 26, 27, 28; docs/wire.md, "Who may connect".
"""

import os
import re
import secrets
import select
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import zmq

from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.errors import ClosedError, ConfigError, LimitExceeded, LocalProtocolError, TransportError
from ftvm.interfaces import Delivery, Lane, Polled
from ftvm.transport.asking import Asker
from ftvm.transport.connections import Connections
from ftvm.transport.curve import DialWatch, Gate, secure_client, secure_server
from ftvm.transport.endpoints import EndpointUrl, SocketFile, check_free, parse_endpoint, resolve
from ftvm.transport.keys import Keys
from ftvm.transport.line import FRAMES_MAX, QUEUE_MESSAGES, Context, Line, Trackers, open_socket, why
from ftvm.transport.waker import Waker, wait_readable

__all__ = ["FRAMES_MAX", "TransportCounters", "ZeroMqTransport"]

_LIBZMQ_OLDEST: Final = (4, 3, 3)
"""Older ones can be crashed or filled up by a stranger."""

_FRAME_SLACK_BYTES: Final = 64 << 10
_ANONYMOUS: Final = "-"
_LANE_MARKS: Final = {Lane.DATA: "d", Lane.CONTROL: "c"}
_LANES: Final = {mark: lane for lane, mark in _LANE_MARKS.items()}
_ROUTING_ID: Final = re.compile(rb"([0-9a-f]{32})\.([dc])")
_ACCEPTED_NAME: Final = re.compile(r"(.+)/([0-9a-f]{32})")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportCounters:
    """What was moved, what was dropped and who was refused since the start; for metrics."""

    messages_sent: int
    messages_received: int
    malformed: int
    """Messages with a routing id that no dialler of ours makes, or with too many frames."""
    refused: int
    """Handshakes refused for their key."""
    hung_up: int
    """Connections that were shut down: their unread messages filled the memory, or too many were in their handshake."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A line to receive from. A dialled one knows who is at its other end, and on which lane; the ROUTER does not."""

    line: Line
    peer: str | None = None
    lane: Lane = Lane.DATA
    key: str | None = None


@dataclass(slots=True)
class _Lent:
    """Sends of one lane whose buffers libzmq may still read, oldest first: it lets go of them in order."""

    waiting: deque[tuple[int, Trackers]] = field(default_factory=deque)

    def take_back(self) -> Iterator[int]:
        while self.waiting and all(tracker.done for tracker in self.waiting[0][1]):
            yield self.waiting.popleft()[0]


class ZeroMqTransport:
    """interfaces.Transport over ZeroMQ. Construct, use and close it in one thread; `wake` is for any.

    A second thread may `send` once the transport is shared: libzmq allows a socket to two threads if memory is fenced
    between them, which the guard sees to. It is held for microseconds, never while anything waits.
    """

    def __init__(
        self,
        listen: str | None,
        peers: Sequence[str],
        keys: Keys | None,
        limits: Limits | None = None,
        *,
        is_urgent: bool = False,
    ) -> None:
        """Listen and dial. Nothing is left behind if this raises.

        listen  an endpoint, or None; ``tcp://...:0`` takes a free port, see `endpoint`
        peers   endpoints to dial; they need not be up, but their names must resolve
        keys    None only where every endpoint is loopback or ipc
        is_urgent  its threads get the lowest real-time priority; this process must be allowed to give it

        Raises ConfigError (the arguments), TransportError (a busy port, a name that does not resolve).
        """
        _check_libzmq()
        listening = None if listen is None else parse_endpoint(listen)
        dialling = _parse_peers(peers)
        _check_keys([*([listening] if listening else []), *dialling], keys)
        self._frame_bytes_max = _frame_bytes_max(limits or Limits())
        self._connections = Connections(_unread_bytes_max(limits or Limits()), has_keys=keys is not None)
        self._asker = Asker({peer: None if keys is None else keys.server_of(peer) for peer in peers})
        self._dialled = tuple(peers)
        self._keys = keys
        self._malformed = self._sent = self._received = 0
        self._has_told = False
        self._turn = 0
        self._is_closed = False
        self._guard: AbstractContextManager[object] = nullcontext()
        self._lent: dict[tuple[str, Lane], _Lent] = {}
        self._dealers: dict[tuple[str, Lane], Line] = {}
        self._router: Line | None = None
        self._endpoint: str | None = None
        self._ipc: SocketFile | None = None
        self._gate: Gate | None = None
        self._watches: list[DialWatch] = []
        self._sources: list[_Source] = []
        self._lines: dict[int, Line] = {}
        self._waker = Waker()
        self._signals = select.epoll()
        self._signals.register(self._asker.fileno(), select.EPOLLIN)
        self._own_fds = (self._waker.fileno(), self._signals.fileno())
        self._context: Context = zmq.Context(io_threads=1)
        if is_urgent:
            self._context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_RR)
            self._context.set(zmq.THREAD_PRIORITY, 1)
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
        return self._endpoint

    @property
    def counters(self) -> TransportCounters:
        """What was moved, dropped and refused since the start."""
        return TransportCounters(
            messages_sent=self._sent,
            messages_received=self._received,
            malformed=self._malformed,
            refused=self._gate.refused if self._gate else 0,
            hung_up=self._connections.hung_up,
        )

    def ask(self, peer: str) -> bool:
        """See interfaces.Transport."""
        self._check_open()
        found = _ACCEPTED_NAME.fullmatch(peer)
        key = None if found is None or self._keys is None else found[1]
        return self._asker.ask(peer, key)

    def share(self, guard: AbstractContextManager[object]) -> None:
        """See interfaces.Transport."""
        self._guard = guard

    def take_refusals(self) -> tuple[str, ...]:
        """Return whom we refused, and who refused us, since the last call: the latest few, as text for people."""
        self._connections.measure()
        refusals = list(self._gate.take_refusals()) if self._gate is not None else []
        for watch in self._watches:
            refusals.extend(watch.take_refusals())
        refusals.extend(self._connections.take_reasons())
        if self._malformed and not self._has_told:
            self._has_told = True
            refusals.append(f"something other than ftvm sends to {self.endpoint}: its messages are dropped")
        return tuple(refusals)

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """Queue a message; see interfaces.Transport. False also while a dialled peer is not connected.

        Raises LimitExceeded for what the other side would refuse: nothing was taken.
        """
        self._check_message(frames)
        with self._guard:
            self._check_open()
            route = self._route(peer, lane)
            if route is None:
                return False
            line, envelope = route
            trackers = line.push([*envelope, *frames], is_lent=token is not None)
            if trackers is None:
                return False
            self._sent += 1
            if token is not None:
                self._lent.setdefault((peer, lane), _Lent()).waiting.append((token, trackers))
            return True

    def poll(self, limit: int) -> Polled:
        """Return up to `limit` messages that have come; also serves handshakes. Never blocks.

        The lines take turns message by message, so that none can keep the others waiting. Frames are views of ZeroMQ's
        own memory, which lives as long as they do.
        """
        with self._guard:
            return self._poll(limit)

    def _poll(self, limit: int) -> Polled:
        self._check_open()
        for fd, _events in self._signals.poll(0):
            line = self._lines.get(fd)
            if line is not None:
                line.may_have = True
        if self._gate is not None and self._gate.line.may_have:
            self._gate.serve()
        self._connections.look()
        deliveries = tuple(self._receive(limit))
        let_go = tuple(self._take_back()) if self._lent else ()
        return Polled(deliveries, let_go, self._asker.take_signs())

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Sequence[int]:
        """See interfaces.Transport. May return early, e.g. when somebody connects: the caller polls and waits again."""
        self._check_open()
        with self._guard:
            for line in self._lines.values():
                if line.may_have and line.has_message():
                    timeout_ns = 0
                    break
        ready = wait_readable([*self._own_fds, *fds], timeout_ns)
        if self._own_fds[0] in ready:
            self._waker.drain()
        return ready

    def wake(self) -> None:
        """End a `wait` now or the next one at once; safe from any thread, does nothing once closed."""
        self._waker.wake()

    def close(self) -> None:
        """Give back sockets and buffers; the last messages get a moment to leave. Idempotent."""
        with self._guard:
            self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._ipc is not None:
            self._ipc.remove()  # before the socket is closed: as long as we listen nobody else takes the path
        self._connections.close()
        self._asker.close()
        for line in self._lines.values():
            line.close()
        self._context.term()
        self._lent.clear()
        self._signals.close()
        self._waker.close()

    # --- opening -----------------------------------------------------------------------------

    def _listen(self, endpoint: EndpointUrl) -> None:
        check_free(endpoint)
        if self._keys is not None:
            self._gate = Gate(self._context, self._keys.allowed)
            self._watch(self._gate.line)
        router = self._socket(zmq.ROUTER, is_ipv6=":" in endpoint.host)
        self._watch(self._connections.watch(router, opened=self._asker.accepted, closed=self._asker.closed))
        self._router = self._watch(Line(router))
        self._sources.append(_Source(self._router))
        if self._keys is not None:
            secure_server(router, secret=self._keys.secret)
        router.set(zmq.ROUTER_MANDATORY, 1)  # tell when a message cannot be routed, instead of dropping it
        router.set(zmq.ROUTER_HANDOVER, 1)  # a peer may dial again although its dead connection still looks alive
        try:
            router.bind(_bindable(endpoint))
        except zmq.ZMQError as error:
            raise TransportError(f"cannot listen on {endpoint.text}: {why(error)}") from error
        if endpoint.scheme == "ipc":
            self._ipc = SocketFile.at(endpoint.path)
        self._endpoint = bytes(router.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def _dial(self, endpoint: EndpointUrl) -> None:
        is_ipv6 = resolve(endpoint)
        key = None if self._keys is None else self._keys.server_of(endpoint.text)
        nonce = secrets.token_hex(16)
        watch = DialWatch(endpoint.text)
        self._watches.append(watch)
        for lane in (Lane.CONTROL, Lane.DATA):
            dealer = self._socket(zmq.DEALER, is_ipv6=is_ipv6)
            line = self._dealers[endpoint.text, lane] = self._watch(Line(dealer))
            self._sources.append(_Source(line, endpoint.text, lane, key))
            if self._keys is not None and key is not None:
                secure_client(dealer, public=self._keys.public, secret=self._keys.secret, server=key)
            opened, closed = self._asker.opened_by(endpoint.text, lane), self._asker.closed
            self._watch(self._connections.watch(dealer, watch.note, opened=opened, closed=closed))
            dealer.set(zmq.ROUTING_ID, f"{nonce}.{_LANE_MARKS[lane]}".encode("ascii"))
            dealer.set(zmq.IMMEDIATE, 1)  # queue nothing for a peer that is away: it would get stale messages later
            try:
                dealer.connect(endpoint.text)
            except zmq.ZMQError as error:
                raise TransportError(f"cannot dial {endpoint.text}: {why(error)}") from error

    def _socket(self, kind: int, *, is_ipv6: bool) -> "zmq.Socket[bytes]":
        return open_socket(self._context, kind, frame_bytes_max=self._frame_bytes_max, is_ipv6=is_ipv6)

    def _watch(self, line: Line) -> Line:
        self._lines[line.fd] = line
        self._signals.register(line.fd, select.EPOLLIN)
        return line

    # --- sending -----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this transport is closed")

    def _check_message(self, frames: Sequence[Buffer]) -> None:
        if not frames:
            raise LocalProtocolError("a message needs at least one frame")
        if len(frames) > FRAMES_MAX:
            raise LimitExceeded("frames of one message", limit=FRAMES_MAX, wanted=len(frames))
        for frame in frames:
            size_bytes = memoryview(frame).nbytes
            if size_bytes > self._frame_bytes_max:
                raise LimitExceeded("bytes of one frame", limit=self._frame_bytes_max, wanted=size_bytes)

    def _route(self, peer: str, lane: Lane) -> tuple[Line, list[bytes]] | None:
        dealer = self._dealers.get((peer, lane))
        if dealer is not None:
            return dealer, []
        routing_id = _routing_id(peer, lane)
        if routing_id is None or self._router is None:
            return None
        return self._router, [routing_id]

    def _take_back(self) -> Iterator[int]:
        for line in list(self._lent):
            yield from self._lent[line].take_back()
            if not self._lent[line].waiting:
                del self._lent[line]

    # --- receiving ---------------------------------------------------------------------------

    def _receive(self, limit: int) -> Iterator[Delivery]:
        taken, silent = 0, 0
        while taken < limit and silent < len(self._sources):
            self._turn = (self._turn + 1) % len(self._sources)
            source = self._sources[self._turn]
            if not (source.line.may_have and source.line.has_message()):
                silent += 1
                continue
            taken, silent = taken + 1, 0  # a dropped message counts as well: a flood of them may not hold the loop
            delivery = self._deliver(source, source.line.pull())
            if delivery is None:
                self._malformed += 1
            else:
                self._received += 1
                yield delivery

    def _deliver(self, source: _Source, frames: list[zmq.Frame]) -> Delivery | None:
        """Name who sent `frames`; None if they are not what a transport of ours sends."""
        peer, lane, key = source.peer, source.lane, source.key
        routing_id = frames.pop(0).bytes if peer is None else b""
        fd = int(frames[0].get(zmq.SRCFD)) if frames else -1
        self._connections.deliver(fd, frames)
        if peer is None:
            key = str(frames[0].get("User-Id")) if self._keys is not None and frames else None
            found = _who(routing_id, key)
            if found is None:
                return None
            peer, lane = found
            self._asker.spoke(fd, peer)
        if not 0 < len(frames) <= FRAMES_MAX:
            return None
        return Delivery(peer=peer, key=key, lane=lane, frames=tuple(frame.buffer for frame in frames))


@lru_cache(maxsize=256)
def _who(routing_id: bytes, key: str | None) -> tuple[str, Lane] | None:
    """Return the peer and the lane behind a routing id that the holder of `key` chose; None if no dialler does so."""
    found = _ROUTING_ID.fullmatch(routing_id)
    if found is None:
        return None
    return f"{key or _ANONYMOUS}/{found[1].decode('ascii')}", _LANES[found[2].decode("ascii")]


@lru_cache(maxsize=256)
def _routing_id(peer: str, lane: Lane) -> bytes | None:
    """Return the routing id of a peer that dialled in, by its name; None if that is no such name."""
    found = _ACCEPTED_NAME.fullmatch(peer)
    return None if found is None else f"{found[2]}.{_LANE_MARKS[lane]}".encode("ascii")


def _check_libzmq() -> None:
    if zmq.zmq_version_info() < _LIBZMQ_OLDEST:
        oldest = ".".join(map(str, _LIBZMQ_OLDEST))
        raise ConfigError(
            f"libzmq {zmq.zmq_version()} has known holes: at least {oldest} is needed (pip install -U pyzmq)"
        )


def _parse_peers(peers: Sequence[str]) -> list[EndpointUrl]:
    for peer in peers:
        if peers.count(peer) > 1:
            raise ConfigError(f"{peer} is given twice as peer")
    dialling = [parse_endpoint(peer) for peer in peers]
    for endpoint in dialling:
        if endpoint.scheme == "tcp" and (endpoint.port == 0 or endpoint.host == "*"):
            raise ConfigError(f"{endpoint.text}: a peer needs a host and a port")
    return dialling


def _check_keys(endpoints: Sequence[EndpointUrl], keys: Keys | None) -> None:
    if not endpoints:
        raise ConfigError("nowhere to listen, and no peer to dial: give at least one of them")
    for endpoint in endpoints:
        if keys is None and not endpoint.is_private:
            raise ConfigError(
                f"{endpoint.text} can be reached from other machines, so keys are needed: make a pair on each host by "
                "`ftvm keygen NAME` and give each other the .pub files (without keys: loopback and ipc only)"
            )


def _frame_bytes_max(limits: Limits) -> int:
    payloads = (limits.batch_bytes, limits.devices_bytes, limits.outputs_held_bytes, limits.header_bytes)
    return max(payloads) + _FRAME_SLACK_BYTES


def _unread_bytes_max(limits: Limits) -> int:
    """Return what all that is sent to us may take before we read it: a full queue of batches, and a few large ends."""
    return QUEUE_MESSAGES * 2 * limits.batch_bytes + 4 * _frame_bytes_max(limits)


def _bindable(endpoint: EndpointUrl) -> str:
    """libzmq binds addresses and interfaces but no names: spell localhost and the free port its way."""
    if endpoint.scheme == "ipc":
        return endpoint.text
    host = "127.0.0.1" if endpoint.host == "localhost" else endpoint.host
    return f"tcp://{f'[{host}]' if ':' in host else host}:{endpoint.port or '*'}"
