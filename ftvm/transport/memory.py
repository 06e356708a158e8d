"""Messages within a process, with the contract of the wire: for tests, for examples, and to show how little is needed.

A MemoryNetwork is the cable, a MemoryTransport one end. Each transport belongs to one thread; different ones may be
driven by different threads. Like ZeroMQ it queues up to a limit, takes nothing for a peer that is not there, reads
lent buffers as late as it can (when the receiver polls), and forgets what was under way when one side closes.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from ftvm.checkpoint import Buffer
from ftvm.errors import ClosedError, ConfigError, LocalProtocolError, TransportError
from ftvm.interfaces import Delivery, Lane, Polled
from ftvm.transport.waker import Waker, wait_readable

__all__ = ["MemoryNetwork", "MemoryTransport"]

_Item = TypeVar("_Item")

_QUEUE_MESSAGES: Final = 64
"""For each lane of each direction, as on the wire."""


@dataclass(frozen=True, slots=True)
class _Message:
    """Frames on their way. `owner` gets `token` back when they have been read or are lost."""

    frames: tuple[Buffer, ...]
    token: int | None
    owner: "MemoryTransport"

    def let_go(self) -> None:
        if self.token is not None:
            self.owner.regain(self.token)


@dataclass(frozen=True, slots=True)
class _Pipe:
    """One lane in one direction: filled by one thread, emptied by another."""

    sender: str
    key: str | None
    lane: Lane
    messages: SimpleQueue[_Message] = field(default_factory=SimpleQueue)


class MemoryNetwork:
    """Which transport listens at which name. What a listener whose name is in `cut_off` sends is lost.

    `closing` is another number after each transport that was closed.
    """

    def __init__(self) -> None:
        self.closing = 0
        self._closings = itertools.count(1)
        self.cut_off: set[str] = set()
        self._listening: dict[str, MemoryTransport] = {}
        self._numbers = itertools.count(1)

    def transport(
        self, listen: str | None = None, peers: Sequence[str] = (), *, key: str | None = None
    ) -> "MemoryTransport":
        """Return a new end that listens at `listen` and dials `peers`, known to others by `key`.

        Raises TransportError if the name is taken.
        """
        if listen is None and not peers:
            raise ConfigError("nowhere to listen, and no peer to dial: give at least one of them")
        end = MemoryTransport(self, listen, tuple(peers), key=key, number=next(self._numbers))
        if listen is not None and self._listening.setdefault(listen, end) is not end:
            end.close()
            raise TransportError(f"cannot listen on {listen}: another transport listens there; close it first")
        return end

    def find(self, name: str) -> "MemoryTransport | None":
        """Return who listens at `name`."""
        return self._listening.get(name)

    def leave(self, name: str | None, end: "MemoryTransport") -> None:
        """Note that `end` is closed, and free the name, if it holds it."""
        self.closing = next(self._closings)  # unlike += it loses none of two threads
        if name is not None and self._listening.get(name) is end:
            del self._listening[name]


class MemoryTransport:
    """interfaces.Transport within a process; made by MemoryNetwork.transport."""

    def __init__(
        self, network: MemoryNetwork, listen: str | None, dialled: tuple[str, ...], *, key: str | None, number: int
    ) -> None:
        self._network = network
        self._listen = listen
        self._dialled = dialled
        self._key = key
        self._name = f"{key or '-'}/{number}"
        self.is_closed = False
        self._closing_seen = 0
        self._guard: AbstractContextManager[object] = nullcontext()
        self._waker = Waker()
        self._arrivals: SimpleQueue[_Pipe] = SimpleQueue()
        self._regained: SimpleQueue[int] = SimpleQueue()
        self._callers: dict[str, MemoryTransport] = {}
        self._pipes: dict[tuple[MemoryTransport, Lane, bool], _Pipe] = {}
        self._routes: dict[tuple[str, Lane], tuple[MemoryTransport, _Pipe]] = {}

    @property
    def dialled(self) -> tuple[str, ...]:
        """The peers that this transport connects to, as configured."""
        return self._dialled

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """Queue a message; see interfaces.Transport."""
        if self.is_closed:
            raise _closed()
        if not frames:
            raise LocalProtocolError("a message needs at least one frame")
        if self._listen in self._network.cut_off:
            if token is not None:
                self.regain(token)
            return True
        with self._guard:
            route = self._routes.get((peer, lane))
            if route is None or route[0].is_closed:
                route = self._find_route(peer, lane)
            if route is None:
                return False
            target, pipe = route
        if pipe.messages.qsize() >= _QUEUE_MESSAGES:
            return False
        lent = tuple(frames) if token is not None else tuple(map(bytes, frames))
        pipe.messages.put(_Message(lent, token, self))
        target.arrive(pipe)
        return True

    def poll(self, limit: int) -> Polled:
        """Return up to `limit` messages that have come, copied out of the sender's buffers. Never blocks."""
        if self.is_closed:
            raise _closed()
        if self._closing_seen != self._network.closing:
            self._closing_seen = self._network.closing
            with self._guard:
                self._forget_closed()
        arrivals, regained = self._arrivals, self._regained
        deliveries = [self._read(arrivals.get()) for _ in range(min(limit, arrivals.qsize()))]
        return Polled(tuple(deliveries), tuple([regained.get() for _ in range(regained.qsize())]))

    def ask(self, peer: str) -> bool:  # noqa: ARG002 - see interfaces.Transport
        """There is no connection within a process that could be dialled again: silence alone tells."""
        return False

    def share(self, guard: AbstractContextManager[object]) -> None:
        """See interfaces.Transport."""
        self._guard = guard

    def take_refusals(self) -> tuple[str, ...]:
        """Nobody is refused within a process."""
        return ()

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Sequence[int]:
        """Block until a message has come, one of `fds` is readable, `wake` was called, or the time is over."""
        if self.is_closed:
            raise _closed()
        ready = wait_readable([self._waker.fileno(), *fds], timeout_ns if self._arrivals.empty() else 0)
        self._waker.drain()
        return ready

    def wake(self) -> None:
        """End a `wait` now or the next one at once; safe from any thread, does nothing once closed."""
        self._waker.wake()

    def close(self) -> None:
        """Leave the network and let go of all that was under way. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        self._network.leave(self._listen, self)
        for pipe in _drain(self._arrivals):
            for message in _drain(pipe.messages):
                message.let_go()
        self._callers.clear()
        self._pipes.clear()
        self._routes.clear()
        self._waker.close()

    # --- called by the transport at the other end, from its thread ------------------------------

    def accept(self, caller: "MemoryTransport", name: str) -> None:
        """Learn who dialled in, so that answers find the way."""
        self._callers[name] = caller

    def arrive(self, pipe: _Pipe) -> None:
        """Learn that one more message waits in `pipe`."""
        self._arrivals.put(pipe)
        self._waker.wake()

    def regain(self, token: int) -> None:
        """Learn that a lent buffer has been read, or never will be."""
        self._regained.put(token)

    # --- helpers ----------------------------------------------------------------------------------

    def _find_route(self, peer: str, lane: Lane) -> "tuple[MemoryTransport, _Pipe] | None":
        target = self._network.find(peer) if peer in self._dialled else self._callers.get(peer)
        self._routes.pop((peer, lane), None)
        if target is None or target.is_closed:
            return None
        route = self._routes[peer, lane] = (target, self._pipe(peer, target, lane))
        return route

    def _pipe(self, peer: str, target: "MemoryTransport", lane: Lane) -> _Pipe:
        # What is dialled and what is answered are two connections, as on a network: the other end has a name for each.
        is_dialling = peer in self._dialled
        pipe = self._pipes.get((target, lane, is_dialling))
        if pipe is None:
            sender = self._name if is_dialling or self._listen is None else self._listen
            pipe = self._pipes[target, lane, is_dialling] = _Pipe(sender, self._key, lane)
            if is_dialling:
                target.accept(self, self._name)
        return pipe

    def _read(self, pipe: _Pipe) -> Delivery:
        message = pipe.messages.get()
        frames = tuple(map(bytes, message.frames))
        if message.token is not None:
            message.owner.regain(message.token)
        return Delivery(peer=pipe.sender, key=pipe.key, lane=pipe.lane, frames=frames)

    def _forget_closed(self) -> None:
        """Take back what was sent to a transport just as it closed, and forget callers that are gone."""
        for ends, pipe in list(self._pipes.items()):
            if ends[0].is_closed:
                del self._pipes[ends]
                for message in _drain(pipe.messages):
                    message.let_go()
        for name, caller in list(self._callers.items()):
            if caller.is_closed:
                self._callers.pop(name, None)


def _closed() -> ClosedError:
    return ClosedError("this transport was closed")


def _drain(queue: "SimpleQueue[_Item]") -> "Iterator[_Item]":
    """Yield what is in a queue until it is empty."""
    while True:
        try:
            item = queue.get_nowait()
        except Empty:
            return
        yield item
