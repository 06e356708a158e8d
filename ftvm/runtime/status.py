"""What a running host can tell about one guest: counters that its events add up to, and a frozen Status made of
them."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ftvm.events import Committed, Event, Protected, TookOver

__all__ = ["Counters", "Percentiles", "Status", "percentiles"]

_SAMPLES_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the last few thousand samples; 0 where there are none."""

    p50: float
    p99: float


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Return the median and the 99th percentile (nearest rank)."""
    if not samples:
        return Percentiles(0.0, 0.0)
    ordered = sorted(samples)
    return Percentiles(ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One guest on this host, at one moment.

    role              empty, syncing, standby or active
    link              what the active does about its standby: none, copying, ..., protected (empty on other roles)
    generation        of the newest record known; `standby` is who it names
    epoch             the last one committed (standby) or cut (active)
    epochs_in_flight  cut and not acknowledged yet; `lag_ms` is the age of the oldest of them
    outputs_held      waiting for their epoch
    pause_us          how long the guest stood still for a checkpoint, under the present standby
    output_delay_us   how long released outputs had been held, under the present standby
    bytes_sent        encoded pages and device state; `bytes_raw` is what whole pages would have been
    failure           why this host cannot go on, or None
    """

    guest_id: str
    role: str
    link: str
    replica_id: str
    generation: int
    active: str | None
    standby: str | None
    engine: str
    epoch: int
    epochs_in_flight: int
    lag_ms: float
    outputs_held: int
    outputs_released: int
    copy_pages_left: int
    checkpoints: int
    digests_compared: int
    takeovers: int
    pause_us: Percentiles
    output_delay_us: Percentiles
    bytes_sent: int
    bytes_raw: int
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """Adds up what happened."""

    checkpoints: int = 0
    digests_compared: int = 0
    takeovers: int = 0
    bytes_sent: int = 0
    bytes_raw: int = 0
    outputs_released: int = 0
    pauses_us: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))
    output_delays_us: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))

    def count(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Committed():
                self.checkpoints += 1
                self.digests_compared += 1
                self.bytes_sent += event.sent_bytes
                self.bytes_raw += event.dirty_pages * 4096
                if event.pause_ns:
                    self.pauses_us.append(event.pause_ns / 1000)
            case Protected():
                self.pauses_us.clear()  # that of the first copy, and what was released alone, are of another kind
                self.output_delays_us.clear()
            case TookOver():
                self.takeovers += 1
            case _:
                pass
