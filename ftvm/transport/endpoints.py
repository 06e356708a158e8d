"""Endpoints as text, and what can be found wrong with one before a socket is made for it.

libzmq accepts an unresolvable name in silence and retries for ever, and binds an ipc path by deleting whatever lies
there, a live socket or a file. Both are refused here, with what to do about it. Knows nothing about keys or ZeroMQ
sockets.
"""

import contextlib
import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass
from typing import Final

from ftvm.errors import ConfigError, TransportError

__all__ = ["EndpointUrl", "SocketFile", "check_free", "parse_endpoint", "resolve"]

_TCP: Final = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.%a-z]+\]|[A-Za-z0-9_.*-]+):(?P<port>\*|[0-9]{1,5})")
_IPC_PATH_BYTES_MAX: Final = 107
"""sockaddr_un has 108 bytes, one of them for the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointUrl:
    """One address: `text` as configured; for tcp the host (without brackets) and port, for ipc the path."""

    text: str
    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_private(self) -> bool:
        """Tell whether only this machine can reach it. A name other than localhost is never taken for private."""
        if self.scheme == "ipc" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a socket that listens at an ipc path; remembers which file it was, so that no other host's is
    removed."""

    path: str
    device: int
    inode: int

    @classmethod
    def at(cls, path: str) -> "SocketFile":
        """Return the one that lies there."""
        found = os.lstat(path)
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Remove it, unless it is gone or another lies there."""
        with contextlib.suppress(OSError):  # the next listener replaces it
            if SocketFile.at(self.path) == self:
                os.unlink(self.path)


def parse_endpoint(text: str) -> EndpointUrl:
    """Return the endpoint that `text` names; raises ConfigError if it names none."""
    if text.startswith("ipc://"):
        return _parse_ipc(text)
    found = _TCP.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is not an endpoint: write tcp://HOST:PORT, tcp://[IPV6]:PORT or ipc://PATH")
    port = 0 if found["port"] == "*" else int(found["port"])
    if port > 0xFFFF:
        raise ConfigError(f"{text!r}: a port is at most 65535")
    return EndpointUrl(text=text, scheme="tcp", host=found["host"].strip("[]"), port=port)


def _parse_ipc(text: str) -> EndpointUrl:
    path = text.removeprefix("ipc://")
    if not path.startswith("/"):
        raise ConfigError(f"{text!r}: an ipc endpoint needs an absolute path, e.g. ipc:///run/ftvm/vm1")
    if len(os.fsencode(path)) > _IPC_PATH_BYTES_MAX:
        raise ConfigError(f"{text!r}: a socket path has at most {_IPC_PATH_BYTES_MAX} bytes; choose a shorter one")
    return EndpointUrl(text=text, scheme="ipc", path=path)


def resolve(endpoint: EndpointUrl) -> bool:
    """Check that the host of a tcp endpoint has an address; tell whether it has one of IPv6 only.

    Raises TransportError. May block as long as the system's resolver does: for start-up, not for the driver's loop.
    """
    if endpoint.scheme != "tcp" or endpoint.host == "*":
        return False
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise TransportError(
            f"{endpoint.text}: the host name {endpoint.host!r} cannot be resolved ({reason}); "
            "check the spelling and DNS, or write its IP address"
        ) from error
    return all(family == socket.AF_INET6 for family, *_ in found)


def check_free(endpoint: EndpointUrl) -> None:
    """Check that an ipc path is free to listen on, or holds a socket that nobody listens on any more.

    Raises TransportError. tcp needs no check: there the bind itself fails.
    """
    if endpoint.scheme != "ipc" or not os.path.lexists(endpoint.path):
        return
    if not stat.S_ISSOCK(os.lstat(endpoint.path).st_mode):
        raise TransportError(f"{endpoint.text}: {endpoint.path} exists and is not a socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(endpoint.path)
        except ConnectionRefusedError:
            return  # left behind by a process that died: libzmq replaces it
        except OSError as error:
            raise TransportError(f"cannot listen on {endpoint.text} ({error.strerror})") from error
    raise TransportError(f"{endpoint.text}: another process listens there; stop it, or choose another path")
