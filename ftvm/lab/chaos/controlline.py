"""One request to a host's control socket, without waiting for its answer: a fault goes on meanwhile."""

import json
import socket
from pathlib import Path
from typing import Final

from ftvm.errors import BrokenError
from ftvm.lab.processes import Line

__all__ = ["ControlLine"]

CONNECT_SECONDS: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 16


class ControlLine:
    """A connection on which one thing is asked."""

    def __init__(self, path: Path, request: Line) -> None:
        """Connect and ask. Raises BrokenError."""
        self._said = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_SECONDS)
        try:
            self._socket.connect(str(path))
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            self._socket.close()
            raise BrokenError(f"nobody answers at the control socket {path}: {error}") from error
        self._socket.setblocking(False)

    def poll(self) -> Line | None:
        """Return the answer if it has come: {"ok": ...} or {"error": ...}. Raises BrokenError."""
        try:
            self._said += self._socket.recv(ANSWER_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            raise BrokenError(f"a host hung up at its control socket: {error}") from error
        if not self._said.endswith(b"\n"):
            return None
        answer: Line = json.loads(self._said)
        return answer

    def close(self) -> None:
        """Hang up; what was asked is done all the same. Idempotent."""
        self._socket.close()
