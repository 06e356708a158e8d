"""The processes of a stage: hosts by name, with their keys, and the relay between them; started, killed, waited for.

Every wait has a bound; what does not come in time, and a process that ends unasked, is a BrokenError with the last
words of all hosts.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.lab.stage import HOSTS, HostCommands, Stage
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import seconds_to_nanos

__all__ = ["HostProcesses"]

T = TypeVar("T")

_now: Final = MonotonicClock().now

COMMAND_NS: Final = seconds_to_nanos(60)
START_NS: Final = seconds_to_nanos(120)
END_NS: Final = seconds_to_nanos(60)


class HostProcesses:
    """The hosts of one stage. `running` are those that were started and not buried, by name."""

    def __init__(self, children: Children, stage: Stage, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        """`meanwhile` is called again and again while something is waited for."""
        self.running: dict[str, Child] = {}
        self._children = children
        self._stage = stage
        self._meanwhile = meanwhile

    def make_keys(self, commands: HostCommands) -> None:
        """Make the key pair of each host."""
        for host in HOSTS:
            self._children.run(f"keygen {host}", self._stage.keygen_command(commands, host), COMMAND_NS)

    def start(
        self,
        host: str,
        role: str,
        commands: HostCommands,
        on_line: Callable[[JsonLine], None],
        options: Sequence[str] = (),
    ) -> Child:
        """Start a host in a role, with more options than a stage gives it."""
        command = [*self._stage.host_command(commands, host, role), *options]
        self.running[host] = self._children.start(f"host {host}", command, on_line)
        return self.running[host]

    def start_relay(self, delay_ms: float) -> Child:
        """Start the relay between the hosts; it listens when this returns."""
        is_ready: list[JsonLine] = []
        relay = self._children.start("the relay", self._stage.relay_command(delay_ms), is_ready.append, listens=True)
        self.wait_for(lambda: is_ready or None, START_NS, "the relay is ready")
        return relay

    def wait_ended(self, host: str) -> None:
        """Wait until a host is gone that was killed or asked to end; all that it said was heard then."""
        child = self.running.pop(host)
        self.wait_for(lambda: None if child.is_alive else True, END_NS, f"host {host} ends")
        self._children.bury(child)

    def wait_for(self, look: Callable[[], T | None], limit_ns: int, what: str) -> T:
        """Return what `look` finds; see Children.wait_for."""
        return self._children.wait_for(look, limit_ns, what, explain=self.last_words, meanwhile=self._meanwhile)

    def pass_time(self, seconds: float) -> None:
        """Let everything run for a while."""
        ends_at = _now() + seconds_to_nanos(seconds)
        self.wait_for(lambda: _now() >= ends_at or None, seconds_to_nanos(seconds) + END_NS, "time passes")

    def last_words(self) -> str:
        """Return what each host said last."""
        return "\n".join(host.last_words() for host in self.running.values())
