"""Kemari: a checkpoint whenever the guest is about to send an output; the guest is paused until it is committed.

There is practically no output buffer: an output leaves as soon as its checkpoint is committed, and the guest does
nothing in between. Between outputs nothing needs to be safe; a checkpoint now and then only bounds what the next one
has to ship.

With `group` it is no longer strict: the first output that waits for a cut waits for others, and they share it. The
guest runs on meanwhile, so outputs are buffered for so long, and a takeover repeats all of the last cut.

Source: Tamura, Kemari: virtual machine synchronization for fault tolerance using DomT, Xen Summit 2008 (event-driven
synchronization: checkpoints at output events).
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import check_interval, millis
from ftvm.errors import ConfigError
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["Kemari"]

QUIET_INTERVALS: Final = 10
"""Without output, a checkpoint comes after so many intervals."""

GROUP_MAX: Final = 0.1
"""In seconds. An output that is to wait longer needs an interval, not a group: see Remus."""

GROUP_OUTPUTS: Final = 64
"""So many outputs wait for no more."""


@dataclass(frozen=True, slots=True)
class Kemari:
    """Cut at each output. `interval` (seconds) matters only to a guest without outputs: see QUIET_INTERVALS.

    group   seconds that the first of several outputs waits for the others, which share its cut: until the guest is
            known to be idle, GROUP_OUTPUTS wait, or the time is over. 0: each output stops the guest, and is cut alone
    """

    interval: float = 0.025
    group: float = 0.0
    name: ClassVar[str] = "kemari"
    needs: ClassVar[frozenset[Capability]] = frozenset()
    stands_still: ClassVar[bool] = True
    logs: ClassVar[bool] = False
    executes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)
        if not 0 <= self.group <= GROUP_MAX:
            raise ConfigError(
                f"{self.name}: a group commit of {millis(self.group)} is not from 0 to {millis(GROUP_MAX)}"
            )

    @property
    def settings(self) -> str:
        """What it was given, for people."""
        shared = f", group commit {millis(self.group)}" if self.group else ""
        return f"interval {millis(self.interval)}{shared}"

    @property
    def stops_at_output(self) -> bool:
        """Whether each output is cut alone."""
        return not self.group

    def next_cut(self, view: EngineView) -> Nanos:
        """Return when the first output that waits for a cut was made, or has waited for others as long as it may; a
        while after the last cut if none waits."""
        if view.oldest_output_at is not None and not view.epochs_in_flight:
            if not self.group or view.is_guest_idle or view.outputs_waiting >= GROUP_OUTPUTS:
                return view.oldest_output_at
            return Nanos(view.oldest_output_at + seconds_to_nanos(self.group))
        return Nanos(view.last_cut_at + QUIET_INTERVALS * seconds_to_nanos(self.interval))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the commit of the checkpoint that is cut at this output."""
        del log_index
        return Watermarks(epoch, 0)
