"""The other end of control sockets: list the guests of this machine, look at them, tell their hosts what to do.

    with ftvm.connect() as machine:
        for guest in machine.guests():
            print(guest.id, guest.status().role)

Blocking, with a time-out on every answer; no thread. One connection serves one request at a time.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ftvm.errors import BrokenError, ClosedError, ConfigError, RemoteProtocolError, TransportError
from ftvm.runtime.status import Status
from ftvm.service.places import control_folder, sockets_in
from ftvm.service.requests import (
    CONTROL_VERSION,
    SWITCHOVER_SECONDS_MAX,
    Lines,
    json_line,
    number_in,
    parse_answer,
)

__all__ = ["Connection", "GuestHandle", "connect"]

_READ_BYTES: Final = 1 << 16


def connect(url: str | None = None, *, timeout: float = 5.0) -> "Connection":
    """Return a connection to the hosts of this machine.

    url      ``ipc://PATH`` of one host's control socket or of a folder of them; this user's folder if not given
    timeout  seconds to wait for an answer

    Raises ConfigError if the URL names neither, TransportError if nobody answers at the socket.
    """
    if url is None:
        return Connection(control_folder(), timeout, is_folder=True)
    if not url.startswith("ipc:///"):
        raise ConfigError(f"{url!r} is no control socket: write ipc:///PATH, a socket or a folder of them")
    place = Path(url.removeprefix("ipc://"))
    connection = Connection(place, timeout, is_folder=place.is_dir())
    if not place.is_dir():
        connection.guests()  # so that a wrong path is told of here, not at the first question
    return connection


class Connection:
    """Reaches the hosts behind one control socket, or behind all in a folder: `place`. A context manager."""

    def __init__(self, place: Path, timeout: float, *, is_folder: bool) -> None:
        self.place = place
        self._is_folder = is_folder
        self._timeout = timeout
        self._open: dict[Path, _Line] = {}

    def guests(self) -> "list[GuestHandle]":
        """Return the guests there are now. In a folder, sockets at which nobody answers are passed over."""
        if not self._is_folder:
            return self._guests_at(self.place)
        found: list[GuestHandle] = []
        for path in sockets_in(self.place):
            with suppress(TransportError, BrokenError):  # left by a host that died, or one that dies just now
                found.extend(self._guests_at(path))
        return found

    def guest(self, guest_id: str | None = None) -> "GuestHandle":
        """Return one guest; the active host's handle if several hosts here have it.

        The id may be left out where there is one guest. Raises TransportError if no host answers, ConfigError if none
        that does has the guest, or it is not clear which is meant.
        """
        guests = self.guests()
        if not guests:
            raise TransportError(f"no host answers at {self.place}; is one running, and are you its user?")
        there_are = ", ".join(sorted({repr(guest.id) for guest in guests}))
        if guest_id is not None:
            guests = [guest for guest in guests if guest.id == guest_id]
        if not guests:
            raise ConfigError(f"no host at {self.place} has guest {guest_id!r}; there are {there_are}")
        if len({guest.id for guest in guests}) > 1:
            raise ConfigError(f"say which guest: there are {there_are}")
        active = [guest for guest in guests if guest.last_status.role == "active"]
        if len(guests) > 1 and len(active) != 1:
            paths = ", ".join(f"ipc://{guest.path}" for guest in guests)
            raise ConfigError(f"{len(guests)} hosts here have guest {guests[0].id!r}; name a socket: {paths}")
        return active[0] if len(guests) > 1 else guests[0]

    def close(self) -> None:
        """Hang up. Idempotent."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guests_at(self, path: Path) -> "list[GuestHandle]":
        line = self._open.get(path)
        if line is None or line.is_broken:
            line = self._open[path] = _Line(path, self._timeout)
        told = line.ask({"do": "guests"}, self._timeout)
        if not isinstance(told, list):
            raise RemoteProtocolError(f"{path}: the list of guests is no list")
        try:
            return [GuestHandle(line, Status.from_dict(status)) for status in told]
        except RemoteProtocolError as wrong:
            raise RemoteProtocolError(f"{path}: {wrong}") from wrong


