"""A pair of real processes for the soaks and a few tests: what both told, counted by the name of the event."""

import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftvm.lab.hostprocesses import HostProcesses
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Children
from ftvm.lab.stage import HostCommands, Stage
from ftvm.units import seconds_to_nanos

__all__ = ["BAD", "SoakPair", "soak_pair"]

START_NS = seconds_to_nanos(120)
BAD = ("TookOver", "Solo", "Suspected", "SessionEnded")
"""What a pair that nobody harms must not tell."""
TOLD_KEPT = 100
BUSY = "while True: pass"


class SoakPair:
    """Host A, started as primary, host B, and a relay.

    told   counts the events of both hosts, by name
    pages  that A's checkpoints took
    """

    def __init__(
        self, folder: Path, children: Children, commands: HostCommands, options: tuple[str, ...], *, has_relay: bool
    ) -> None:
        self.told: Counter[str] = Counter()
        self.pages = 0
        self.bad: deque[JsonLine] = deque(maxlen=TOLD_KEPT)
        self._options = options
        self._commands = commands
        self._hosts = HostProcesses(children, Stage.prepare(folder, has_relay=has_relay))
        self._hosts.make_keys(commands)
        self._relay = self._hosts.start_relay(0) if has_relay else None
        self._start("A", "primary")
        self._start("B", "standby")
        self.wait_until(lambda: bool(self.told["Protected"]), "the guest is protected")

    def reset(self) -> None:
        """Reset every connection of the pair, as a firewall does."""
        if self._relay is not None:
            self._relay.tell({"reset": True})

    def _start(self, host: str, role: str) -> None:
        options = [option.replace("{host}", host) for option in self._options]
        self._hosts.start(host, role, self._commands, lambda line: self._on_line(host, line), options)

    def _on_line(self, host: str, line: JsonLine) -> None:
        name = line.get("event")
        if name is not None:
            self.told[name] += 1
        pages = line.get("dirty_pages")
        if host == "A" and isinstance(pages, int):
            self.pages += pages
        if name in BAD:
            self.bad.append({"host": host, **line})

    @property
    def harm(self) -> dict[str, int]:
        """What was told that must not be, and how often."""
        return {name: self.told[name] for name in BAD if self.told[name]}

    def wait_until(self, is_true: Callable[[], bool], what: str) -> None:
        """Listen until it is true; raises BrokenError if that takes too long, or a process ends."""
        self._hosts.wait_for(lambda: is_true() or None, START_NS, what)

    def pass_time(self, seconds: float) -> None:
        """Listen for so long; raises BrokenError if a process ends."""
        self._hosts.pass_time(seconds)

    def kill(self, host: str) -> None:
        """End a host's process at once and without warning."""
        self._hosts.running[host].kill()


@contextmanager
def soak_pair(
    *options: str, load: int = 0, has_relay: bool = True, commands: HostCommands | None = None
) -> Iterator[SoakPair]:
    """Give a protected pair beside `load` processes that only compute; all of them end with the context.

    options  of both hosts; {host} in one stands for A or B
    """
    children = Children()
    with tempfile.TemporaryDirectory(prefix="ftvm-soak-") as folder:
        try:
            for number in range(load):
                children.start(f"load {number}", [sys.executable, "-c", BUSY], _ignore)
            yield SoakPair(Path(folder), children, commands or HostCommands(), options, has_relay=has_relay)
        finally:
            children.close()


def _ignore(line: JsonLine) -> None:
    del line
