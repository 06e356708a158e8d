"""What `ftvm top` shows of one guest: a status, and how its numbers changed since the one before.

Pure: statuses in, rates and bars out. Time is that of the host that was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ftvm.runtime.status import HISTOGRAM_BOUNDS_US, Histogram, Status
from ftvm.units import PAGE_BYTES, nanos_to_seconds

__all__ = ["Look", "bars", "bucket_names", "look"]

BARS: Final = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One guest at one moment.

    seconds          since the look before; 0 if there was none, and then all rates are 0 too
    dirty_pages      changed pages captured each second
    link_bytes       encoded bytes shipped or received each second
    checkpoints, outputs   committed and released each second
    pauses, output_delays  the samples since the look before (since the start if there was none), a count a bucket
    """

    status: Status
    seconds: float
    dirty_pages: float
    link_bytes: float
    checkpoints: float
    outputs: float
    pauses: tuple[int, ...]
    output_delays: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON: the status, and the rates beside it."""
        rates = {
            "seconds": self.seconds,
            "dirty_pages_per_second": self.dirty_pages,
            "link_bytes_per_second": self.link_bytes,
            "checkpoints_per_second": self.checkpoints,
            "outputs_per_second": self.outputs,
        }
        return {**self.status.as_dict(), "rates": rates}


def look(now: Status, before: Status | None) -> Look:
    """Return what to show, given the status at the last look; a status of another process does not count."""
    if before is None or before.replica_id != now.replica_id or before.at >= now.at:
        return _first(now)
    seconds = nanos_to_seconds(now.at - before.at)
    return Look(
        status=now,
        seconds=seconds,
        dirty_pages=(now.bytes_raw - before.bytes_raw) / PAGE_BYTES / seconds,
        link_bytes=(now.bytes_sent - before.bytes_sent) / seconds,
        checkpoints=(now.checkpoints - before.checkpoints) / seconds,
        outputs=(now.outputs_released - before.outputs_released) / seconds,
        pauses=_since(now.pauses, before.pauses),
        output_delays=_since(now.output_delays, before.output_delays),
    )


def _first(now: Status) -> Look:
    return Look(
        status=now,
        seconds=0.0,
        dirty_pages=0.0,
        link_bytes=0.0,
        checkpoints=0.0,
        outputs=0.0,
        pauses=now.pauses.counts,
        output_delays=now.output_delays.counts,
    )


def _since(now: Histogram, before: Histogram) -> tuple[int, ...]:
    return tuple(count - old for count, old in zip(now.counts, before.counts, strict=True))


def bars(counts: Sequence[int]) -> str:
    """Return a bar for each count, relative to the largest; a count above zero always shows."""
    top = max(*counts, 1)
    return "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in counts)


def bucket_names() -> tuple[str, str]:
    """Return the bounds between which the bars lie, as text."""
    return f"{HISTOGRAM_BOUNDS_US[0]:g} us", f"{HISTOGRAM_BOUNDS_US[-1] / 1_000_000:g} s"
