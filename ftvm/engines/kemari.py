"""Kemari: a checkpoint whenever the guest is about to send an output; the guest is paused until it is committed.

There is practically no output buffer: an output leaves as soon as its checkpoint is committed, and the guest does
nothing in between. Between outputs nothing needs to be safe; a checkpoint now and then only bounds what the next one
has to ship.

Source: Tamura, Kemari: virtual machine synchronization for fault tolerance using DomT, Xen Summit 2008 (event-driven
synchronization: checkpoints at output events).
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import check_interval
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Kemari"]

QUIET_INTERVALS: Final = 10
"""Without output, a checkpoint comes after so many intervals."""


@dataclass(frozen=True, slots=True)
class Kemari:
    """Cut at each output. `interval` (seconds) matters only to a guest without outputs: see QUIET_INTERVALS."""

    interval: float = 0.025
    name: ClassVar[str] = "kemari"
    needs: ClassVar[frozenset[Capability]] = frozenset()
    stands_still: ClassVar[bool] = True
    logs: ClassVar[bool] = False
    executes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)

    def next_cut(self, view: EngineView) -> Nanos:
        """Return when the first output that waits for a cut was made, or a while after the last cut if none does."""
        if view.oldest_output_at is not None and not view.epochs_in_flight:
            return view.oldest_output_at
        return Nanos(view.last_cut_at + QUIET_INTERVALS * seconds_to_nanos(self.interval))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the commit of the checkpoint that is cut at this output."""
        del log_index
        return Watermarks(epoch, 0)
