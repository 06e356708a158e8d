"""Lockstep: the backup executes the same inputs at the same positions; only the log is shipped, and compared at marks.

After the first copy no page travels. Outputs wait for the log alone. At each mark both sides compare the digests of
their memories and their device states: a difference ends the session, and the backup starts again with a fresh copy.

Source: Bressoud & Schneider, Hypervisor-based fault tolerance, 1996, section 2; Scales et al., The design of a
practical system for fault-tolerant virtual machines, 2010, section 2.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import check_interval
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Lockstep"]

ROUND_TRIP_NS_MAX: Final = 1_000_000_000
"""Where heartbeats take longer, the guest waits: marks that the peer alone spaces would bound nothing."""


@dataclass(frozen=True, slots=True)
class Lockstep:
    """Set a mark every `interval` seconds, or further apart where the backup is so far away that the last mark's answer
    could not come before the next one. The guest waits when the backup is two marks behind: that bounds its lag."""

    interval: float = 0.1
    name: ClassVar[str] = "lockstep"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REPLAY})
    stands_still: ClassVar[bool] = False
    stops_at_output: ClassVar[bool] = False
    logs: ClassVar[bool] = True
    executes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)

    def next_cut(self, view: EngineView) -> Nanos:
        """Return the last mark's time plus the interval, or what a round trip asks for."""
        round_trip_ns = min(view.round_trip_ns, ROUND_TRIP_NS_MAX)
        return Nanos(view.last_cut_at + max(seconds_to_nanos(self.interval), round_trip_ns * 5 // 4))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the log up to the output's own record."""
        del epoch
        return Watermarks(0, log_index)
