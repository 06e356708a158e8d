"""The disk of a simulated host: what was committed is on its device at once or, while that is stalled, later.

So is what its guest flushes, which goes on behind that; but for one that is covered, which goes on at once.
"""

from collections.abc import Callable
from typing import Final

from ftvm.sim.checkers import FlushChecker
from ftvm.sim.guest import SimGuest

__all__ = ["SimDisk"]

BEHIND_NS: Final = 300_000_000
"""A device that is covered has what was flushed so long ago, unless it is stalled."""
SYNC_NS: Final = 3_000_000


class SimDisk:
    """Keeps one host's disk; an interfaces.DiskKeeper.

    stall_ns     how long the device takes for what it is asked from now on
    was_flushed  whether the guest has flushed since the last cut
    """

    def __init__(
        self,
        guest: SimGuest,
        *,
        standing: Callable[[], tuple[str, int]],
        checker: FlushChecker,
        later: Callable[[int, Callable[[], None]], None],
    ) -> None:
        """`standing` returns the replica and the epoch committed, `later` does something so long after."""
        self.stall_ns = 0
        self.was_flushed = False
        self._guest = guest
        self._standing, self._checker, self._later = standing, checker, later
        self._is_covered, self._is_behind = False, False
        guest.on_flushed = self._flushed

    def take_flush(self) -> bool:
        """See interfaces.DiskKeeper."""
        taken = self._guest.take_flush()
        self.was_flushed |= taken
        return taken

    def persist(self, then: Callable[[str | None], None]) -> None:
        """See interfaces.DiskKeeper."""
        replica, epoch = self._standing()
        step = self._guest.position.retired

        def done() -> None:
            self._checker.is_durable(replica, epoch)
            self._checker.is_settled(replica, step)
            then(None)

        if self.stall_ns:
            self._later(self.stall_ns, done)
        else:
            done()

    def cover(self, *, is_covered: bool) -> None:
        """See interfaces.DiskKeeper."""
        was_covered, self._is_covered = self._is_covered, is_covered
        if was_covered and not is_covered:
            self._settle_in(SYNC_NS)

    def _flushed(self, step: int) -> None:
        """The guest has flushed in a step. Unless it is covered, it has waited until all was there."""
        if not self._is_covered:
            self._checker.is_settled(self._standing()[0], step)
        elif not self._is_behind:
            self._is_behind = True
            self._settle_in(BEHIND_NS)

    def _settle_in(self, delay_ns: int) -> None:
        replica = self._standing()[0]

        def settle() -> None:
            self._is_behind = False
            self._checker.is_settled(replica, step)

        step = self._guest.position.retired
        self._later(delay_ns + self.stall_ns, settle)
