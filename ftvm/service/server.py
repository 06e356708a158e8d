"""Stream sockets that a host's loop serves: accept, read and write in bounded portions, never wait.

Promises: at most CONNECTIONS_MAX connections, the one that was silent longest makes room for a new one; at most
UNSENT_BYTES_MAX bytes wait for a reader, who is cut off beyond that. Does not know the requests: a `Dialogue` for each
connection does.
"""

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ftvm.runtime.descriptors import SpareDescriptors, is_table_full
from ftvm.units import Nanos

__all__ = ["CONNECTIONS_MAX", "Dialogue", "Server"]

CONNECTIONS_MAX: Final = 16
UNSENT_BYTES_MAX: Final = 1 << 20
READ_BYTES: Final = 1 << 16
ACCEPTS_PER_STEP: Final = 4
ACCEPT_AGAIN_NS: Final = 100_000_000
RETRY_NS: Final = 10_000_000
"""How soon to look again whether a slow reader has room: the loop waits for readers only."""


class Dialogue(Protocol):
    """One side of a conversation. Nothing that the other side says makes it raise."""

    @property
    def is_over(self) -> bool:
        """Whether to hang up once all is said."""
        ...

    def take(self, data: bytes) -> bytes:
        """Take what the other side said; return the answer so far."""
        ...

    def speak(self, room_bytes: int) -> bytes:
        """Return what to say unasked, about as much as there is room for."""
        ...

    def close(self) -> None:
        """Learn that the other side is gone."""
        ...


@dataclass(slots=True)
class _ControlConnection:
    socket: socket.socket
    dialogue: Dialogue
    heard_at: Nanos
    unsent: bytearray = field(default_factory=bytearray)

    def hear(self, now: Nanos) -> bool:
        """Take what has come; return whether the connection goes on."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.heard_at = now
        self.unsent += self.dialogue.take(data)
        return bool(data)

    def tell(self) -> bool:
        """Send what there is to say; return whether the connection goes on."""
        self.unsent += self.dialogue.speak(UNSENT_BYTES_MAX - len(self.unsent))
        if len(self.unsent) > UNSENT_BYTES_MAX:
            return False
        try:
            while self.unsent and (sent := self.socket.send(self.unsent)):
                del self.unsent[:sent]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not self.dialogue.is_over


class Server:
    """Serves all who connect to one listening socket, which it owns."""

    def __init__(self, listening: socket.socket, dialogue: Callable[[], Dialogue]) -> None:
        """Call `dialogue` for each connection."""
        self._dialogue = dialogue
        self._connections: dict[int, _ControlConnection] = {}
        self._spare = SpareDescriptors(1)
        self._accepts_at: Nanos | None = None
        self._is_closed = False
        self._ready = select.epoll()
        self._listen(listening)

    def fileno(self) -> int:
        """Return what becomes readable when somebody connects or speaks."""
        return self._ready.fileno()

    def step(self, now: Nanos) -> Nanos | None:
        """Accept, hear and tell; return when to be called again if nobody speaks before."""
        if self._accepts_at is not None and now >= self._accepts_at:
            self._accepts_at = None
            self._spare.refill()
            self._ready.register(self._listening, select.EPOLLIN)
        for fd, _ in self._ready.poll(0):
            if fd == self._listening.fileno():
                self._accept(now)
            elif fd in self._connections and not self._connections[fd].hear(now):
                self._hang_up(fd)
        self.tell()
        is_waiting = any(connection.unsent for connection in self._connections.values())
        return Nanos(now + RETRY_NS) if is_waiting else self._accepts_at

    def tell(self) -> None:
        """Send to each what there is to say, as far as that takes no waiting."""
        for fd in [fd for fd, connection in self._connections.items() if not connection.tell()]:
            self._hang_up(fd)

    def listen_instead(self, listening: socket.socket) -> None:
        """Accept from another socket from now on; who is connected stays so."""
        if self._accepts_at is None:
            self._ready.unregister(self._listening)
        self._accepts_at = None
        self._listening.close()
        self._listen(listening)

    def close(self) -> None:
        """Hang up on everybody. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for fd in tuple(self._connections):
            self._hang_up(fd)
        self._listening.close()
        self._ready.close()
        self._spare.close()

    def _listen(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._ready.register(listening, select.EPOLLIN)

    def _accept(self, now: Nanos) -> None:
        for _ in range(ACCEPTS_PER_STEP):
            accepted = self._next_knocking(now)
            if accepted is None:
                return
            if len(self._connections) == CONNECTIONS_MAX:
                self._hang_up(min(self._connections, key=lambda fd: self._connections[fd].heard_at))
            accepted.setblocking(False)
            self._connections[accepted.fileno()] = _ControlConnection(accepted, self._dialogue(), now)
            self._ready.register(accepted, select.EPOLLIN)

    def _next_knocking(self, now: Nanos) -> socket.socket | None:
        """Accept a connection; None if no client waits, or it has gone.

        If no descriptor is left, the spare one serves a single client: operators ask just when something is wrong. If
        that is in use, accept nobody for a while, or the loop would spin on the readable socket.
        """
        try:
            return self._listening.accept()[0]
        except OSError as wrong:
            if not is_table_full(wrong):
                return None
        self._spare.close()
        try:
            return self._listening.accept()[0]
        except OSError as wrong:
            if is_table_full(wrong):
                self._ready.unregister(self._listening)
                self._accepts_at = Nanos(now + ACCEPT_AGAIN_NS)
        return None

    def _hang_up(self, fd: int) -> None:
        connection = self._connections.pop(fd)
        self._ready.unregister(fd)
        connection.dialogue.close()
        connection.socket.close()
        self._spare.refill()
