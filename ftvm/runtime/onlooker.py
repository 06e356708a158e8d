"""Shows a backup's commits to whoever looks on, once their acknowledgement is on its way.

What is committed in one step of the driver is shown together, at its end; what the guest is about to change is shown
before it does.
"""

from collections.abc import Sequence
from typing import Protocol

from ftvm.checkpoint import Commit
from ftvm.protocol.effects import ShowCommit

__all__ = ["CommitObserver", "Onlooker"]


class CommitObserver(Protocol):
    """Looks on as a backup commits. Called in the host's thread: never blocks, never raises, and takes microseconds.

    The checkpoints stay as they are for as long as somebody holds them.
    """

    def committed(self, commits: Sequence[Commit]) -> None:
        """Note these epochs, in order. Their acknowledgement is on its way; all that this host has committed is told.

        The memory holds exactly the last of them, until this host commits again, or `ended` is called. A guest that
        executes the log (lockstep) is led on in it as soon as this returns: the next commit names all that it wrote.
        """

    def ended(self) -> None:
        """Note that from now on the memory is no longer what was committed last: the guest runs in it."""


class Onlooker:
    """Holds the commits of one step, if anybody looks on. `held` is what is still to be shown."""

    def __init__(self, observer: CommitObserver | None) -> None:
        self.held: list[Commit] = []
        self._observer = observer

    def keep(self, effect: ShowCommit) -> None:
        """Take a commit."""
        self.held.append(effect.commit)

    def show(self) -> None:
        """Show what was committed."""
        held, self.held = self.held, []
        if held and self._observer is not None:
            self._observer.committed(held)

    def end(self) -> None:
        """Show what was committed, and say that it is over: the guest is about to run in this memory."""
        self.show()
        if self._observer is not None:
            self._observer.ended()
