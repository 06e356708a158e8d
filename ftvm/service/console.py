"""A guest's console for people: what it says goes to all who have connected, and what they type is input to the guest.

`ConsoleWorld` stands around a guest's world. Its socket lies beside the control socket, with the same rights: who may
steer a host may type at its guest. What is shown was released: it is safe, as every output. What is typed is an input
of the channel "console", as if it came by the world: logged where inputs are logged, dropped where the guest has no
room. A bounded piece of what was said last is kept for who comes later. Who reads too slowly is hung up on, because the
host's loop waits for nobody; who half-closes the connection only looks on.
"""

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.checkpoint import Output
from ftvm.errors import TransportError
from ftvm.interfaces import World
from ftvm.runtime.world import news_of
from ftvm.service.socketfiles import listen_privately
from ftvm.transport.endpoints import SocketFile

__all__ = ["CHANNEL", "ConsoleLine", "ConsoleWorld", "console_path"]

CHANNEL: Final = "console"
CLIENTS_MAX: Final = 8
"""One more hangs up on the first."""
SCROLL_BACK_BYTES: Final = 1 << 16
_READ_BYTES: Final = 1 << 16
TYPED_BYTES: Final = 1024
"""Taken of one client at once."""
_UNREAD_BYTES: Final = 1 << 20
"""How much a client may leave unread, as far as the system allows."""


def console_path(control: Path) -> Path:
    """Return the path of the console's socket of the host that has this control socket."""
    return control.with_suffix(".console")


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    types: bool = True


class ConsoleWorld:
    """A world with a console that people can connect to. Keeps interfaces.World."""

    def __init__(self, world: World, control: str) -> None:
        """Take a world over; `control` is the endpoint of the host's control socket. Raises TransportError."""
        self._world = world
        endpoint = f"ipc://{console_path(Path(control.removeprefix('ipc://')))}"
        self._listening = listen_privately(endpoint)
        self._listening.setblocking(False)
        self._file = SocketFile.at(endpoint.removeprefix("ipc://"))
        self._clients: list[_Client] = []
        self._said = bytearray()

    @property
    def counters(self) -> Any:
        """What the world within moved and dropped; None if it counts nothing."""
        return getattr(self._world, "counters", None)

    def news(self) -> str | None:
        """What the world within warns of."""
        return news_of(self._world)()

    def fds(self) -> tuple[int, ...]:
        """See World. A world that has none, whose inputs are put, is looked at only when somebody types."""
        typing = (client.socket.fileno() for client in self._clients if client.types)
        return (*self._world.fds(), self._listening.fileno(), *typing)

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        """See World."""
        inputs = list(self._world.receive(limit))
        self._admit()
        for client in list(self._clients):
            if client.types and len(inputs) < limit and (typed := self._take(client)):
                inputs.append((CHANNEL, typed))
        return inputs

    def release(self, output: Output) -> None:
        """See World."""
        self._world.release(output)
        if output.channel != CHANNEL:
            return
        self._said += output.payload
        del self._said[:-SCROLL_BACK_BYTES]
        for client in list(self._clients):
            self._tell(client, output.payload)

    def announce(self) -> None:
        """See World."""
        self._world.announce()

    def close(self) -> None:
        """See World. Removes the socket's file, unless that is another's by now."""
        for client in list(self._clients):
            self._hang_up(client)
        if self._listening.fileno() >= 0:
            self._file.remove()
            self._listening.close()
        self._world.close()

    def _admit(self) -> None:
        """Take in those who have connected, and show them what was said last."""
        with contextlib.suppress(OSError):  # nobody waits, or who did has gone; or no descriptor is left for now
            while True:
                accepted = self._listening.accept()[0]
                accepted.setblocking(False)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
                if len(self._clients) == CLIENTS_MAX:
                    self._hang_up(self._clients[0])
                self._clients.append(client := _Client(accepted))
                self._tell(client, bytes(self._said))

    def _take(self, client: _Client) -> bytes:
        """Return what a client has typed."""
        try:
            typed = client.socket.recv(TYPED_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            self._hang_up(client)
            return b""
        if not typed:
            client.types = False
            self._tell(client, b"")
        return typed

    def _tell(self, client: _Client, content: bytes) -> None:
        """Send to a client; hang up on one that has gone, or has left too much unread."""
        try:
            is_whole = client.socket.send(content, socket.MSG_NOSIGNAL) == len(content)
        except OSError:
            is_whole = False
        if not is_whole:
            self._hang_up(client)

    def _hang_up(self, client: _Client) -> None:
        self._clients.remove(client)
        client.socket.close()


class ConsoleLine:
    """The other end: one connection to the console of a host. A context manager."""

    def __init__(self, control: Path, *, is_read_only: bool) -> None:
        """Connect to the console of the host that has this control socket. Raises TransportError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._is_read_only = is_read_only
        try:
            self._socket.connect(str(console_path(control)))
            if is_read_only:
                self._socket.shutdown(socket.SHUT_WR)
        except OSError as wrong:
            self._socket.close()
            raise TransportError(f"no console can be reached at {console_path(control)}: {wrong.strerror}") from wrong

    def fileno(self) -> int:
        """Its descriptor: readable when the guest has said something, or the host hung up."""
        return self._socket.fileno()

    def read(self) -> bytes:
        """Return what the guest has said; nothing once the host has hung up."""
        try:
            return self._socket.recv(_READ_BYTES)
        except OSError:
            return b""

    def type(self, keys: bytes) -> None:
        """Give the guest keys, unless this one only looks on; to a host that hung up they are lost."""
        if keys and not self._is_read_only:
            with contextlib.suppress(OSError):
                self._socket.sendall(keys)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._socket.close()
