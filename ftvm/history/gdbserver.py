"""Serves a time machine to gdb: one client at a time."""

import select
import socket
from collections.abc import Callable
from typing import Final

from ftvm.errors import LimitExceeded
from ftvm.history.gdbpackets import INTERRUPT, PacketReader, pack
from ftvm.history.gdbsocket import GdbSocket
from ftvm.history.gdbstub import Stub
from ftvm.history.timeline import TimeMachine

__all__ = ["GdbServer"]

_READ_BYTES: Final = 1 << 16
WAITING_MAX: Final = 256
"""Packets that wait while the machine runs. gdb sends a ^C then, and perhaps one packet; who sends more is no gdb."""


class GdbServer:
    """Serves a time machine at a GdbSocket. Raises ConfigError if it cannot be where it is to be."""

    def __init__(self, past: TimeMachine, where: str) -> None:
        self._past = past
        self._socket = GdbSocket(where)

    @property
    def target(self) -> str:
        """What to give gdb's `target remote`."""
        return self._socket.target

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._socket.close()

    def serve(self) -> None:
        """Wait for a client and serve it until it leaves."""
        client, _ = self._socket.listener.accept()
        with client:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Session(client, self._past).run()


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
