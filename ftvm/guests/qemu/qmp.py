"""QEMU's monitor, spoken over a plain socket: each call sends, and reads until its answers have come.

Every wait for a word of QEMU ends, after ANSWER_SECONDS if nothing else is said, and so does a call, after so many
words that are no answer; every failure is a GuestError that names the command. One that is not answered in time is
StateUnreadable: whoever has the guest's state, a standby, need not wait for this QEMU.
Events that QEMU sends in between wait, bounded, for `take_events`. Calls may come from any thread, one at a time. Knows
no command's meaning. Four commands are within each pause of the guest, so this has no event loop: one there took 190 us
of Python a command, this takes 25.

Source: QEMU, docs/interop/qmp-spec.rst.
"""

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ftvm.errors import GuestError, StateUnreadable

__all__ = ["ANSWER_SECONDS", "Qmp", "QmpEvent"]

_EVENTS_KEPT: Final = 1_024
ANSWER_SECONDS: Final = 60.0
"""A QEMU that is silent for this long hangs; a busy machine takes many seconds. A standby need not wait for it."""
# Its own limits say when it takes over, as it sees no progress here; to give up too soon loses a guest without one.
_SLOW_SECONDS: Final = 1.0
"""Whoever runs the guest is told of a word that takes longer, and asked four times a second whether to wait on."""
_LOOK_SECONDS: Final = 0.25
_MESSAGES_MAX: Final = 4_096
"""Read for one answer."""
_READ_BYTES: Final = 1 << 16
_LINE_BYTES_MAX: Final = 16 << 20
"""Of one message; the longest that is asked for, the list of all commands, has some ten thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QmpEvent:
    """Something that QEMU said unasked."""

    name: str
    data: dict[str, Any]


class _Broken(Exception):
    """What came is not the protocol."""


class _Late(Exception):
    """No word came in time."""


class Qmp:
    """A session over a connected socket. `may_wait` is asked whether a slow answer may be waited for (OutputSink)."""

    def __init__(self, connection: socket.socket, *, greeting_timeout: float) -> None:
        """Greet and negotiate; the socket is this session's from now on. Raises GuestError."""
        self._lock = threading.Lock()
        self._socket = connection
        self._unread = bytearray()
        self._kept: deque[QmpEvent] = deque(maxlen=_EVENTS_KEPT)
        self._number = self._number_seen = 0
        self._owed: int | None = None
        self._is_greeted = self._is_closed = False
        self.may_wait: Callable[[str], bool] = lambda _: True
        try:
            self._ask([("qmp_capabilities", {})], "its greeting", greeting_timeout)
        except GuestError:
            self.close()
            raise

    def execute(self, command: str, *, timeout: float | None = None, **arguments: object) -> Any:
        """Execute a command and return what it returns. Underscores in argument names stand for hyphens.

        Raises GuestError if QEMU refuses or is gone, StateUnreadable if it does not answer in time.
        """
        return self.execute_all([(command, arguments)], timeout=timeout)[-1]

    def execute_all(
        self, commands: Sequence[tuple[str, dict[str, object]]], *, timeout: float | None = None
    ) -> list[Any]:
        """Send commands in one go and return what each returns. Raises GuestError for the first that fails."""
        names = ", ".join(name for name, _ in commands)
        return self._ask(commands, names, ANSWER_SECONDS if timeout is None else timeout)

    def give_file(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of a file descriptor, to be called by `name` in commands that follow. Raises GuestError."""
        self._ask([("getfd", {"fdname": name})], "getfd", ANSWER_SECONDS, descriptor)

    def look(self) -> bool:
        """Tell whether QEMU still owes the answer to the last look; if not, and nobody has asked it anything since, ask
        for what changes nothing. Never waits; from any thread. While it is in use, and once it is closed, it owes none.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._is_closed:
                return False
            self._socket.settimeout(0)
            if self._owed is not None:
                self._read_on()
            if self._owed is None and self._number == self._number_seen:
                self._number += 1
                self._socket.sendall(json.dumps({"execute": "query-status", "id": self._number}).encode())
                self._owed = self._number
                return False
            self._number_seen = self._number
            return self._owed is not None
        except (OSError, EOFError, ValueError, _Broken):
            return False  # whoever needs it next, or looks after the process, learns that
        finally:
            self._lock.release()

    def take_events(self) -> list[QmpEvent]:
        """Return the events that came before the last answer."""
        with self._lock:
            events = list(self._kept)
            self._kept.clear()
        return events

    def close(self) -> None:
        """End the session. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._socket.close()

    # --- one exchange ----------------------------------------------------------------------------------------------

    def _ask(
        self,
        commands: Sequence[tuple[str, dict[str, object]]],
        what: str,
        limit: float,
        descriptor: int | None = None,
    ) -> list[Any]:
        with self._lock:
            if self._is_closed:
                raise GuestError(f"QEMU's monitor is closed: {what} was not sent")
            try:
                answers = self._exchange(commands, what, limit, descriptor)
            except _Late as late:
                raise StateUnreadable(str(late)) from late
            except TimeoutError as late:
                raise StateUnreadable(f"QEMU has not read {what} for {limit:g} s: it hangs or is stopped") from late
            except (OSError, EOFError, ValueError, _Broken) as wrong:
                raise GuestError(f"QEMU's monitor broke at {what}: {wrong or type(wrong).__name__}") from wrong
        refused = next((answer["error"] for answer in answers if "error" in answer), None)
        if refused is not None:
            said = refused.get("desc") if isinstance(refused, dict) else refused
            raise GuestError(f"QEMU refused {what}: {said}")
        return [answer.get("return") for answer in answers]

    def _exchange(
        self,
        commands: Sequence[tuple[str, dict[str, object]]],
        what: str,
        seconds: float,
        descriptor: int | None,
    ) -> list[dict[str, Any]]:
        """Send commands, and return the answer to each; what answers an earlier one, that was given up, is dropped."""
        if not self._is_greeted:
            if "QMP" not in self._read(partial(self._receive, what, seconds)):
                raise _Broken("what came first is not its greeting")
            self._is_greeted = True
        first = self._number + 1
        self._number += len(commands)
        asked = [
            {"execute": name, "arguments": _named(given), "id": number}
            for number, (name, given) in enumerate(commands, start=first)
        ]
        self._socket.settimeout(seconds)
        self._send("".join(map(json.dumps, asked)).encode(), descriptor)
        answers: dict[int, dict[str, Any]] = {}
        receive = partial(self._receive, what, seconds)
        for _ in range(_MESSAGES_MAX):
            if len(answers) == len(commands):
                return [answers[number] for number in sorted(answers)]
            message = self._read(receive)
            if "event" in message:
                self._keep(message)
            elif "id" not in message:
                raise _Broken(f"an answer to nothing: {message.get('error')}")
            elif message["id"] in range(first, self._number + 1):
                answers[message["id"]] = message
        raise _Broken(f"{_MESSAGES_MAX} messages, and no answer among them")

    def _send(self, content: bytes, descriptor: int | None) -> None:
        if descriptor is not None:
            sent = socket.send_fds(self._socket, [content], [descriptor])
            content = content[sent:]
        self._socket.sendall(content)

    def _read_on(self) -> None:
        """Read what has come, up to the answer that is owed."""
        try:
            for _ in range(_MESSAGES_MAX):
                message = self._read(lambda: self._socket.recv(_READ_BYTES))
                if "event" in message:
                    self._keep(message)
                if self._owed is None:
                    return
        except BlockingIOError:
            return

    def _read(self, receive: Callable[[], bytes]) -> dict[str, Any]:
        """Return the next message; `receive` returns more of what has come, b"" at the end."""
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > _LINE_BYTES_MAX:
                raise _Broken(f"a message of more than {_LINE_BYTES_MAX >> 20} MiB")
            came = receive()
            if not came:
                raise EOFError("it hung up")
            self._unread += came
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise _Broken("what came is no message")
        if message.get("id") == self._owed:
            self._owed = None
        return message

    def _receive(self, what: str, seconds: float) -> bytes:
        """Wait for more; `what` was asked, and so many seconds may each part of a message take."""
        waited, step = 0.0, min(_LOOK_SECONDS, seconds)
        self._socket.settimeout(step)
        while True:
            try:
                return self._socket.recv(_READ_BYTES)
            except TimeoutError as late:
                waited += step
                told = f"QEMU has not answered {what} for {min(waited, seconds):g} s"
                if waited >= seconds or (waited >= _SLOW_SECONDS and not self.may_wait(told)):
                    raise _Late(f"{told}: it hangs or is stopped") from late

    def _keep(self, event: dict[str, Any]) -> None:
        data = event.get("data")
        self._kept.append(QmpEvent(name=str(event["event"]), data=data if isinstance(data, dict) else {}))


def _named(arguments: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}
