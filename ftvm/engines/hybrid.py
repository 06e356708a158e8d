"""Hybrid: outputs wait only for the log; checkpoints at an interval bound the replay at a takeover.

The guest's inputs are logged with the exact positions at which it took them. An output may leave once the log up to it
is safe on the backup: a takeover loads the last checkpoint and replays the log, and so comes to the same output again.

Source: Zhou et al., HyCoR: fault-tolerant replicated containers based on checkpoint and replay, 2021, section III.
"""

from dataclasses import dataclass
from typing import ClassVar

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import check_interval
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Hybrid"]


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Cut every `interval` seconds; at most two intervals are replayed at a takeover."""

    interval: float = 0.1
    name: ClassVar[str] = "hybrid"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REPLAY})
    stands_still: ClassVar[bool] = False
    stops_at_output: ClassVar[bool] = False
    logs: ClassVar[bool] = True
    executes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)

    def next_cut(self, view: EngineView) -> Nanos:
        """Return the last cut's time plus the interval."""
        return Nanos(view.last_cut_at + seconds_to_nanos(self.interval))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the log up to the output's own record."""
        del epoch
        return Watermarks(0, log_index)
