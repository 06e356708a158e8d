"""The outputs of an active on their way out: held, let out when the release rule allows, told as released later.

What was let out may still wait in this host and die with it; so the peer is told only a heartbeat afterwards, and until
then each checkpoint carries it again, for a takeover to emit once more.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ftvm.checkpoint import Output, Watermarks
from ftvm.protocol.core import Core
from ftvm.protocol.effects import Release
from ftvm.protocol.output import Gate, Held, standbys_in_force

__all__ = ["Releases"]


@dataclass(slots=True)
class Releases:
    """Decides over `gate`. While `is_held_by_hint` a peer has spoken of a newer record, and nothing leaves."""

    core: Core
    gate: Gate
    is_held_by_hint: bool = False
    _released_then: int = 0
    _untold: deque[Output] = field(default_factory=deque, repr=False)

    def release(self, joining: str | None, acknowledged: tuple[str, Watermarks] | None) -> None:
        """Let all outputs leave that the release rule allows.

        joining       the standby that is being added; acknowledged  what the one in session has, None without a session
        """
        if self.is_held_by_hint:
            return
        standbys = standbys_in_force(self.core.desk.known, self.core.desk.proposal, joining)
        self.let_out(self.gate.open_for(standbys, acknowledged))
        self.core.released = max(self.core.released, self.gate.released)

    def let_out(self, outputs: Iterable[Held]) -> None:
        """Have outputs leave, unless they are known to have left.

        After a takeover, a replay makes outputs again that the active before is known to have released.
        """
        for held in outputs:
            if held.output.number > self.core.released:
                self.core.do(Release(held.output, held.since))
                self._untold.append(held.output)

    def tell(self) -> None:
        """Tell the peer from now on what had been released a heartbeat ago.

        What was let out may still wait in this host and die with it; until then the standby must keep it, also one
        that joins just now.
        """
        # rule: release_told_a_heartbeat_later
        self.core.released_told, self._released_then = self._released_then, self.core.released
        while self._untold and self._untold[0].number <= self.core.released_told:
            self._untold.popleft()

    def above(self, last: int) -> tuple[Output, ...]:
        """Return the outputs after number `last` that are not told as released; some of them may have left."""
        # rule: untold_outputs_carried
        return (*(output for output in self._untold if output.number > last), *self.gate.above(last))

    @property
    def has_untold(self) -> bool:
        """Whether something has been let out that is not told as released."""
        return bool(self._untold)

    @property
    def first_untold(self) -> int:
        """The number of the first output that is not told as released: what a new standby is shipped begins there."""
        return self._untold[0].number if self._untold else self.gate.released + 1  # rule: first_untold_output_shipped

    @property
    def is_stalled(self) -> bool:
        """Whether so much output is held that the guest must not run on."""
        limits = self.core.settings.limits
        return len(self.gate.held) >= limits.outputs_held // 2 or self.gate.held_bytes >= limits.outputs_held_bytes // 2
