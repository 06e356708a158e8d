"""A host's log as JSON lines, for log collectors: one object per event.

    time     RFC 3339, UTC
    level    debug, info, warning or error
    guest    the guest's name in the record
    event    the name of a class in ftvm.events; Takeover, GuestLost or EngineInForce; LinesLost, in the place of
             lines that nobody read in time
    message  the line that a person would have read
    ...      the fields of the event

After a TookOver comes a Takeover, which explains it in order: `seen`, `decided`, `cost`. At the host that lost the
guest to a takeover a GuestLost does the same.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Final, TextIO

from ftvm.cli.sentences import EngineWord, describe
from ftvm.events import (
    ArbiterTrouble,
    Committed,
    ConnectionRefused,
    CopyProgress,
    Diverged,
    Event,
    GuestWarned,
    HostFailed,
    HostServiceFailed,
    HostStalled,
    JoinRefused,
    JoinUnanswered,
    PeerMisbehaved,
    PlacesDiffer,
    SessionEnded,
    Solo,
    Suspected,
    TookOver,
)
from ftvm.runtime.clock import wall_time
from ftvm.runtime.names import for_people
from ftvm.runtime.status import Status
from ftvm.service.outlet import say_lost
from ftvm.service.takeoverreport import TakeoverReport

__all__ = ["LogReport", "level_of", "say_lost_in_log"]

_WARNINGS: Final = (
    ArbiterTrouble,
    HostServiceFailed,
    ConnectionRefused,
    GuestWarned,
    HostStalled,
    JoinRefused,
    JoinUnanswered,
    PeerMisbehaved,
    PlacesDiffer,
    SessionEnded,
    Solo,
    Suspected,
    TookOver,
)


class LogReport:
    """Keeps cli.report.Report. Commits are not logged: there are forty a second."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], str] = wall_time) -> None:
        self._out = out or sys.stderr
        self._now = now
        self._story = TakeoverReport()
        self._engine = EngineWord()
        self._last = ("", "")

    def event(self, event: Event) -> None:
        """Log what happened, and explain a takeover."""
        explanation = self._story.note(event)
        self._engine.note(event)
        if isinstance(event, Committed):
            return
        name, message = type(event).__name__, describe(event)
        if (name, message) != self._last:
            told = asdict(event)
            guest = {"guest": told.pop("guest_id")}
            self._log(level_of(event), guest, name, {"message": message, **told})
        self._last = (name, message)
        if explanation is not None:
            facts = asdict(explanation)
            message = f"seen: {explanation.seen}; decided: {explanation.decided}; cost: {explanation.cost}"
            name = "Takeover" if isinstance(event, TookOver) else "GuestLost"
            self._log("warning", {"guest": event.guest_id}, name, {"message": for_people(message), **facts})

    def status(self, status: Status) -> None:
        """Say what is to be told once, and nothing else: metrics and `ftvm top` are for that."""
        if (word := self._engine.word(status)) is not None:
            known = {name: getattr(status, name) for name in ("engine", "interval_ms", "engine_settings")}
            facts: dict[str, object] = {"message": word, **known}
            self._log("info", {"guest": status.guest_id}, "EngineInForce", facts)

    def close(self) -> None:
        """Nothing to restore."""

    def _log(self, level: str, guest: dict[str, str], event: str, facts: dict[str, object]) -> None:
        print(json.dumps({"time": self._now(), "level": level, **guest, "event": event, **facts}), file=self._out)
        self._out.flush()


def say_lost_in_log(guest_id: str, lines: int) -> str:
    """Return the log line that replaces lines that nobody read in time."""
    told = {"time": wall_time(), "level": "warning", "guest": guest_id, "event": "LinesLost", "lines": lines}
    return json.dumps({**told, "message": say_lost(lines)})


def level_of(event: Event) -> str:
    """Return the log level of an event."""
    if isinstance(event, HostFailed | Diverged):
        return "error"
    if isinstance(event, _WARNINGS):
        return "warning"
    return "debug" if isinstance(event, Committed | CopyProgress) else "info"
