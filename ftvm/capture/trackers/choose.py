"""Which tracker to use for memory that others write, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers.compare import CompareTracker
from ftvm.capture.trackers.interface import Tracker
from ftvm.capture.trackers.userfault import UserfaultTracker
from ftvm.errors import ConfigError
from ftvm.interfaces import Region
from ftvm.units import PAGE_BYTES

__all__ = ["Chosen", "choose_tracker", "track_memory"]

_SMALL_BYTES: Final = 16 << 20
"""Below this, comparing everything takes about a millisecond: less than the write faults that it saves."""

_BY_NAME: Final[dict[str, Callable[[NativeMemory], Tracker]]] = {
    "userfault": UserfaultTracker,
    "compare": CompareTracker,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A tracker that was started, and what is to be warned of if a better one did not work."""

    tracker: Tracker
    warning: str = ""


def choose_tracker(memory: NativeMemory, name: str = "auto") -> Chosen:
    """Start the tracker of that name, or with "auto" the best that works here.

    Raises ConfigError for an unknown name, or if the one that was asked for by name is not available.
    """
    if name == "auto":
        return _best(memory)
    if name not in _BY_NAME:
        raise ConfigError(f"unknown tracker {name!r}: there are auto, {', '.join(_BY_NAME)}")
    return Chosen(tracker=_BY_NAME[name](memory))


def track_memory(regions: Sequence[Region], name: str = "auto") -> Tracker:
    """Start to track what is written to a guest's memory: the dirty half of a Guest, for hypervisors that have none.

    Sees writes of this process alone, by whatever means. `name` is "userfault" (the kernel notes writes), "compare"
    (each page with a copy), or "auto", the best that works here. Raises ConfigError for an unknown name, or if the one
    that was asked for is not available.
    """
    return choose_tracker(NativeMemory([region.buffer for region in regions]), name).tracker


def _best(memory: NativeMemory) -> Chosen:
    if memory.page_count * PAGE_BYTES < _SMALL_BYTES:
        return Chosen(tracker=CompareTracker(memory))  # comparing so little costs less than faults
    try:
        return Chosen(tracker=UserfaultTracker(memory))
    except ConfigError as error:
        warning = f"each checkpoint compares every page: {error}"
        return Chosen(tracker=CompareTracker(memory), warning=warning)
