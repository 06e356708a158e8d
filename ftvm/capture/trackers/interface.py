"""What a tracker is: the dirty half of a Guest, apart from it, so that guests can share it."""

from typing import Protocol

from ftvm.checkpoint import Bitmap

__all__ = ["Tracker"]


class Tracker(Protocol):
    """Knows which pages were written. Its first `collect` reports at least every page that is not zero."""

    @property
    def name(self) -> str:
        """Its name in configuration and messages."""

    def collect(self) -> Bitmap:
        """Get and clear the set of pages written since the last call, or more; the writers stand still.

        Raises TrackingLost if it cannot tell; never returns less.
        """

    def restore(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected: the next `collect` reports it again."""

    def close(self) -> None:
        """Stop tracking and give back what it holds. Idempotent."""
