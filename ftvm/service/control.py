"""The control socket of a running host: what `ftvm status`, `ftvm top` and `ftvm ctl` talk to.

A unix stream socket of mode 0600: who may open the file may do what the owner of the process may, and nobody else
reaches it, not even over ZeroMQ's loopback. Served by the host's loop, between two steps, with bounds on connections,
lines, waiting requests and events. requests.py describes the requests.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError, FtvmError, InternalError, LimitExceeded, TransportError
from ftvm.events import Event, HostStopped
from ftvm.runtime.clock import wall_time
from ftvm.runtime.services import Controls, Pending
from ftvm.service.requests import (
    SWITCHOVER_SECONDS_MAX,
    Lines,
    error_line,
    json_line,
    number_in,
    parse_request,
    version_in,
)
from ftvm.service.server import Server
from ftvm.service.socketfiles import control_folder, listen_privately, own_endpoint, prepare_folder
from ftvm.transport.endpoints import SocketFile
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["ControlSocket"]

LOOK_NS: Final = 1_000_000_000
"""How often to check that the socket is still there: cleaners of /tmp and /run may remove it."""
EVENTS_WAITING_MAX: Final = 4096
REQUESTS_WAITING_MAX: Final = 64
ENGINE_SECONDS_MAX: Final = 10
_ENGINE_TIMES: Final = ("interval", "latency", "group")


class ControlSocket:
    """A service (runtime/services.py) that answers an operator's requests and tells events."""

    name = "control socket"

    def __init__(self, endpoint: str | None = None, *, guest_id: str = "guest") -> None:
        """Listen at `endpoint`, e.g. ``ipc:///run/ftvm/vm1.sock``. Raises ConfigError, TransportError.

        Without one, listen where `ftvm status` and `connect` look by themselves: in this user's folder of control
        sockets, at a name made of `guest_id` and this process.
        """
        if endpoint is None:
            folder = control_folder()
            prepare_folder(folder)
            endpoint = own_endpoint(folder, guest_id)
        self.endpoint = endpoint
        self._path = Path(endpoint.removeprefix("ipc://"))
        self._look_at: Nanos | None = None
        self._dialogues: list[_Dialogue] = []
        self._controls: Controls | None = None
        self._server: Server | None = Server(listen_privately(endpoint), self._converse)
        self._file = SocketFile.at(str(self._path))

    def begin(self, controls: Controls) -> None:
        """See HostService."""
        self._controls = controls

    def fds(self) -> Sequence[int]:
        """See HostService."""
        return (self._server.fileno(),) if self._server is not None else ()

    def note(self, event: Event) -> None:
        """See HostService."""
        for dialogue in self._dialogues:
            dialogue.note(event)
        if isinstance(event, HostStopped) and self._server is not None:
            self._server.tell()  # now: the loop ends before it steps the services again

    def step(self, now: Nanos) -> Nanos | None:
        """See HostService."""
        if self._server is None:
            return None
        self._dialogues = [dialogue for dialogue in self._dialogues if not dialogue.is_closed]
        if self._look_at is None or now >= self._look_at:
            self._look_at = Nanos(now + LOOK_NS)
            self._come_back(self._server)
        return min(self._server.step(now) or self._look_at, self._look_at)

    def close(self) -> None:
        """See HostService. Removes the socket's file, unless that is another's by now."""
        if self._server is None:
            return
        self._file.remove()
        self._server.close()
        self._server = None

    def _come_back(self, server: Server) -> None:
        """Listen again if the file or its folder was removed; a file that another host made stays."""
        if os.path.lexists(self._path):
            return
        with contextlib.suppress(OSError, TransportError):  # then at the next look
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            server.listen_instead(listen_privately(self.endpoint))
            self._file = SocketFile.at(str(self._path))

    def _converse(self) -> "_Dialogue":
        if self._controls is None:
            raise InternalError("somebody is served before the host was introduced")
        dialogue = _Dialogue(self._controls)
        self._dialogues.append(dialogue)
        return dialogue


