"""What a running host prints: its events and status, for a person or as JSON lines for a program.

JSON lines: {"event": NAME, "time": RFC 3339, ...the fields of that class in ftvm.events...} as each comes, and
{"status": {...}} with the fields of ftvm.runtime.status.Status a few times a second; {"lines_lost": COUNT} in the place
of lines that nobody read in time. Nothing else goes to stdout.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ftvm.cli.logreport import level_of
from ftvm.cli.sentences import EngineWord, describe
from ftvm.events import Committed, CopyProgress, Event, HostFailed, HostStopped
from ftvm.runtime.clock import wall_time
from ftvm.runtime.names import for_people
from ftvm.runtime.status import Status
from ftvm.service.takeoverreport import TakeoverReport

_TO_MILLIS: Final = len("2026-11-30T10:11:12.123")

__all__ = ["JsonReport", "Report", "TextReport", "say_lost_as_json"]


def say_lost_as_json(lines: int) -> str:
    """Return the JSON line that replaces lines that nobody read in time."""
    return json.dumps({"lines_lost": lines})


class Report(Protocol):
    """Takes what happens on a host."""

    def event(self, event: Event) -> None:
        """Report an event."""
        ...

    def status(self, status: Status) -> None:
        """Report where things stand."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class JsonReport:
    """One JSON object a line."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], str] = wall_time) -> None:
        self._out = out or sys.stdout
        self._now = now

    def event(self, event: Event) -> None:
        """Print the event's fields, and the time of day."""
        self._print({"event": type(event).__name__, "time": self._now(), **asdict(event)})

    def status(self, status: Status) -> None:
        """Print the status."""
        self._print({"status": status.as_dict()})

    def close(self) -> None:
        """Nothing to restore."""

    def _print(self, value: object) -> None:
        print(json.dumps(value), file=self._out, flush=True)


class TextReport:
    """Lines for a person, each with the time of day and its level; on a terminal, a bar for the first copy.

    `ftvm` in each tells them from the guest's console, which shares the terminal. Commits are not printed.
    """

    def __init__(self, now: Callable[[], str] = wall_time) -> None:
        self._now = now
        # A line stays a line, however long: a log is searched, and a terminal wraps by itself.
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._last_line = ""
        self._held: HostFailed | None = None
        self._story = TakeoverReport()
        self._engine = EngineWord()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def event(self, event: Event) -> None:
        """Print a line, or move the bar; explain a takeover."""
        explanation = self._story.note(event)
        self._engine.note(event)
        if isinstance(event, CopyProgress):
            self._move_bar(event)
            return
        if isinstance(event, Committed):
            self._end_bar()
            return
        if isinstance(event, HostStopped) and not event.is_in_order:
            return  # the error that ends the command says it
        self._print_held()
        if isinstance(event, HostFailed):
            self._held = event  # if the command ends of it, its error says it
            return
        self._print(level_of(event), describe(event))
        if explanation is not None:
            for word, told in asdict(explanation).items():
                self._print("warning", f"  {word}: {for_people(told)}")

    def status(self, status: Status) -> None:
        """Print what is to be told once, and no status: `ftvm run --json` is for watching closely."""
        self._print_held()
        if (word := self._engine.word(status)) is not None:
            self._print("info", word)

    def close(self) -> None:
        """Take the bar away."""
        self._end_bar()

    def _print(self, level: str, line: str) -> None:
        if line != self._last_line:  # an absent arbiter is asked ten times a second
            self._console.print(f"{self._now()[:_TO_MILLIS]}Z {level:7} ftvm: {line}", markup=False)
        self._last_line = line

    def _print_held(self) -> None:
        if self._held is not None:
            self._print(level_of(self._held), describe(self._held))
        self._held = None

    def _move_bar(self, event: CopyProgress) -> None:
        if not self._console.is_terminal:
            if event.pages_left == 0:
                self._print("info", f"first copy: round {event.round}, {event.pages_sent} pages sent")
            return
        if self._progress is None:
            columns = (TextColumn("first copy, round {task.fields[round]}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, TextColumn("pages"), console=self._console, transient=True)
            self._task = self._progress.add_task("copy", round=event.round)
            self._progress.start()
        if self._task is not None:
            total = event.pages_sent + event.pages_left
            self._progress.update(self._task, completed=event.pages_sent, total=total, round=event.round)

    def _end_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
