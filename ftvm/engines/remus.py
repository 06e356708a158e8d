"""Remus: checkpoints at a fixed interval while the guest runs on, outputs held until their epoch is committed.

Source: Cully et al., Remus, NSDI 2008, sections 3.1 and 3.2 (speculative execution with asynchronous commit).
"""

from dataclasses import dataclass
from typing import ClassVar

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import check_interval
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Remus"]


@dataclass(frozen=True, slots=True)
class Remus:
    """Cut every `interval` seconds: half of it, plus the time to commit, is what an output waits for on average."""

    interval: float = 0.025
    name: ClassVar[str] = "remus"
    needs: ClassVar[frozenset[Capability]] = frozenset()
    stands_still: ClassVar[bool] = False
    logs: ClassVar[bool] = False
    executes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)

    def next_cut(self, view: EngineView) -> Nanos:
        """Return the last cut's time plus the interval."""
        return Nanos(view.last_cut_at + seconds_to_nanos(self.interval))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the commit of the epoch in which the output was emitted."""
        del log_index
        return Watermarks(epoch, 0)
