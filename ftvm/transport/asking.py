"""Who is at the other end of which connection, and whether somebody still listens where a peer was.

libzmq tells that a connection ended, but not why, and not whether a new one could be made: it redials silently. So its
connections are noted here by their descriptors, and our own plain sockets ask the question, one for each lane. They
send nothing. A live ROUTER greets every connection, whatever its host's loop does; a process that is just ending
may accept a connection and break it; one that is stopped accepts it and is silent.

Where to ask: a peer that we dialled, at the address that its connection had. One that dialled us, at the endpoints
that we dial and whose key is its own; without keys, at the one endpoint that we dial, if there is no other.

Does not know: the time, what follows from an answer (protocol/detector.py). Source: connect(2), tcp(7), unix(7).
"""

import contextlib
import errno
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ftvm.interfaces import Lane, Sign

__all__ = ["Asker", "Place"]

_SIGNS_KEPT: Final = 1024
_PLACES_ASKED_MAX: Final = 8
"""Endpoints with one key, times two lanes."""
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""Nobody listens: at a port, or at a unix socket that is still there; or that is gone."""
_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection led to."""

    family: int
    address: object

    @classmethod
    def of(cls, fd: int) -> "Place | None":
        """Return where the connection of libzmq's descriptor leads to; None if it is closed already."""
        with contextlib.suppress(OSError):
            borrowed = socket.socket(fileno=fd)  # asks the kernel for the family
            try:
                return cls(borrowed.family, borrowed.getpeername())
            finally:
                borrowed.detach()
        return None


@dataclass(slots=True)
class _Ask:
    """The connections that ask after one peer; each is gone from `open` once it has told."""

    peer: str
    open: dict[int, socket.socket] = field(default_factory=dict)
    is_refused: bool = True


class Asker:
    """Use it in the transport's thread. `fileno` becomes readable when `take_signs` has something new."""

    def __init__(self, keys_of: Mapping[str, str | None]) -> None:
        """Ask after peers at the endpoints of `keys_of`: those that we dial, each with the key expected there."""
        self._keys_of = keys_of
        self._ends: dict[int, str] = {}
        self._places: dict[tuple[str, Lane], Place] = {}
        self._asks: dict[str, _Ask] = {}
        self._signs: deque[tuple[str, Sign]] = deque(maxlen=_SIGNS_KEPT)
        self._epoll = select.epoll()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._epoll.fileno()

    # --- connections ---------------------------------------------------------------------------

    def opened_by(self, endpoint: str, lane: Lane) -> Callable[[int], None]:
        """Return what to call with the descriptor of each connection that we make to `endpoint` on `lane`."""
        return partial(self._opened, endpoint, lane)

    def _opened(self, endpoint: str, lane: Lane, fd: int) -> None:
        place = Place.of(fd)
        if place is not None:
            self._ends[fd] = endpoint
            self._places[endpoint, lane] = place

    def spoke(self, fd: int, peer: str) -> None:
        """Note that a message of `peer`, which dialled us, came over the connection `fd`."""
        self._ends[fd] = peer

    def accepted(self, fd: int) -> None:
        """Note that somebody connected to us; only a message will tell who."""
        self._ends.pop(fd, None)

    def closed(self, fd: int) -> None:
        """Note that a connection has ended."""
        peer = self._ends.pop(fd, None)
        if peer is not None:
            self._signs.append((peer, Sign.RESET))

    # --- questions -----------------------------------------------------------------------------

    def ask(self, peer: str, key: str | None) -> bool:
        """Connect, on each lane, to where `peer` was, whose key is `key`; False if that is not known."""
        endpoints = [peer] if peer in self._keys_of else self._endpoints_of(key)
        wanted = [(endpoint, lane) for endpoint in endpoints for lane in Lane]
        places = [self._places[where] for where in wanted if where in self._places]
        if not places or len(places) < len(wanted) or len(places) > _PLACES_ASKED_MAX:
            return False
        self._end(peer)
        ask = self._asks[peer] = _Ask(peer)
        for place in places:
            self._connect(ask, place)
        self._settle(ask)
        return True

    def take_signs(self) -> tuple[tuple[str, Sign], ...]:
        """Return what was learned since the last call."""
        if self._asks:
            self._look()
        signs = tuple(self._signs)
        self._signs.clear()
        return signs

    def close(self) -> None:
        """Give back all that asks. Idempotent."""
        for peer in list(self._asks):
            self._end(peer)
        self._epoll.close()

    def _endpoints_of(self, key: str | None) -> list[str]:
        if key is None:
            return list(self._keys_of) if len(self._keys_of) == 1 else []
        return [endpoint for endpoint, theirs in self._keys_of.items() if theirs == key]

    def _connect(self, ask: _Ask, place: Place) -> None:
        try:
            asking = socket.socket(place.family, socket.SOCK_STREAM)
        except OSError:  # out of descriptors: no answer
            ask.is_refused = False
            return
        asking.setblocking(False)
        code = asking.connect_ex(place.address)  # type: ignore[arg-type]
        if code in _UNDER_WAY:
            ask.open[asking.fileno()] = asking
            self._epoll.register(asking.fileno(), select.EPOLLIN)
            return
        ask.is_refused &= code in _NOBODY
        asking.close()

    def _look(self) -> None:
        ready = {fd for fd, _events in self._epoll.poll(0)}
        for ask in list(self._asks.values()):
            signs = {_sign_of(ask.open[fd]) for fd in ready & ask.open.keys()}
            if Sign.ANSWERED in signs:
                self._tell(ask, Sign.ANSWERED)
                continue
            for fd in ready & ask.open.keys():
                ask.open.pop(fd).close()
            ask.is_refused &= Sign.UNCLEAR not in signs
            self._settle(ask)

    def _settle(self, ask: _Ask) -> None:
        """Report the result once no connection is open any more."""
        if not ask.open:
            self._tell(ask, Sign.REFUSED if ask.is_refused else Sign.UNCLEAR)

    def _tell(self, ask: _Ask, sign: Sign) -> None:
        self._end(ask.peer)
        self._signs.append((ask.peer, sign))

    def _end(self, peer: str) -> None:
        ask = self._asks.pop(peer, None)
        if ask is not None:
            for asking in ask.open.values():
                asking.close()


def _sign_of(asking: socket.socket) -> Sign:
    """Return the sign of a connection that is readable: a greeting, its end, or why it failed."""
    try:
        return Sign.ANSWERED if asking.recv(1) else Sign.UNCLEAR
    except OSError as wrong:
        return Sign.REFUSED if wrong.errno in _NOBODY else Sign.UNCLEAR
