"""The socket on which gdb finds a time machine: one client at a time, on this host alone.

A debugger sees all of the guest's memory, so the socket is a unix socket that only its owner may open, or lies on the
loopback interface; any other address is refused.
"""

import os
import select
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ftvm.errors import ConfigError, LimitExceeded
from ftvm.history.gdbpackets import INTERRUPT, PacketReader, pack
from ftvm.history.gdbstub import Stub
from ftvm.history.timeline import TimeMachine

__all__ = ["GdbServer"]

_READ_BYTES: Final = 1 << 16
WAITING_MAX: Final = 256
"""Packets that wait while the machine runs. gdb sends a ^C then, and perhaps one packet; who sends more is no gdb."""


class GdbServer:
    """Listens at `unix:PATH` or `tcp:HOST:PORT` (a loopback address; port 0 for any). Raises ConfigError."""

    def __init__(self, past: TimeMachine, where: str) -> None:
        self._past = past
        self._path: Path | None = None
        kind, _, rest = where.partition(":")
        if kind == "unix" and rest:
            self._listener = self._listen_unix(Path(rest))
        elif kind == "tcp":
            self._listener = _listen_tcp(where, rest)
        else:
            raise ConfigError(f"gdb's socket must be unix:PATH or tcp:HOST:PORT, not {where!r}")

    @property
    def target(self) -> str:
        """What to give gdb's `target remote`."""
        if self._path is not None:
            return str(self._path)
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def serve(self) -> None:
        """Wait for a client and serve it until it leaves."""
        client, _ = self._listener.accept()
        with client:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Session(client, self._past).run()

    def _listen_unix(self, path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as wrong:
            listener.close()
            raise ConfigError(f"gdb's socket cannot be at {path}: {wrong.strerror or wrong}") from wrong
        finally:
            os.umask(before)
        listener.listen(1)
        self._path = path
        return listener


def _listen_tcp(where: str, rest: str) -> socket.socket:
    host, _, port = rest.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port)
        socket.htons(number)
    except (ValueError, OverflowError):
        raise ConfigError(f"gdb's socket must be tcp:HOST:PORT with a loopback address, not {where!r}") from None
    if not address.is_loopback:
        raise ConfigError(f"gdb's socket must be on this host alone, as it shows the guest's memory: not {host}")
    try:
        return socket.create_server(
            (str(address), number), family=socket.AF_INET6 if address.version == 6 else socket.AF_INET, backlog=1
        )
    except OSError as wrong:
        raise ConfigError(f"gdb's socket cannot be at {where}: {wrong}") from wrong


class _Session:
    """One client. While the machine runs, its socket is looked at between stretches, for a ^C."""

    def __init__(self, client: socket.socket, past: TimeMachine) -> None:
        self._client = client
        self._past = past
        self._stub = Stub(past)
        self._reader = PacketReader()
        self._waiting: list[bytes] = []
        self._is_gone = False

    def run(self) -> None:
        before: Callable[[], bool] = self._past.interrupted
        self._past.interrupted = self._is_interrupted
        try:
            while not self._is_gone and not self._stub.is_over:
                self._take()
                self._answer_all()
        finally:
            self._past.interrupted = before
            self._past.clear_hooks()

    def _answer_all(self) -> None:
        while self._waiting and not self._stub.is_over:
            packet = self._waiting.pop(0)
            if packet == INTERRUPT:
                continue  # the machine stands already
            self._send(pack(self._stub.answer(packet)))
            if self._stub.wants_no_acks:
                self._reader.has_acks = False

    def _take(self) -> None:
        """Read what has come; wait for it if nothing has."""
        try:
            content = self._client.recv(_READ_BYTES)
            self._waiting += self._reader.feed(content)
        except (OSError, LimitExceeded):
            content = b""
        self._is_gone = not content
        self._send(self._reader.take_acks())

    def _is_interrupted(self) -> bool:
        if not self._is_gone and select.select([self._client], [], [], 0)[0]:
            self._take()
        if len(self._waiting) > WAITING_MAX:
            self._waiting.clear()
            self._is_gone = True
        if INTERRUPT in self._waiting:
            self._waiting.remove(INTERRUPT)
            return True
        return self._is_gone

    def _send(self, content: bytes) -> None:
        try:
            self._client.sendall(content)
        except OSError:
            self._is_gone = True
