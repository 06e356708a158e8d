"""All that a fault, or an operator, can see of a simulated world and do to it.

faults.py, operator.py, stops.py and plan.py know the world by this alone; simulation.py and host.py are it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ftvm.interfaces import Engine, Record, Sign
from ftvm.protocol.view import Role, View
from ftvm.sim.rng import Rng
from ftvm.units import Nanos

__all__ = ["Act", "HostPort", "Test", "WorldPort"]


class HostPort(Protocol):
    """One host: `address` is where it listens, `name` its present incarnation, `ids` the replica ids it ever had."""

    address: str
    name: str
    ids: set[str]

    @property
    def view(self) -> View:
        """What could be seen of its replica after its last step."""
        ...

    @property
    def role(self) -> Role:
        """Its replica's role."""
        ...

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether it is neither dead nor paused."""
        ...

    @property
    def is_leaving(self) -> bool:
        """Whether it was asked to stop, or has to, and is not done with it."""
        ...

    @property
    def outcome(self) -> tuple[str, bool] | None:
        """What came of a stop, and whether it was in order; None if there was none, or it is not over."""
        ...

    def pause(self, length_ns: int) -> None:
        """Stop its process for a while."""
        ...

    def hang(self, length_ns: int) -> None:
        """Keep its loop busy for a while; its heart beats on."""
        ...

    def kill_guest(self) -> None:
        """Make the guest that runs here fail, like a killed QEMU."""
        ...

    def stall_disk(self, stall_ns: int, length_ns: int) -> None:
        """Make its disk slow for a while: so long for what it is to have on its device."""
        ...

    def switch_over(self, limit_ns: Nanos) -> None:
        """Ask it to hand the guest over."""
        ...

    def set_engine(self, engine: Engine) -> None:
        """Change the engine of its guest."""
        ...

    def stop(self) -> None:
        """Ask it to stop cleanly."""
        ...

    def end_guest(self) -> None:
        """End the guest that runs here for good, on all hosts."""
        ...


class WorldPort(Protocol):
    """The world: its hosts by address, and the arbiter's record. While it `is_calm` nothing befalls it.

    `halts_alone` tells whether a guest stands still without its standby, which the record goes on naming.
    """

    seed: int
    is_calm: bool
    halts_alone: bool

    @property
    def hosts(self) -> Mapping[str, HostPort]:
        """The present incarnation at each address."""
        ...

    @property
    def record(self) -> Record:
        """The arbiter's."""
        ...

    def active(self) -> HostPort | None:
        """Return the host where the guest runs by the arbiter's word, if it is up."""
        ...

    def can_spare(self, address: str) -> bool:
        """Tell whether the guest would live on if this host, which is alive, died now."""
        ...

    def trace(self, line: str) -> None:
        """Keep a line of the trace, if one is wanted."""
        ...

    def after(self, delay_ns: int, act: Callable[[], None]) -> None:
        """Do something later."""
        ...

    def play(self, length_ns: int) -> None:
        """Let time go on."""
        ...

    def kill(self, address: str, back_after_ns: int) -> None:
        """End a host, and start it again so long after."""
        ...

    def mislead(self, address: str, place: str, back_after_ns: int) -> None:
        """Start a host that is no member again with an arbiter of another place; after a while again with the right
        one."""
        ...

    def cut(self, pairs: Sequence[tuple[str, str]], length_ns: int) -> None:
        """Let nothing pass, from the first to the second of each pair; after a while every link is whole again."""
        ...

    def reset(self, false_answers: Sequence[Sign]) -> None:
        """Reset all connections, as a firewall does; the next who ask who lives are given these answers."""
        ...

    def take_arbiter_down(self, length_ns: int) -> None:
        """Make the arbiter unreachable for a while."""
        ...

    def slow_disk(self, disk_ns: int, length_ns: int) -> None:
        """Make each write of the arbiter take this long for a while."""
        ...


Act = Callable[[WorldPort, Rng], None]
Test = Callable[[WorldPort], bool]
