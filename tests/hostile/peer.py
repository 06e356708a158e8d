"""A peer that breaks the rules, to test an endpoint: strangers, false members, and noise on the socket.

What a stranger can do is in `STRANGER_ATTACKS`, by name: each opens its connections and leaves them open until the
peer is closed, so that the honest pair has to live beside them. What only the holder of an allowed key can do goes
through `member`.

Knows nothing of ftvm's messages: frames are whatever the test says. Source: docs/wire.md, "Who may connect"; ZeroMQ
RFC 23 (ZMTP 3.0).
"""

import contextlib
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Final, Self
from urllib.parse import urlsplit

import zmq

__all__ = ["STRANGER_ATTACKS", "HostilePeer"]

_GREETING_NULL: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_READY: Final = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
_CONNECTIONS: Final = 40


class HostilePeer:
    """One attacker of the endpoint ``tcp://address:port``. A context manager: what it opened is closed at the end."""

    def __init__(self, endpoint: str, *, server_key: str) -> None:
        """Aim at an endpoint; `server_key` is its public key, which every stranger may know."""
        self.endpoint = endpoint
        self.server_key = server_key
        self.raw: list[socket.socket] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def member(
        self, public: str, secret: str, *, routing_id: bytes | None = None, server_key: str | None = None
    ) -> "zmq.Socket[bytes]":
        """Return a DEALER that speaks CURVE with any keys and takes any routing id; with None, a well-formed one."""
        dealer = self._dealer(routing_id)
        dealer.curve_publickey = public.encode("ascii")
        dealer.curve_secretkey = secret.encode("ascii")
        dealer.curve_serverkey = (server_key or self.server_key).encode("ascii")
        dealer.connect(self.endpoint)
        return dealer

    def stranger(self, *, server_key: str | None = None) -> "zmq.Socket[bytes]":
        """Return a DEALER that speaks CURVE with keys that nobody has ever seen."""
        public, secret = zmq.curve_keypair()
        return self.member(public.decode("ascii"), secret.decode("ascii"), server_key=server_key)

    def nameless(self, routing_id: bytes | None = None) -> "zmq.Socket[bytes]":
        """Return a DEALER that speaks NULL: no key at all."""
        dealer = self._dealer(routing_id)
        dealer.connect(self.endpoint)
        return dealer

    def shout(self, noise: bytes) -> socket.socket:
        """Open a bare TCP connection, send `noise`, and keep it open."""
        parts = urlsplit(self.endpoint)
        connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.raw.append(connection)
        with contextlib.suppress(OSError):  # it may hang up before the noise is over
            connection.sendall(noise)
        return connection

    def close(self) -> None:
        """Close everything. Idempotent."""
        for connection in self.raw:
            connection.close()
        for dealer in self._sockets:
            dealer.close(linger=0)
        self._context.term()

    def _dealer(self, routing_id: bytes | None) -> "zmq.Socket[bytes]":
        dealer = self._context.socket(zmq.DEALER)
        self._sockets.append(dealer)
        dealer.linger = 0
        dealer.set(zmq.RECONNECT_IVL, 20)  # an attacker is in a hurry,
        dealer.set(zmq.SNDHWM, 16)  # and wants its messages at the other end, not in its own queue
        if routing_id is None:
            routing_id = f"{secrets.token_hex(16)}.d".encode("ascii")
        if routing_id:  # an empty one leaves the choice to libzmq
            dealer.set(zmq.ROUTING_ID, routing_id)
        return dealer


def _attack_without_keys(peer: HostilePeer) -> None:
    _say_something(peer.nameless())


def _attack_with_an_unknown_key(peer: HostilePeer) -> None:
    _say_something(peer.stranger())


def _attack_with_a_wrong_server_key(peer: HostilePeer) -> None:
    public, _secret = zmq.curve_keypair()
    _say_something(peer.stranger(server_key=public.decode("ascii")))


def _attack_with_many_handshakes(peer: HostilePeer) -> None:
    for _ in range(_CONNECTIONS):
        _say_something(peer.stranger())


def _attack_with_garbage(peer: HostilePeer) -> None:
    for noise in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 4096, bytes(4096), b"\x16\x03\x01\x02\x00\x01" * 50):
        peer.shout(noise)


def _attack_with_silence(peer: HostilePeer) -> None:
    for _ in range(_CONNECTIONS):
        peer.shout(b"")


def _attack_with_half_a_greeting(peer: HostilePeer) -> None:
    for count in range(_CONNECTIONS):
        peer.shout(_GREETING_NULL[: 1 + count])


def _attack_with_a_null_handshake_and_a_giant_frame(peer: HostilePeer) -> None:
    for size in (1 << 62, (1 << 63) - 1, (1 << 64) - 1, 1 << 40):
        peer.shout(_GREETING_NULL + _READY + b"\x02" + size.to_bytes(8, "big") + bytes(1000))


def _attack_with_a_giant_command(peer: HostilePeer) -> None:
    greeting = _GREETING_NULL.replace(b"NULL" + bytes(16), b"CURVE" + bytes(15))
    for size in (1 << 62, 1 << 33, 1 << 20):
        peer.shout(greeting + b"\x06" + size.to_bytes(8, "big") + b"\x05HELLO" + bytes(100_000))


def _say_something(dealer: "zmq.Socket[bytes]") -> None:
    with contextlib.suppress(zmq.Again):
        dealer.send_multipart([b"let", b"me", b"in"], zmq.NOBLOCK)


STRANGER_ATTACKS: Final[Mapping[str, Callable[[HostilePeer], None]]] = {
    "without keys": _attack_without_keys,
    "with an unknown key": _attack_with_an_unknown_key,
    "with a wrong server key": _attack_with_a_wrong_server_key,
    "with many handshakes": _attack_with_many_handshakes,
    "with garbage": _attack_with_garbage,
    "with silence": _attack_with_silence,
    "with half a greeting": _attack_with_half_a_greeting,
    "with a giant frame": _attack_with_a_null_handshake_and_a_giant_frame,
    "with a giant command": _attack_with_a_giant_command,
}
"""By name, what somebody without an allowed key can do; none of it may reach the honest pair."""
