"""The other end of control sockets: list the guests of this machine, look at them, tell their hosts what to do.

    with ftvm.connect() as machine:
        for guest in machine.guests():
            print(guest.id, guest.status().role)

Blocking, with a time-out on every answer; no thread. One connection serves one request at a time.
"""

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ftvm.errors import (
    BrokenError,
    ClosedError,
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    SwitchoverFailed,
    TransportError,
)
from ftvm.events import HostStopped
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.services import ANSWER_SECONDS
from ftvm.runtime.status import Status
from ftvm.service.controlline import ControlLine, MuteHost
from ftvm.service.requests import SWITCHOVER_SECONDS_MAX, number_in
from ftvm.service.socketfiles import clear_left_behind, control_folder, may_be_of, sockets_in
from ftvm.units import nanos_to_seconds, seconds_to_nanos

__all__ = ["Connection", "GuestHandle", "Survey", "connect"]

_LIST: Final = {"do": "guests"}
_LEAST_SECONDS: Final = 0.001
"""So that an answer that is there already is read, however long the others took."""


def connect(url: str | None = None, *, timeout: float = 5.0) -> "Connection":
    """Return a connection to the hosts of this machine.

    url      ``ipc://PATH`` of one host's control socket or of a folder of them; this user's folder if not given
    timeout  seconds to wait for an answer

    Raises ConfigError if the URL names neither, TransportError if nobody answers at the socket.
    """
    if url is None:
        folder = control_folder()
        clear_left_behind(folder)
        return Connection(folder, timeout, is_folder=True)
    if not url.startswith("ipc:///"):
        raise ConfigError(f"{url!r} is not a control socket: write ipc:///PATH of a socket, or of a folder of sockets")
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
        self._clock = MonotonicClock()
        self._open: dict[Path, ControlLine] = {}

    def guests(self) -> "list[GuestHandle]":
        """Return the guests there are now. In a folder, hosts that do not answer are left out: see `survey`."""
        if not self._is_folder:
            return _handles(self._line_to(self.place), self._timeout)
        return self.survey().guests

    def survey(self) -> "Survey":
        """Ask all hosts at once; return the guests of those that answer in time, and the hosts that do not.

        Sockets of dead hosts are left out.
        """
        paths = sockets_in(self.place) if self._is_folder else [self.place]
        ends_at = self._clock.now() + seconds_to_nanos(self._timeout)
        found = Survey(guests=[], mute=[])
        asked: list[ControlLine] = []
        for path in paths:
            with found.noting_silence():
                asked.append(line := self._line_to(path))
                line.say(_LIST)
        for line in asked:
            with found.noting_silence():
                left = nanos_to_seconds(ends_at - self._clock.now())
                found.guests.extend(_handles_told(line, line.answer(max(left, _LEAST_SECONDS))))
        return found

    def guest(self, guest_id: str | None = None) -> "GuestHandle":
        """Return one guest; the active host's handle if several hosts here have it.

        The id may be left out where there is one guest. Raises TransportError if no host answers, ConfigError if none
        that does has the guest, or it is not clear which is meant, and MuteHost if the guest may run on a host that
        does not answer: an order for it must not go to the standby.
        """
        found = self.survey()
        _check_one_is_meant(found, guest_id, self.place)
        guests = [guest for guest in found.guests if guest_id in (None, guest.id)]
        active = [guest for guest in guests if guest.last_status.role == "active"]
        if len(active) == 1:
            return active[0]
        for mute in found.mute:
            if may_be_of(mute.path, guests[0].id):
                raise mute
        if len(guests) > 1:
            paths = ", ".join(f"ipc://{guest.path}" for guest in guests)
            raise ConfigError(
                f"{len(guests)} hosts here have guest {guests[0].id!r}; choose one by its control socket: {paths}"
            )
        return guests[0]

    def close(self) -> None:
        """Hang up. Idempotent."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line_to(self, path: Path) -> ControlLine:
        line = self._open.get(path)
        if line is None or line.is_broken:
            line = self._open[path] = ControlLine(path, self._timeout)
        return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The guests of all hosts that answered, and the hosts that did not."""

    guests: "list[GuestHandle]"
    mute: list[MuteHost]

    @contextmanager
    def noting_silence(self) -> Iterator[None]:
        """Remember a host that does not answer; skip one that is gone."""
        try:
            yield
        except MuteHost as mute:
            self.mute.append(mute)
        except (TransportError, BrokenError, ClosedError):
            return


def _check_one_is_meant(found: Survey, guest_id: str | None, place: Path) -> None:
    """Raise unless the guests that were found include the one that is meant, and it is clear which that is."""
    if not found.guests:
        if found.mute:
            raise found.mute[0]
        raise TransportError(f"no host answers at {place}: is one running, and as your user?")
    ids = sorted({guest.id for guest in found.guests})
    there_are = ", ".join(map(repr, ids))
    if guest_id is None:
        others = [mute for mute in found.mute if not may_be_of(mute.path, ids[0])]
        unanswered = "".join(f"; {mute}" for mute in others)
        if len(ids) > 1 or others:
            raise ConfigError(f"say which guest: there are {there_are}{unanswered}")
    elif guest_id not in ids:
        for mute in found.mute:
            if may_be_of(mute.path, guest_id):
                raise mute
        raise ConfigError(f"no host at {place} has guest {guest_id!r}; there are {there_are}")


def _handles(line: ControlLine, timeout: float) -> "list[GuestHandle]":
    return _handles_told(line, line.ask(_LIST, timeout))