class GuestHandle:
    """One guest on one host of this machine. `last_status` is as of the last question asked through this handle."""

    def __init__(self, line: "_Line", status: Status) -> None:
        self.last_status = status
        self._line = line

    @property
    def id(self) -> str:
        """The guest's name in the record."""
        return self.last_status.guest_id

    @property
    def path(self) -> Path:
        """The control socket of its host."""
        return self._line.path

    def status(self) -> Status:
        """Ask where things stand now."""
        return self._ask({"do": "status"})

    def set_engine(
        self,
        name: str | None = None,
        *,
        interval: float | None = None,
        latency: float | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Change the engine of a guest that runs here, or its interval or latency target; None leaves it as it is.

        interval, latency  seconds; another engine takes the interval over

        Returns once the change is in force. Raises ConfigError if the guest or its standby cannot do with it,
        LocalProtocolError if the guest does not run here, BrokenError if the change is not in force after `timeout`.
        """
        given = {"name": name, "interval": interval, "latency": latency}
        wanted = {key: value for key, value in given.items() if value is not None}
        self._ask({"do": "engine", **wanted}, timeout)

    def switchover(self, timeout: float = 30.0) -> None:
        """Hand the guest over to its standby; this host stands by afterwards. Returns once the guest runs over there.

        timeout  seconds until it is called off, if it is not under way by then; at most an hour

        Raises ConfigError for another timeout, LocalProtocolError if the guest does not run here or has no standby,
        SwitchoverFailed if it came to nothing: the guest goes on here then.
        """
        seconds = number_in({"timeout": timeout}, "timeout", SWITCHOVER_SECONDS_MAX)
        self._ask({"do": "switchover", "seconds": seconds}, seconds + self._line.timeout)

    def stop(self) -> None:
        """Have the host end as by a signal; returns once it is asked, not once it has ended."""
        self._ask({"do": "stop"})

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events as plain values from now on, until the host ends: {"event": NAME, ...its fields...}.

        Over a connection of its own. A reader that is too slow is told how many it missed: {"events_lost": COUNT}.
        """
        line = _Line(self.path, self._line.timeout)
        line.ask({"do": "events", "guest": self.id}, self._line.timeout)
        return line.listen()

    def _ask(self, request: dict[str, Any], timeout: float | None = None) -> Status:
        told = self._line.ask({**request, "guest": self.id}, timeout or self._line.timeout)
        self.last_status = Status.from_dict(told)
        return self.last_status


class _Line:
    """One connection to one control socket."""

    def __init__(self, path: Path, timeout: float) -> None:
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
            raise TransportError(
                f"no host answers at {path}: {wrong.strerror or wrong}; is it running, and are you its user?"
            ) from wrong

    def ask(self, request: dict[str, Any], timeout: float) -> Any:
        """Return the answer. Raises the error that it tells of, BrokenError if none came in time."""
        if self.is_broken:
            raise ClosedError(f"the connection to {self.path} is over")
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json_line({**request, "speaks": CONTROL_VERSION}))
            line = self._line()
        except OSError as wrong:
            self.close()  # an answer that comes late must not be taken for that of the next request
            raise BrokenError(f"the host at {self.path} has not answered: {wrong}") from wrong
        if line is None:
            self.close()
            raise BrokenError(f"the host at {self.path} has ended")
        return parse_answer(line)

    def listen(self) -> Iterator[dict[str, Any]]:
        """Yield what is told, until the host ends; then hang up."""
        self._socket.settimeout(None)
        try:
            while (line := self._line()) is not None:
                yield json.loads(line)
        finally:
            self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.is_broken = True
        self._socket.close()

    def _line(self) -> bytes | None:
        while not self._waiting:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                return None
            self._waiting.extend(self._lines.take(data))
        return self._waiting.pop(0)
