"""Tells a service manager the state of a host: READY, STATUS, WATCHDOG and STOPPING, as systemd's sd_notify(3) has
them.

The watchdog is fed from the host's loop, between two steps: a loop that hangs feeds nothing, and the manager restarts
the host. Nothing is sent where no manager asks (NOTIFY_SOCKET is not set).
"""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final, Self

from ftvm.errors import ConfigError
from ftvm.events import Event, Halted, Protected, RoleChanged, Solo, TookOver
from ftvm.runtime.names import for_people
from ftvm.runtime.services import Controls
from ftvm.units import Nanos

__all__ = ["Notifier"]

_NANOS_PER_MICRO: Final = 1_000
_FEEDS_PER_LIMIT: Final = 4
"""The loop may be late by most of the limit: a long pause of a large guest is not a hang."""


class Notifier:
    """A service (runtime/services.py) that reports to a service manager."""

    name = "service manager's socket"

    def __init__(self, address: str, watchdog_ns: Nanos | None, *, is_ready_when_active: bool) -> None:
        """Report to the datagram socket at `address` (@ stands for an abstract one).

        watchdog_ns           the manager restarts a host that is silent for longer; None: it does not watch
        is_ready_when_active  READY once the guest runs here; else once the loop runs, as on a standby

        Raises ConfigError if there is no such socket.
        """
        self._feed_ns = None if watchdog_ns is None else Nanos(watchdog_ns // _FEEDS_PER_LIMIT)
        self._fed_at: Nanos | None = None
        self._is_ready_when_active = is_ready_when_active
        self._is_ready = False
        self._news: list[str] = []
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError as wrong:
            self._socket.close()
            raise ConfigError(f"NOTIFY_SOCKET={address}: cannot be reached: {wrong.strerror}") from wrong

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, is_ready_when_active: bool
    ) -> Self | None:
        """Return a notifier if a service manager asked for one, else None."""
        address = environment.get("NOTIFY_SOCKET")
        if not address:
            return None
        return cls(address, _watchdog_ns(environment), is_ready_when_active=is_ready_when_active)

    def begin(self, controls: Controls) -> None:
        """See HostService."""
        del controls

    def fds(self) -> Sequence[int]:
        """See HostService."""
        return ()

    def note(self, event: Event) -> None:
        """See HostService."""
        match event:
            case RoleChanged():
                self._news.append(f"STATUS={event.role}: {event.reason}")
                if event.role == "active":
                    self._get_ready()
            case Protected():
                self._news.append(f"STATUS=active, protected by {event.standby} (generation {event.generation})")
            case Solo():
                self._news.append(f"STATUS=active, unprotected: {event.reason} (generation {event.generation})")
            case Halted():
                self._news.append(f"STATUS=active, but the guest is paused: {event.reason}")
            case TookOver():
                self._news.append(f"STATUS=active, took over (generation {event.generation})")
            case _:
                return

    def step(self, now: Nanos) -> Nanos | None:
        """See HostService."""
        if not self._is_ready_when_active:
            self._get_ready()
        news, self._news = self._news, []
        for each in news:
            self._send(for_people(each))
        if self._feed_ns is None:
            return None
        if self._fed_at is None or now >= self._fed_at + self._feed_ns:
            self._send("WATCHDOG=1")
            self._fed_at = now
        return Nanos(self._fed_at + self._feed_ns)

    def close(self) -> None:
        """See HostService."""
        if self._socket is None:
            return
        self._send("STOPPING=1")
        self._socket.close()
        self._socket = None

    def _get_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._news.append("READY=1")

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(text.encode())
        except BlockingIOError:
            return  # the manager is busy; the next one will do
        except OSError:
            self._socket.close()
            self._socket = None  # the manager is gone: nobody is left to be told


def _watchdog_ns(environment: Mapping[str, str]) -> Nanos | None:
    limit_us, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not limit_us.isdecimal() or int(limit_us) == 0 or pid not in ("", str(os.getpid())):
        return None
    return Nanos(int(limit_us) * _NANOS_PER_MICRO)