def _handles_told(line: ControlLine, told: Any) -> "list[GuestHandle]":
    if not isinstance(told, list):
        raise RemoteProtocolError(f"{line.path}: the list of guests is not a list")
    try:
        return [GuestHandle(line, Status.from_dict(status)) for status in told]
    except RemoteProtocolError as wrong:
        raise RemoteProtocolError(f"{line.path}: {wrong}") from wrong


class GuestHandle:
    """One guest on one host of this machine. `last_status` is as of the last question asked through this handle."""

    def __init__(self, line: ControlLine, status: Status) -> None:
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
        group: float | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Change the engine of a guest that runs here, or what it was given; None leaves it as it is.

        name      a new engine keeps the interval; so does the present one if it is named, but nothing else
        interval  seconds; so are a latency target (`latency`, remus) and a group commit (`group`, kemari)

        Returns once the change is in force. Raises ConfigError if the guest or its standby does not support it, or if
        `name` is not a name, LocalProtocolError if the guest does not run here, BrokenError if the change is not in
        force after `timeout`.
        """
        if not isinstance(name, str | None):
            raise ConfigError(f"engine {name!r}: give its name here, as in set_engine('hybrid', interval=0.1)")
        given = {"name": name, "interval": interval, "latency": latency, "group": group}
        wanted = {key: value for key, value in given.items() if value is not None}
        self._ask({"do": "engine", **wanted}, timeout)

    def switchover(self, timeout: float = 30.0) -> None:
        """Hand the guest over to its standby; this host stands by afterwards. Returns once the guest runs over there.

        timeout  seconds until it is called off, if it is not under way by then; at most an hour

        Raises ConfigError for another timeout, LocalProtocolError if the guest does not run here or has no standby,
        SwitchoverFailed if it failed and the guest goes on here.
        """
        seconds = number_in({"timeout": timeout}, "timeout", SWITCHOVER_SECONDS_MAX)
        self._ask({"do": "switchover", "seconds": seconds}, seconds + ANSWER_SECONDS + self._line.timeout)

    def stop(self) -> None:
        """Have the host end as by a signal; returns once it is asked, not once it has ended."""
        self._ask({"do": "stop"})

    def leave(self, timeout: float = 30.0) -> dict[str, Any]:
        """Have the host end, and its guest, if it runs there, go on at the standby. Returns as `stop_and_wait` does.

        Raises LocalProtocolError, and the host goes on, if the guest runs there and no standby could take it now.
        """
        status = self.status()
        if status.role == "active" and not status.is_protected:
            why, remedy = status.reason or status.state, f"To end it for good, use `ftvm stop {shlex.quote(self.id)}`"
            if status.arbiter_error is not None:  # nor could it be ended, see `end`
                why, remedy = status.arbiter_error, "Make the arbiter reachable, then try again"
            raise self._cannot_leave(why, remedy)
        if status.role == "active":
            self._go_elsewhere(timeout)
        return self.stop_and_wait(timeout)

    def _go_elsewhere(self, timeout: float) -> None:
        """Have the guest go on at the standby, as only that shows whether it can."""
        try:
            self.switchover(timeout)
        except (SwitchoverFailed, LocalProtocolError) as failed:
            if self.status().role == "active":
                raise self._cannot_leave(str(failed), "Correct that, then try again") from failed

    def _cannot_leave(self, why: str, remedy: str) -> LocalProtocolError:
        return LocalProtocolError(f"guest {self.id!r} cannot go on at another host now: {why}. {remedy}")

    def end(self, timeout: float = 30.0) -> dict[str, Any]:
        """End the guest for good, and with it the host where it runs and that of its standby.

        Returns as `stop_and_wait` does. Raises LocalProtocolError, and the guest goes on, if it does not run on this
        host, or the arbiter is silent: the record would go on naming hosts that are gone.
        """
        status = self.status()
        if status.arbiter_error is not None:
            raise LocalProtocolError(
                f"guest {self.id!r} was not ended: {status.arbiter_error}. The record would go on naming its hosts, "
                "and no later start would be let in; make the arbiter reachable, then try again"
            )
        return self._end_by({"do": "end"}, timeout)

    def stop_and_wait(self, timeout: float = 30.0) -> dict[str, Any]:
        """Have the host end as by a signal; return its event HostStopped, as plain values, once it has ended.

        timeout  seconds without a word from the host until it is given up

        Raises MuteHost if it is given up, BrokenError if it ended without that event: look at the other host then.
        """
        return self._end_by({"do": "stop"}, timeout)

    def _end_by(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        with closing(ControlLine(self.path, self._line.timeout)) as line:
            line.ask({"do": "events", "guest": self.id}, self._line.timeout)
            self._ask(request)
            stopped = [told for told in line.listen(timeout) if told.get("event") == HostStopped.__name__]
        if not stopped:
            raise BrokenError(
                f"the host of guest {self.id!r} ended, but did not say what became of the guest: "
                "run `ftvm status` on the other host"
            )
        return stopped[-1]

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield events as plain values from now on, until the host ends: {"event": NAME, "time": RFC 3339,
        ...its fields...}.

        Over a separate connection. A reader that is too slow is told how many it missed: {"events_lost": COUNT}.
        """
        line = ControlLine(self.path, self._line.timeout)
        line.ask({"do": "events", "guest": self.id}, self._line.timeout)
        return line.listen()

    def _ask(self, request: dict[str, Any], timeout: float | None = None) -> Status:
        told = self._line.ask({**request, "guest": self.id}, timeout or self._line.timeout)
        self.last_status = Status.from_dict(told)
        return self.last_status
