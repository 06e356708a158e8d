"""CURVE: who may connect, decided by key alone (docs/wire.md, "Who may connect").

A listening socket without an enforced ZAP domain lets every stranger in, and pyzmq's authenticator dies with the
first callback that raises. So the domain is enforced, and ZAP is answered by `Gate` inside the transport's own loop:
there is no thread that could die, and while nobody answers nobody is let in.

Source: ZeroMQ RFC 26 (CurveZMQ), RFC 27 (ZAP), RFC 32 (Z85).
"""

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

import zmq
from zmq.utils import z85

from ftvm.errors import ConfigError, TransportError
from ftvm.transport.line import Context, Line

__all__ = ["DialWatch", "Gate", "is_key", "new_keypair", "public_of", "secure_client", "secure_server", "zap_answer"]

_DOMAIN: Final = "ftvm"
_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_KEY_CHARS: Final = 40
_KEY_BYTES: Final = 32
_REQUESTS_PER_CALL: Final = 64
"""So that a flood of strangers does not keep the loop from its other work."""
_REFUSALS_KEPT: Final = 16


def new_keypair() -> tuple[str, str]:
    """Return a fresh (public, secret) pair of keys as Z85 text."""
    if not zmq.has("curve"):
        raise ConfigError("this libzmq was built without CURVE: install pyzmq from its wheel")
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def public_of(secret: str) -> str:
    """Return the public key that belongs to a secret one."""
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


def is_key(text: str) -> bool:
    """Tell whether `text` is 32 bytes as Z85 text."""
    if len(text) != _KEY_CHARS or not text.isascii():
        return False
    try:
        return len(z85.decode(text)) == _KEY_BYTES
    except (KeyError, ValueError, struct.error):
        return False  # a character outside the alphabet, or a group above 2**32 - 1


def secure_server(server: "zmq.Socket[bytes]", *, secret: str) -> None:
    """Make a socket demand CURVE and ask ZAP about every connection; before bind.

    Without ZAP_ENFORCE_DOMAIN a socket that finds no ZAP handler lets everybody in.
    """
    server.set(zmq.ZAP_DOMAIN, _DOMAIN.encode("ascii"))
    server.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
    server.curve_server = True
    server.curve_secretkey = secret.encode("ascii")


def secure_client(client: "zmq.Socket[bytes]", *, public: str, secret: str, server: str) -> None:
    """Make a socket speak CURVE as `public`, and only with whoever holds the secret of `server`; before connect."""
    client.curve_publickey = public.encode("ascii")
    client.curve_secretkey = secret.encode("ascii")
    client.curve_serverkey = server.encode("ascii")


def zap_answer(request: Sequence[bytes], allowed: frozenset[str]) -> tuple[bytes, bytes, bytes]:
    """Decide one ZAP request (version, id, domain, address, identity, mechanism, credentials...).

    Returns (status code, status text, user id); the user id of who is let in is the key as Z85 text.
    """
    if len(request) != 7 or request[0] != _VERSION:
        return b"500", b"not a request of ZAP 1.0 with one credential", b""
    _version, _id, domain, _address, _identity, mechanism, credential = request
    if domain != _DOMAIN.encode("ascii") or mechanism != b"CURVE" or len(credential) != _KEY_BYTES:
        return b"400", b"only CURVE is spoken here", b""
    key = z85.encode(credential)
    if key.decode("ascii") not in allowed:
        return b"400", b"key not allowed", b""
    return b"200", b"welcome", key


class Gate:
    """Answers ZAP for all listening sockets of one context: exactly the holders of `allowed` keys come in.

    Bind it before the first listening socket; call `serve` whenever its line may have a message. `serve` raises nothing
    that a stranger could cause. A handshake that is not answered within HANDSHAKE_IVL is refused by libzmq and tried
    again.
    """

    def __init__(self, context: Context, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._refusals: deque[str] = deque(maxlen=_REFUSALS_KEPT)
        self.refused = 0
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self.line = Line(self._socket)
        try:
            self._socket.bind(_ENDPOINT)
        except zmq.ZMQError as error:
            self._socket.close()
            raise TransportError(f"the gate that checks keys cannot be set up: {error}") from error

    def serve(self) -> None:
        """Answer what has been asked, up to a limit per call."""
        for _ in range(_REQUESTS_PER_CALL):
            if not self.line.has_message():
                return
            self._answer([frame.bytes for frame in self.line.pull()])

    def take_refusals(self) -> tuple[str, ...]:
        """Return who was refused since the last call, as text for people; the latest few only."""
        refusals = tuple(self._refusals)
        self._refusals.clear()
        return refusals

    def _answer(self, parts: Sequence[bytes]) -> None:
        route, request = parts[0], parts[2:]
        code, text, user = zap_answer(request, self._allowed)
        if code != b"200":
            self._note(request, text)
        request_id = request[1] if len(request) > 1 else b""
        # If the client has left, libzmq drops the answer.
        self.line.push([route, b"", _VERSION, request_id, code, text, user, b""], is_lent=False)

    def _note(self, request: Sequence[bytes], text: bytes) -> None:
        self.refused += 1
        where = request[3].decode("ascii", "replace") if len(request) > 3 else "somebody"
        key = z85.encode(request[6]).decode("ascii") if len(request) == 7 and len(request[6]) == _KEY_BYTES else "none"
        self._refusals.append(
            f"refused a connection from {where or 'this host'} with key {key}: {text.decode('ascii')}; "
            "if it is a peer of yours, allow its .pub file"
        )


class DialWatch:
    """Tells why a peer that we dial refuses us; libzmq itself redials silently for ever.

    Only one connection of a peer needs it: both use the same keys.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._told: set[int] = set()
        self._reasons: list[str] = []

    def note(self, event: int) -> None:
        """Note a failed handshake, by ZeroMQ's event; each reason is reported once."""
        if event not in self._told:
            self._told.add(event)
            self._reasons.append(f"{self._endpoint} refused this host: {_DIAL_REASONS[event]}")

    def take_refusals(self) -> tuple[str, ...]:
        """Return what is new since the last call, for a person to read."""
        reasons = tuple(self._reasons)
        self._reasons.clear()
        return reasons


_DIAL_REASONS: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "it does not allow this host's key; allow this host's .pub file there",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "one side uses keys and the other does not, or it does not speak ZeroMQ",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "it hung up in the handshake. Perhaps it has just ended; if this goes "
    "on, check that both sides use keys, and that it holds the one that this host expects",
}
