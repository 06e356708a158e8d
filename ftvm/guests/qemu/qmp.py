"""QEMU's monitor, spoken without a thread: each call runs the protocol's event loop until its answer has come.

What it promises beyond the `qemu.qmp` package: every wait ends, after five seconds if nothing else is said, and every
failure is a GuestError that names the command. Events that QEMU sends in between wait, bounded, for `take_events`.
Calls may come from any thread, one at a time. Knows no command's meaning.

Source: QEMU, docs/interop/qmp-spec.rst.
"""

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

from ftvm.errors import GuestError

__all__ = ["Qmp", "QmpEvent"]

_EVENTS_KEPT: Final = 1_024
_ANSWER_SECONDS: Final = 5.0
"""A QEMU that has not answered for this long hangs. The standby has long taken over by then, because we sent no
heartbeat."""

T = TypeVar("T")

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
"""Its log messages also come as exceptions; without a handler they would be printed on stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QmpEvent:
    """Something that QEMU said unasked."""

    name: str
    data: dict[str, Any]


class Qmp:
    """A session over a connected socket."""

    def __init__(self, connection: socket.socket, *, greeting_timeout: float) -> None:
        """Greet and negotiate; the socket is this session's from now on. Raises GuestError."""
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("ftvm")
        self._kept: deque[QmpEvent] = deque(maxlen=_EVENTS_KEPT)
        self._client.events.event_filter = self._keep
        self._is_closed = False
        connection.setblocking(False)
        try:
            self._run(self._client.connect(connection), "its greeting", greeting_timeout)
        except GuestError:
            self.close()
            raise

    def execute(self, command: str, *, timeout: float | None = None, **arguments: object) -> Any:
        """Execute a command and return what it returns. Underscores in argument names stand for hyphens.

        Raises GuestError if QEMU refuses, is gone, or does not answer in time.
        """
        return self.execute_all([(command, arguments)], timeout=timeout)[-1]

    def execute_all(
        self, commands: "list[tuple[str, dict[str, object]]]", *, timeout: float | None = None
    ) -> list[Any]:
        """Send commands in one go and return what each returns. Raises GuestError for the first that fails."""

        async def ask() -> list[Any]:
            return await asyncio.gather(*(self._client.execute(name, _named(given)) for name, given in commands))

        names = ", ".join(name for name, _ in commands)
        return self._run(ask(), names, _ANSWER_SECONDS if timeout is None else timeout)

    def give_file(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of a file descriptor, to be called by `name` in commands that follow. Raises GuestError."""

        async def give() -> object:
            self._client.send_fd_scm(descriptor)
            return await self._client.execute("getfd", {"fdname": name})

        self._run(give(), "getfd", _ANSWER_SECONDS)

    def take_events(self) -> list[QmpEvent]:
        """Return the events that came before the last answer."""
        with self._lock:
            events = list(self._kept)
            self._kept.clear()
        return events

    def close(self) -> None:
        """End the session. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            with suppress(QMPError, OSError, EOFError, TimeoutError):  # it is over either way
                self._loop.run_until_complete(asyncio.wait_for(self._client.disconnect(), _ANSWER_SECONDS))
            self._loop.close()

    def _keep(self, event: Message) -> bool:
        """Note an event, so that the package does not keep it: it would keep all of them for ever."""
        data = event.get("data")
        self._kept.append(QmpEvent(name=str(event["event"]), data=data if isinstance(data, dict) else {}))
        return False

    def _run(self, doing: Coroutine[Any, Any, T], what: str, timeout: float) -> T:
        with self._lock:
            if self._is_closed:
                doing.close()
                raise GuestError(f"QEMU's monitor is closed: {what} was not sent")
            try:
                return self._loop.run_until_complete(asyncio.wait_for(doing, timeout))
            except ExecuteError as wrong:
                raise GuestError(f"QEMU refused {what}: {wrong}") from wrong
            except TimeoutError as wrong:
                raise GuestError(f"QEMU has not answered {what} for {timeout:g} s: it hangs, or was stopped") from wrong
            except (QMPError, OSError, EOFError) as wrong:
                raise GuestError(f"QEMU's monitor broke at {what}: {wrong or type(wrong).__name__}") from wrong


def _named(arguments: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}
