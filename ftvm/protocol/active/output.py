"""The outputs of an active on their way out: held, let out when that is safe, told as released later.

No output leaves before the state behind it is safe (docs/protocol.md, "The release rule"). It is held with the
watermarks that it needs, and leaves when, in every configuration that may be in force as far as this replica can know,
there is no standby, or it has acknowledged them (`ActiveState.release`). The buffer does not know which engine set the
watermarks, nor how they came to be safe. Outputs leave in the order of their numbers.

What was let out may still wait in this host and die with it; so the peer is told only a heartbeat afterwards, and until
then each checkpoint carries it again, for a takeover to emit once more.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ftvm.checkpoint import Output, OutputTable, Watermarks
from ftvm.errors import InternalError
from ftvm.protocol.core import Core
from ftvm.protocol.effects import Announce
from ftvm.units import Nanos

__all__ = ["Announcer", "Held", "OutputBuffer", "Releases"]


@dataclass(frozen=True, slots=True)
class Held:
    """Outputs that wait together, at least one, for what, and since when."""

    outputs: OutputTable
    needs: Watermarks
    since: Nanos


@dataclass(slots=True)
class OutputBuffer:
    """Holds outputs in order, `count` of them; `released` is the highest number that has left."""

    released: int
    held: deque[Held] = field(default_factory=deque)
    count: int = 0
    held_bytes: int = 0

    def hold(self, outputs: Sequence[Output], needs: Watermarks, now: Nanos) -> None:
        """Take outputs more, at least one; their numbers must follow the last one."""
        last = self.held[-1].outputs.last if self.held else self.released
        table = outputs if isinstance(outputs, OutputTable) else OutputTable.of(outputs)
        if table.first != last + 1:
            raise InternalError(f"output {table.first} was emitted after {last}")
        self.held.append(Held(table, needs, now))
        self.count += table.last - last
        self.held_bytes += len(table.payloads)


@dataclass(slots=True)
class Releases:
    """What has left of `outputs`. While `is_held_by_hint` a peer has spoken of a newer record, and nothing leaves.

    `untold` has been let out, and is not told as released.
    """

    core: Core
    outputs: OutputBuffer
    is_held_by_hint: bool = False
    _released_then: int = 0
    untold: deque[OutputTable] = field(default_factory=deque, repr=False)

    def tell(self) -> None:
        """Tell the peer from now on what had been released a heartbeat ago.

        What was let out may still wait in this host and die with it; until then the standby must keep it, also one
        that joins just now.
        """
        # rule: release_told_a_heartbeat_later
        self.core.released_told, self._released_then = self._released_then, self.core.released
        told, untold = self.core.released_told, self.untold
        while untold and untold[0].last <= told:
            untold.popleft()
        if untold and untold[0].first <= told:
            untold[0] = untold[0].behind(told)

    @property
    def first_untold(self) -> int:
        """The number of the first output that is not told as released: what a new standby is shipped begins there."""
        # rule: first_untold_output_shipped
        return self.untold[0].first if self.untold else self.outputs.released + 1


@dataclass(slots=True)
class Announcer:
    """Announces the guest's address when it has come to this host, and a few times more.

    Late frames of the old host may mislead the switches again after the first announcement. `due_at` is when the
    next one is due, None if none will come.
    """

    core: Core
    due_at: Nanos | None = None
    _left: int = 0

    def begin(self, now: Nanos) -> None:
        """Announce now, and as often again as configured."""
        self._left = self.core.settings.timing.announce_count
        self._announce(now)

    def tick(self, now: Nanos) -> None:
        """Announce again if that is due."""
        if self.due_at is not None and now >= self.due_at:
            self._announce(now)

    def _announce(self, now: Nanos) -> None:
        self.core.do(Announce())
        self._left -= 1
        self.due_at = Nanos(now + self.core.settings.timing.announce_interval_ns) if self._left > 0 else None
