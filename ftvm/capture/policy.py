"""Fused or staged: which way to capture the next epoch, from how long the pauses were and how long they may be.

Fused capture costs least CPU, but all of it inside the pause; staged capture pauses for the copy only, and pays the
rest afterwards. So: fused while it keeps the pause within the target, staged above. A pure value that learns from
measurements; it knows no clock. Source: bench/capture.py.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from ftvm.units import Nanos

__all__ = ["CapturePolicy", "Way"]

_WEIGHT: Final = 0.2
"""How much one measurement moves an average."""

_PAGES_MIN: Final = 32
"""Smaller captures measure the price of the call, not of a page."""


class Way(Enum):
    """How to capture."""

    FUSED = "fused"
    STAGED = "staged"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePolicy:
    """What a page costs each way, in nanoseconds of pause, and the pause that is wanted at most."""

    pause_target_ns: Nanos = Nanos(2_000_000)
    fused_page_ns: float = 600.0
    staged_page_ns: float = 350.0
    staged_pages_max: int = 1 << 16
    """What the staging copy has room for: above it, only fused capture is possible."""

    def choose(self, dirty_pages: int) -> Way:
        """Return how to capture so many pages."""
        if dirty_pages > self.staged_pages_max or dirty_pages * self.fused_page_ns <= self.pause_target_ns:
            return Way.FUSED
        return Way.STAGED

    def measured(self, way: Way, *, pages: int, pause_ns: Nanos) -> "CapturePolicy":
        """Note how long the guest stood still for a capture of so many pages."""
        if pages < _PAGES_MIN:
            return self
        page_ns = pause_ns / pages
        if way is Way.FUSED:
            return replace(self, fused_page_ns=_moved(self.fused_page_ns, page_ns))
        return replace(self, staged_page_ns=_moved(self.staged_page_ns, page_ns))

    def expected_pause_ns(self, dirty_pages: int) -> Nanos:
        """Return how long the guest will stand still for so many pages, the way that `choose` picks."""
        page_ns = self.fused_page_ns if self.choose(dirty_pages) is Way.FUSED else self.staged_page_ns
        return Nanos(round(dirty_pages * page_ns))


def _moved(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average)
