"""Child processes that talk JSON lines, for programs that play several hosts on one machine.

`Children` starts them, reads what they print without ever blocking, and ends them all: after `close` none is left, and
if this process itself is killed, the kernel ends them. Each line of standard output that is a JSON object goes to the
child's listener; of everything else the last lines are kept, to explain why it ended.
Knows nothing of what the lines mean.
"""

import ctypes
import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from ftvm.errors import BrokenError
from ftvm.lab.lines import JsonLine, object_in
from ftvm.runtime.clock import MonotonicClock
from ftvm.service.requests import Lines, json_line
from ftvm.units import nanos_to_seconds, seconds_to_nanos

__all__ = ["Child", "Children", "NotInTime"]

_now: Final = MonotonicClock().now

T = TypeVar("T")

READ_BYTES: Final = 1 << 16
READS_PER_PUMP: Final = 16
PUMP_NS: Final = seconds_to_nanos(0.05)
LINE_BYTES_MAX: Final = 1 << 20
LAST_WORDS_KEPT: Final = 12
STOP_NS: Final = seconds_to_nanos(3)
"""How long children have to end by themselves before they are killed."""

PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class NotInTime(BrokenError):
    """Something did not happen within its time: a busy machine, or a host that hangs; nobody knows which."""


class Child:
    """One running process. Made by `Children.start`."""

    def __init__(self, name: str, command: Sequence[str], on_line: Callable[[JsonLine], None], stdin: int) -> None:
        self.name = name
        self.is_expected_to_end = False
        self._on_line = on_line
        self._lines = {stream: Lines(LINE_BYTES_MAX, f"a line of {name}") for stream in ("stdout", "stderr")}
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS_KEPT)
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the program that started it; that ends its children in order
            preexec_fn=_die_with_parent,
        )

    @property
    def is_alive(self) -> bool:
        """Tell whether it still runs."""
        return self.process.poll() is None

    def tell(self, line: Mapping[str, object]) -> None:
        """Write a JSON line to its standard input. Raises BrokenError if it no longer listens."""
        stdin = self.process.stdin
        if stdin is None:
            raise BrokenError(f"{self.name} was started without a standard input")
        try:
            stdin.write(json_line(line))
        except OSError as error:
            raise BrokenError(f"{self.name} no longer listens: {error}\n{self.last_words()}") from error

    def kill(self) -> None:
        """Kill it and all that it started, at once and without warning, and wait until it is gone."""
        self.is_expected_to_end = True
        self._signal(signal.SIGKILL)
        self.process.wait()

    def kill_children(self) -> None:
        """Kill the processes that it has started, at once and without warning; itself it goes on."""
        children: list[str] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # a thread that has ended meanwhile
                children += (task / "children").read_text().split()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it, like a paused host: it notices nothing until `wake`."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        self.is_expected_to_end = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_alive:
            return
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return  # it ended between the question and the signal

    def last_words(self) -> str:
        """Return the last lines that it printed for people."""
        status = "still runs" if self.is_alive else _how_it_ended(self.process.returncode)
        return "\n".join([f"{self.name} {status}; it said last:", *(f"  {line}" for line in self._last_words)])

    def take(self, stream: str, data: bytes) -> None:
        """Take what came from one of its streams and hand on each whole line."""
        for line in self._lines[stream].take(data):
            parsed = object_in(line) if stream == "stdout" else None
            if parsed is not None:
                self._on_line(parsed)
            elif line.strip():
                self._last_words.append(line.decode(errors="replace"))

    def give_back(self) -> None:
        """Close its pipes. Only once it ended."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Children:
    """All children of one program. Thread-free: `pump` reads what is there."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()

    def start(
        self, name: str, command: Sequence[str], on_line: Callable[[JsonLine], None], *, listens: bool = False
    ) -> Child:
        """Start a process; `listens` gives it a standard input to `tell` it things. Raises BrokenError."""
        try:
            child = Child(name, command, on_line, subprocess.PIPE if listens else subprocess.DEVNULL)
        except OSError as error:
            raise BrokenError(f"{name} cannot be started: {error}") from error
        self._children.append(child)
        for stream, pipe in (("stdout", child.process.stdout), ("stderr", child.process.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, (child, stream))
        return child

    def pump(self, timeout_ns: int) -> None:
        """Wait for output of children, at most this long, and hand it on."""
        for key, _ in self._selector.select(nanos_to_seconds(timeout_ns)):
            child, stream = key.data
            for _ in range(READS_PER_PUMP):
                data = _read(key.fd)
                if data is None:
                    break
                if not data:
                    self._selector.unregister(key.fileobj)
                    break
                child.take(stream, data)

    def check(self) -> None:
        """Raise BrokenError, with its last words, if a child ended unasked."""
        for child in self._children:
            if not child.is_alive and not child.is_expected_to_end:
                self.pump(0)
                raise BrokenError(child.last_words())

    def wait_for(
        self,
        look: Callable[[], T | None],
        limit_ns: int,
        what: str,
        *,
        explain: Callable[[], str] = lambda: "",
        meanwhile: Callable[[], None] = lambda: None,
    ) -> T:
        """Return what `look` finds, as soon as it finds something; until then call `meanwhile` again and again.

        Raises NotInTime, with what `explain` returns, if it takes longer than the limit; or as `check` does.
        """
        ends_at = _now() + limit_ns
        while (found := look()) is None:
            if _now() >= ends_at:
                waited = f"waited {nanos_to_seconds(limit_ns):g} s in vain until {what}"
                raise NotInTime("\n".join(filter(None, [waited, explain()])))
            self.pump(PUMP_NS)
            self.check()
            meanwhile()
        return found

    def run(self, name: str, command: Sequence[str], timeout_ns: int) -> None:
        """Run a process to its end. Raises BrokenError, with its last words, if it fails or takes too long."""
        child = self.start(name, command, lambda _: None)
        child.is_expected_to_end = True
        ends_at = _now() + timeout_ns
        while child.is_alive and _now() < ends_at:
            self.pump(seconds_to_nanos(0.02))
        self.pump(0)
        has_failed = child.is_alive or child.process.returncode != 0
        last_words = child.last_words()
        self.bury(child)
        if has_failed:
            raise BrokenError(last_words)

    def bury(self, child: Child) -> None:
        """Give back what an ended child still holds, so that a long run can go through any number of them."""
        child.kill()
        self.pump(0)
        for pipe in (child.process.stdout, child.process.stderr):
            if pipe is not None and pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        child.give_back()
        self._children.remove(child)

    def end_now(self) -> None:
        """Kill all children, frozen ones too."""
        for child in self._children:
            child.kill()

    def close(self) -> None:
        """End all children, gently if they let us, and give back their pipes. Idempotent."""
        for child in self._children:
            child.ask_to_end()
        kill_at = _now() + STOP_NS
        while any(child.is_alive for child in self._children) and _now() < kill_at:
            self.pump(seconds_to_nanos(0.02))  # a child that waits for its pipe to drain could not end
        for child in self._children:
            child.kill()
            child.give_back()
        self._children.clear()
        self._selector.close()


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _how_it_ended(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