class _Dialogue:
    """One operator's connection. Requests are answered in order; one that takes a while keeps the next waiting."""

    def __init__(self, controls: Controls) -> None:
        self.is_over = False
        self.is_closed = False
        self._controls = controls
        self._lines = Lines()
        self._waiting: deque[bytes] = deque()
        self._pending: Pending | None = None
        self._pending_version = 1
        self._is_listening = False
        self._events: deque[bytes] = deque()
        self._events_lost = 0

    def note(self, event: Event) -> None:
        """Keep an event for the listener; count it if there is no room."""
        if not self._is_listening:
            return
        if len(self._events) < EVENTS_WAITING_MAX:
            self._events.append(_event_line(event))  # now: with the time at which it happened
        else:
            self._events_lost += 1

    def take(self, data: bytes) -> bytes:
        """See Dialogue."""
        try:
            self._waiting.extend(self._lines.take(data))
            if len(self._waiting) > REQUESTS_WAITING_MAX:
                raise LimitExceeded("requests", limit=REQUESTS_WAITING_MAX, wanted=len(self._waiting))
        except LimitExceeded as wrong:
            self.is_over = True
            return error_line(wrong)
        return b"".join(self._answers())

    def speak(self, room_bytes: int) -> bytes:
        """See Dialogue."""
        said = b"".join(self._answers())
        while self._events and len(said) < room_bytes // 2:
            said += self._events.popleft()
        if self._events_lost and not self._events:
            said += json_line({"events_lost": self._events_lost})
            self._events_lost = 0
        return said

    def close(self) -> None:
        """See Dialogue."""
        self.is_closed = True

    def _answers(self) -> Iterator[bytes]:
        """Answer what can be answered now."""
        while self._pending is not None or self._waiting:
            try:
                if self._pending is None:
                    yield from self._answer(self._waiting.popleft())
                elif self._pending():
                    self._pending = None
                    yield json_line({"ok": self._controls.status().told_in(self._pending_version)})
                else:
                    return
            except FtvmError as wrong:
                self._pending = None
                yield error_line(wrong)

    def _answer(self, line: bytes) -> Iterator[bytes]:
        request = parse_request(line)
        guest_id = request.get("guest", self._controls.guest_id)
        if guest_id != self._controls.guest_id:
            raise ConfigError(f"this host has no guest {guest_id!r}, only {self._controls.guest_id!r}")
        if request["do"] == "events":
            self._is_listening = True
            yield json_line({"ok": "events follow"})
        elif (verb := _VERBS.get(request["do"])) is None:
            raise ConfigError(f"unknown request {request['do']!r}; known are: {', '.join(_VERBS)}, events")
        else:
            result = verb(self._controls, request)
            if callable(result):
                self._pending, self._pending_version = result, version_in(request)
            else:
                yield json_line({"ok": result})


def _guests(controls: Controls, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [controls.status().told_in(version_in(request))]


def _status(controls: Controls, request: Mapping[str, Any]) -> dict[str, Any]:
    return controls.status().told_in(version_in(request))


def _set_engine(controls: Controls, request: Mapping[str, Any]) -> Pending:
    name = request.get("name")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"name {name!r}: write the engine's name as a string")
    given = {
        key: number_in(request, key, ENGINE_SECONDS_MAX, may_be_0=key == "group")
        for key in _ENGINE_TIMES
        if key in request
    }
    if name is None and not given:
        raise ConfigError(f"say what to change: name, {', '.join(_ENGINE_TIMES)}")
    interval, latency, group = map(given.get, _ENGINE_TIMES)
    return controls.set_engine(name=name, interval=interval, latency=latency, group=group)


def _switch_over(controls: Controls, request: Mapping[str, Any]) -> Pending:
    return controls.switch_over(seconds_to_nanos(number_in(request, "seconds", SWITCHOVER_SECONDS_MAX)))


def _stop(controls: Controls, request: Mapping[str, Any]) -> dict[str, Any]:
    version = version_in(request)
    controls.ask_to_stop("an operator asked this host to stop")
    return controls.status().told_in(version)


def _end(controls: Controls, request: Mapping[str, Any]) -> dict[str, Any]:
    version = version_in(request)
    controls.end_guest("an operator ended the guest")
    return controls.status().told_in(version)


_Verb = Callable[[Controls, Mapping[str, Any]], list[dict[str, Any]] | dict[str, Any] | Pending]

_VERBS: Final[dict[str, _Verb]] = {
    "guests": _guests,
    "status": _status,
    "engine": _set_engine,
    "switchover": _switch_over,
    "stop": _stop,
    "end": _end,
}


def _event_line(event: Event) -> bytes:
    return json_line({"event": type(event).__name__, "time": wall_time(), **asdict(event)})
