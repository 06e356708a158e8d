"""Remus: checkpoints at an interval while the guest runs on, outputs held until their epoch is committed.

Two ways. Without `latency` the interval is fixed. With it, the interval adapts: an output is to leave about `latency`
after it was made, so the cut that covers it comes that much earlier than the commit takes; an epoch that would dirty
too many pages ends sooner; while nothing waits, epochs grow longer, for each costs the guest a pause. Where link or
backup lag, cuts move apart: back-pressure first stretches the interval, then the bound on epochs in flight holds the
next cut back, then the bound on held outputs stops the guest (protocol/active/). No queue grows without limit.

Source: Cully et al., Remus, NSDI 2008, section 1.2 (speculative execution, asynchronous replication) and section 2
(pipelined checkpoints, network buffering). The adaptive interval is ours.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from ftvm.checkpoint import Watermarks
from ftvm.engines.interval import INTERVAL_MAX, INTERVAL_MIN, check_interval, millis
from ftvm.errors import ConfigError
from ftvm.interfaces import Capability, EngineView
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["DIRTY_PAGES_CAP", "PAUSES_APART", "STRETCH", "Remus"]

STRETCH: Final = 4
"""An adaptive epoch is at most so many intervals long: a quiet guest's first output must not meet a huge epoch."""

DIRTY_PAGES_CAP: Final = 4096
"""What an adaptive epoch should dirty at most: 16 MiB, some 2.5 ms of pause at 0.6 us a page."""

PAUSES_APART: Final = 10
"""The throughput target: cuts are at least so many pauses apart, so the guest stands still a tenth of the time at
most."""

COMMITS_ABREAST: Final = 2
"""Cuts are at least half a commit apart: closer ones would only wait for each other, where the link is the limit."""


@dataclass(frozen=True, slots=True)
class Remus:
    """Cut every `interval` seconds: half of it, plus the time to commit, is what an output waits for on average.

    latency     seconds that an output should wait, by choosing when to cut; None: the interval is fixed. What the link
                itself takes is a lower bound that no choice can beat.
    """

    interval: float = 0.025
    latency: float | None = None
    name: ClassVar[str] = "remus"
    needs: ClassVar[frozenset[Capability]] = frozenset()
    stands_still: ClassVar[bool] = False
    stops_at_output: ClassVar[bool] = False
    logs: ClassVar[bool] = False
    executes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_interval(self.name, self.interval)
        if self.latency is not None and not INTERVAL_MIN <= self.latency <= INTERVAL_MAX:
            raise ConfigError(
                f"{self.name}: a latency target of {millis(self.latency)} is not from {millis(INTERVAL_MIN)} to "
                f"{millis(INTERVAL_MAX)}"
            )

    @property
    def settings(self) -> str:
        """What it was given, for people."""
        target = "" if self.latency is None else f", latency target {millis(self.latency)}"
        return f"interval {millis(self.interval)}{target}"

    def next_cut(self, view: EngineView) -> Nanos:
        """Return the last cut's time plus the interval, fixed or adapted."""
        interval_ns = seconds_to_nanos(self.interval)
        if self.latency is None:
            return Nanos(view.last_cut_at + interval_ns)
        longest = STRETCH * interval_ns
        wanted = min(longest, _until_dirty(view, longest), _until_late(view, seconds_to_nanos(self.latency), longest))
        return Nanos(view.last_cut_at + max(wanted, min(_closest(view), longest)))

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return the commit of the epoch in which the output was emitted."""
        del log_index
        return Watermarks(epoch, 0)


def _until_dirty(view: EngineView, longest: int) -> int:
    """Return how long an epoch may be to dirty the cap, if the guest goes on at the last epoch's rate."""
    if not view.dirty_pages:
        return longest
    return view.epoch_ns * DIRTY_PAGES_CAP // view.dirty_pages


def _until_late(view: EngineView, latency_ns: int, longest: int) -> int:
    """Return how long the epoch may be for the first output in it to leave in time; `longest` if it has no output."""
    if view.oldest_uncut_at is None:
        return longest
    return view.oldest_uncut_at - view.last_cut_at + latency_ns - view.commit_ns


def _closest(view: EngineView) -> int:
    """Return how close to the last cut the next one may come, by what pauses and commits have cost of late."""
    return max(seconds_to_nanos(INTERVAL_MIN), PAUSES_APART * view.pause_ns, view.commit_ns // COMMITS_ABREAST)
