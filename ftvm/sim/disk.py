"""The disk of a simulated host: what was committed is on its device at once or, while that is stalled, later."""

from collections.abc import Callable

from ftvm.sim.guest import SimGuest

__all__ = ["SimDisk"]


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
        is_durable: Callable[[str, int], None],
        later: Callable[[int, Callable[[], None]], None],
    ) -> None:
        """`standing` returns the replica and the epoch committed, `is_durable` is told of these, `later` does something
        so long after."""
        self.stall_ns = 0
        self.was_flushed = False
        self._guest = guest
        self._standing, self._is_durable, self._later = standing, is_durable, later

    def take_flush(self) -> bool:
        """See interfaces.DiskKeeper."""
        taken = self._guest.take_flush()
        self.was_flushed |= taken
        return taken

    def persist(self, then: Callable[[str | None], None]) -> None:
        """See interfaces.DiskKeeper."""
        replica, epoch = self._standing()

        def done() -> None:
            self._is_durable(replica, epoch)
            then(None)

        if self.stall_ns:
            self._later(self.stall_ns, done)
        else:
            done()
