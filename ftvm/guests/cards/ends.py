"""The ends of a pumped card: one for whoever emulates it, one for the pump, and what it reaches the world by.

A card that offloads is a tap device with the header of virtio-net, in a separate network namespace, and needs root. Any
other is a pair of datagram sockets with a frame in each datagram: it reaches the world by a tap that was made for this
user, or by datagrams, and needs no rights.
"""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from ftvm._native.netpump import HEADER_BYTES, Peer, attach_tap, make_card
from ftvm.errors import ConfigError
from ftvm.guests.datagram import SOCKET_BUFFER_BYTES, DatagramPort, cable_ends
from ftvm.guests.tap import TapPort

__all__ = ["CardEnds", "check_cable", "is_offloading", "open_ends"]

_TAP: Final = "tap:"
_INTERFACE_BYTES_MAX: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEnds:
    """Descriptors, which are gone once `close` was called.

    wire          for whoever emulates the card
    ours          the other end of that
    outside       what the world is reached by
    header_bytes  before each frame, on both sides
    peer          the other end of an outside that is a socket
    """

    wire: int
    ours: int
    outside: int
    header_bytes: int
    peer: Peer | None
    close: Callable[[], None]


def is_offloading(cable: str) -> bool:
    """Tell whether a cable is the name of an interface alone: no name of one has a colon."""
    return ":" not in cable


def check_cable(cable: str) -> None:
    """Raise ConfigError unless it is NAME, tap:NAME, or a cable of datagrams."""
    if is_offloading(cable) or cable.startswith(_TAP):
        name = cable.removeprefix(_TAP)
        if not 0 < len(name.encode()) <= _INTERFACE_BYTES_MAX or "/" in name:
            raise ConfigError(f"{name!r} is not the name of an interface: write pump:NAME, at most 15 characters")
    else:
        cable_ends(cable)


def open_ends(cable: str) -> CardEnds:
    """Open a card's ends. Raises ConfigError for a cable that cannot be or without the rights, TransportError if the
    tap or the address is refused, GuestError if there is no room; nothing is open then.
    """
    check_cable(cable)
    with ExitStack() as undo:
        if is_offloading(cable):
            wire, ours = make_card()
            undo.callback(os.close, wire)
            undo.callback(os.close, ours)
            outside, peer, header_bytes = attach_tap(cable), None, HEADER_BYTES
            undo.callback(os.close, outside)
        else:
            port, peer = _open_port(cable)
            undo.callback(port.close)
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for end in pair:
                undo.callback(end.close)
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            wire, ours = (end.fileno() for end in pair)
            outside, header_bytes = port.fileno(), 0
        close = undo.pop_all().close
    return CardEnds(wire=wire, ours=ours, outside=outside, header_bytes=header_bytes, peer=peer, close=close)


def _open_port(cable: str) -> tuple[TapPort | DatagramPort, Peer | None]:
    if cable.startswith(_TAP):
        return TapPort(cable.removeprefix(_TAP)), None
    port = DatagramPort(*cable_ends(cable))
    return port, Peer(*port.peer)
