"""The language of a control socket: one JSON object per line, one answer for each request, in order.

    {"do": "guests"}                                    the status of each guest of this process
    {"do": "status", "guest": ID}                       one of them; the id may be left out where there is one guest
    {"do": "engine", "guest": ID, "name": NAME, "interval": S, "latency": S, "group": S}
                                                        change what is given; answered once it is in force
    {"do": "switchover", "guest": ID, "seconds": S}     hand the guest over; answered once it runs on the other host
    {"do": "stop", "guest": ID}                         end the host as a signal would
    {"do": "end", "guest": ID}                          end the guest, and with it the host here and that of its standby
    {"do": "events"}                                    from now on, each event as it comes; ends with the connection

Each request may say which version of all this the asker speaks: "speaks": 2 (CONTROL_VERSION). Who does not say it
speaks version 1, as v0.1.0 does, and is told the fields of that version alone. From version 2 on both sides ignore
fields that they do not know: of a request, of a status, of an event. A new field needs no new version.

Answers: {"ok": ...} or {"error": {"type": NAME OF A CLASS IN ftvm.errors, "message": TEXT}}. Events: {"event": NAME,
"time": RFC 3339, ...fields...}; {"events_lost": COUNT} in the place of those for which a slow reader had no room. Pure:
bytes in, bytes out.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from ftvm import errors
from ftvm.errors import BrokenError, ConfigError, FtvmError, LimitExceeded, RemoteProtocolError

__all__ = [
    "CONTROL_VERSION",
    "LINE_BYTES_MAX",
    "SWITCHOVER_SECONDS_MAX",
    "Lines",
    "error_line",
    "json_line",
    "number_in",
    "parse_answer",
    "parse_request",
    "version_in",
]

CONTROL_VERSION: Final = 2
LINE_BYTES_MAX: Final = 1 << 16
SWITCHOVER_SECONDS_MAX: Final = 3600


class Lines:
    """Cuts a stream of bytes into lines, each of at most `limit` bytes; `what` names one in the error."""

    def __init__(self, limit: int = LINE_BYTES_MAX, what: str = "bytes of one line") -> None:
        self._limit = limit
        self._what = what
        self._rest = b""

    def take(self, data: bytes) -> list[bytes]:
        """Return the lines that are whole now. Raises LimitExceeded; the stream is useless then."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        longest = max(len(line) for line in (*lines, self._rest))
        if longest > self._limit:
            raise LimitExceeded(self._what, limit=self._limit, wanted=longest)
        return lines


def json_line(value: object) -> bytes:
    """Return a line that says `value`."""
    return json.dumps(value).encode() + b"\n"


def error_line(error: FtvmError) -> bytes:
    """Return the answer to a request that failed."""
    return json_line({"error": {"type": type(error).__name__, "message": str(error)}})


def parse_request(line: bytes) -> dict[str, Any]:
    """Return a request. Raises ConfigError if the line is not one."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(f"a request is one JSON object on a line: {wrong}") from wrong
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise ConfigError('a request is a JSON object with a text under "do"')
    return request


def number_in(request: Mapping[str, Any], name: str, highest: float, *, may_be_0: bool = False) -> float:
    """Return a number of a request; raises ConfigError unless it is one, above 0 and at most `highest`."""
    value = request.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= highest and (value or may_be_0):
        return value
    raise ConfigError(f"{name} {value!r}: write a number {'from' if may_be_0 else 'above'} 0, at most {highest:g}")


def version_in(request: Mapping[str, Any]) -> int:
    """Return the version that the client speaks, 1 if it does not say. Raises ConfigError if it is not a version."""
    version = request.get("speaks", 1)
    if type(version) is not int or version < 1:
        raise ConfigError(f'"speaks" is {version!r}: a version is a whole number, 1 or more')
    return version


def parse_answer(line: bytes) -> Any:
    """Return the result in an answer. Raises the error that it reports, RemoteProtocolError if it is not an answer."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise RemoteProtocolError(f"the host's answer is not JSON: {wrong}") from wrong
    if isinstance(answer, dict) and "ok" in answer:
        return answer["ok"]
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        raise _error_of(answer["error"])
    raise RemoteProtocolError(f"the host's answer is neither a result nor an error: {str(answer)[:200]}")


def _error_of(told: dict[str, Any]) -> FtvmError:
    """Return the error as its own class if that takes a message only, else as BrokenError."""
    name, message = str(told.get("type")), str(told.get("message"))
    kind = getattr(errors, name, None) if name in errors.__all__ else None
    if kind is None or kind.__init__ is not FtvmError.__init__:
        return BrokenError(f"{name}: {message}")
    error: FtvmError = kind(message)
    return error
