"""The gate that no output passes before the state behind it is safe (docs/protocol.md, "The release rule").

An output is held with the watermarks that it needs, and leaves when, in every configuration that may be in force as far
as this replica can know, the standby is none or has acknowledged them. The gate compares watermarks and knows nothing
else: not which engine set them, not how they came to be safe. Outputs leave in the order of their numbers.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ftvm.checkpoint import Output, Watermarks
from ftvm.errors import InternalError
from ftvm.interfaces import Record
from ftvm.units import Nanos

__all__ = ["Gate", "Held", "standbys_in_force"]


def standbys_in_force(known: Record, proposal: Record | None, joining: str | None) -> frozenset[str | None]:
    """Return every standby that an active must obey now.

    known     the last record it knows
    proposal  its own, not yet resolved: it may be in force
    joining   a standby that it is about to propose: obeyed from before the proposal on (docs/protocol.md, "ADD")
    """
    standbys = {known.standby}  # rule: known_standby_obeyed
    if proposal is not None:  # rule: proposal_obeyed
        standbys.add(proposal.standby)
    if joining is not None:  # rule: joining_standby_obeyed
        standbys.add(joining)
    return frozenset(standbys)


@dataclass(frozen=True, slots=True)
class Held:
    """An output that waits, for what, and since when."""

    output: Output
    needs: Watermarks
    since: Nanos


@dataclass(slots=True)
class Gate:
    """Holds outputs in order; `released` is the highest number that has left."""

    released: int
    held: deque[Held] = field(default_factory=deque)
    held_bytes: int = 0

    def hold(self, output: Output, needs: Watermarks, now: Nanos) -> None:
        """Take one more output; its number must follow the last one."""
        last = self.held[-1].output.number if self.held else self.released
        if output.number != last + 1:
            raise InternalError(f"output {output.number} was emitted after {last}")
        self.held.append(Held(output, needs, now))
        self.held_bytes += len(output.payload)

    def open_for(self, standbys: Iterable[str | None], acknowledged: tuple[str, Watermarks] | None) -> list[Held]:
        """Take out what may leave now, in order.

        standbys      from `standbys_in_force`
        acknowledged  the one standby in session and what it has acknowledged in that session; None without a session
        """
        must = [standby for standby in standbys if standby is not None]
        if acknowledged is None:
            return [] if must else self._take(len(self.held))
        standby, safe = acknowledged
        if any(other != standby for other in must):
            return []
        if not must:
            return self._take(len(self.held))
        ready = 0
        for held in self.held:
            if not safe.cover(held.needs):  # rule: held_until_acknowledged
                break
            ready += 1
        return self._take(ready)

    def above(self, number: int) -> tuple[Output, ...]:
        """Return the outputs held whose number is above `number`."""
        return tuple(held.output for held in self.held if held.output.number > number)

    def since(self, number: int) -> Nanos | None:
        """Return when the first output held whose number is `number` or above was taken; None if there is none."""
        if not self.held or self.held[-1].output.number < number:
            return None
        return self.held[max(0, number - self.held[0].output.number)].since  # numbers follow each other without gaps

    def _take(self, count: int) -> list[Held]:
        taken = [self.held.popleft() for _ in range(count)]
        if taken:
            self.released = taken[-1].output.number
            self.held_bytes -= sum(len(held.output.payload) for held in taken)
        return taken
