"""Where gdb comes in: a socket on this host alone, whoever serves gdb there.

A debugger sees all of the guest's memory, so the socket is a unix socket that only its owner may open, or lies on the
loopback interface; any other address is refused.
"""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

from ftvm.errors import ConfigError

__all__ = ["GdbSocket"]


class GdbSocket:
    """Listens at `unix:PATH` or `tcp:HOST:PORT` (a loopback address; port 0 for any). Raises ConfigError."""

    def __init__(self, where: str) -> None:
        self._path: Path | None = None
        kind, _, rest = where.partition(":")
        if kind == "unix" and rest:
            self.listener = self._listen_unix(Path(rest))
        elif kind == "tcp":
            self.listener = _listen_tcp(where, rest)
        else:
            raise ConfigError(f"gdb's socket must be unix:PATH or tcp:HOST:PORT, not {where!r}")

    @property
    def target(self) -> str:
        """What to give gdb's `target remote`."""
        if self._path is not None:
            return str(self._path)
        host, port = self.listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self.listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

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
