"""The client's side of one control socket, and what is known of a host that does not answer."""

import errno
import json
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ftvm.errors import BrokenError, ClosedError, TransportError
from ftvm.service.requests import CONTROL_VERSION, Lines, json_line, parse_answer
from ftvm.service.socketfiles import guest_named_in

__all__ = ["ControlLine", "MuteHost"]

_READ_BYTES: Final = 1 << 16
_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid and gid of who listens, as unix(7) has them."""


class MuteHost(BrokenError):
    """A host is there but does not answer: its process is stopped, or its loop hangs.

    pid    its process, if the kernel tells
    guest  the guest that its socket is named after, perhaps cut off; None if that does not say
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        self.guest = guest_named_in(path)
        process = "a process" if pid is None else f"process {pid}"
        whose = f"control socket {path}" if self.guest is None else f"guest {self.guest!r}"
        told = f"{process} ({whose}) does not answer: it is stopped, or hangs"
        remedy = (
            f"wake it with `kill -CONT {pid}`; if it stays mute, end it with `kill -9 {pid}`, and its standby goes on"
        )
        super().__init__(told if pid is None else f"{told}; {remedy}")


class ControlLine:
    """Sends requests and reads answers, one at a time. Blocking, with a time-out on every answer."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Connect. Raises TransportError if nobody listens there, MuteHost if nobody takes the connection."""
        self.path = path
        self.timeout = timeout
        self.is_broken = False
        self._lines = Lines()
        self._waiting: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as wrong:
            self.close()
            if isinstance(wrong, TimeoutError) or wrong.errno == errno.EAGAIN:  # its queue of connections is full
                raise MuteHost(path, None) from wrong
            raise TransportError(
                f"no host answers at {path}: {wrong.strerror or wrong}: is it running, and as your user?"
            ) from wrong

    def ask(self, request: dict[str, Any], timeout: float) -> Any:
        """Return the answer. Raises the error that the host reports, MuteHost if none came in time, BrokenError if the
        host has ended."""
        self.say(request)
        return self.answer(timeout)

    def say(self, request: dict[str, Any]) -> None:
        """Send a request; read its answer next. Raises BrokenError if the host is gone."""
        if self.is_broken:
            raise ClosedError(f"the connection to {self.path} is over")
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(json_line({**request, "speaks": CONTROL_VERSION}))
        except OSError as wrong:
            raise self._broken_by(wrong) from wrong

    def answer(self, timeout: float) -> Any:
        """Return the answer to the last request, as `ask` does."""
        try:
            self._socket.settimeout(timeout)
            line = self._line()
        except OSError as wrong:
            raise self._broken_by(wrong) from wrong
        if line is None:
            self.close()
            raise BrokenError(f"the host at {self.path} has ended")
        return parse_answer(line)

    def poll(self) -> Any | None:
        """Return the answer if it has come, as `answer` does, and None otherwise: wait for nothing."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return self.answer(self.timeout) if readable or self._waiting else None

    def listen(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield what the host tells until it ends; then hang up. Raises MuteHost after `timeout` seconds of silence."""
        self._socket.settimeout(timeout)
        try:
            while (line := self._line()) is not None:
                yield json.loads(line)
        except ConnectionResetError:
            return  # it ended while this side was asking
        except TimeoutError as wrong:
            raise self._broken_by(wrong) from wrong
        finally:
            self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.is_broken = True
        self._socket.close()

    def _broken_by(self, wrong: OSError) -> BrokenError:
        """Hang up, so that a late answer is not taken for the answer to the next request."""
        is_mute = isinstance(wrong, TimeoutError | BlockingIOError)
        error = (
            MuteHost(self.path, self._pid()) if is_mute else BrokenError(f"the host at {self.path} has ended: {wrong}")
        )
        self.close()
        return error

    def _pid(self) -> int | None:
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0]) or None

    def _line(self) -> bytes | None:
        while not self._waiting:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                return None
            self._waiting.extend(self._lines.take(data))
        return self._waiting.pop(0)
