"""What a running host can tell about one guest: counters that its events add up to, and a frozen Status made of
them."""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from ftvm.errors import RemoteProtocolError
from ftvm.events import (
    Committed,
    Event,
    GuestWarned,
    Halted,
    HistoryGap,
    HostFailed,
    HostServiceFailed,
    JoinRefused,
    Protected,
    RoleChanged,
    SessionEnded,
    TookOver,
)
from ftvm.runtime.standing import Reasons, State
from ftvm.units import Nanos

__all__ = [
    "FIRST_FIELDS",
    "HALTED",
    "HISTOGRAM_BOUNDS_US",
    "Counters",
    "Histogram",
    "Percentiles",
    "Status",
    "percentile",
    "percentiles",
]

_SAMPLES_KEPT: Final = 4096
_WARNINGS_KEPT: Final = 8

HALTED: Final = "halted"
"""What `link` says instead of the link's own state while the guest may not run because its standby is lost."""

_STILL_LINKS: Final = frozenset({HALTED, "dropping", "handing over", "switching"})
"""Links of a release that tells no state, in which a guest stands still."""

HISTOGRAM_BOUNDS_US: Final = tuple(step * 10**power for power in range(1, 6) for step in (1, 2, 5))
"""10 us to 0.5 s, three bounds a decade: fine enough for a terminal, few enough for a time series database."""


FIRST_FIELDS: Final = (
    *("at", "guest_id", "role", "link", "replica_id", "generation", "active", "standby", "engine", "interval_ms"),
    *("epoch", "epochs_in_flight", "lag_ms", "outputs_held", "outputs_released", "copy_pages_left", "checkpoints"),
    *("digests_compared", "takeovers", "pause_us", "output_delay_us", "pauses", "output_delays"),
    *("bytes_sent", "bytes_raw", "failure"),
)
"""The fields of a Status that every release tells, from v0.1.0 on. One that is added has a default, and is not here."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the last few thousand samples; 0 without samples."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """All samples since the start. `counts` has one number for each of HISTOGRAM_BOUNDS_US, samples of at most that
    and more than the bound before, and one for all that are longer."""

    counts: tuple[int, ...]
    sum_us: float


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return a percentile by nearest rank; 0 without samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Return the median and the 99th percentile."""
    ordered = sorted(samples)
    return Percentiles(percentile(ordered, 50), percentile(ordered, 99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One guest on this host, at one moment.

    at                when, on this host's clock: rates are differences of two statuses over that of their times
    role              empty, syncing, standby or active
    link              what the active does about its standby: none, copying, ..., protected; "halted" if the guest waits
                      for one (empty on other roles)
    generation        of the newest record known; `standby` is who it names
    interval_ms       between checkpoints, as the engine was given it; None if it has none, or is in force elsewhere
    engine_settings   that and all else that it was given, for people, like "interval 25 ms, latency target 5 ms"
    epoch             the last one committed (standby) or cut (active)
    epochs_in_flight  cut and not acknowledged yet; `lag_ms` is the age of the oldest of them
    outputs_held      waiting for their epoch
    pause_us          how long the guest stood still for a checkpoint, under the present standby
    output_delay_us   from when the guest made an output until it left, under the present standby
    pauses, output_delays   the same as histograms, since the start
    bytes_sent        encoded pages and device state; `bytes_raw` is what whole pages would have been
    failure           why this host cannot go on, or None
    guest_bytes       the guest's memory here, a disk that is kept in memory included
    shadow_bytes      the copy of it that an active keeps for its standby; pages of zeros take none in either
    staging_bytes     what was set aside for checkpoints on their way
    state             how the guest stands here, a value of runtime/standing.State; `reason` says why
    state_seconds     since the state began
    since             when that was, and `started` when this host began, as RFC 3339 has it; `time` is that of `at`
    copy_pages_sent   in all rounds of the first copy so far, and `copy_round` is the present one; on a host that is
                      copied to: what has come
    elsewhere         that a peer keeps the record in another place than this host, and the remedy; None if none does
    arbiter_error     why the arbiter cannot be relied on now, or None; `arbiter` is its URL
    loop_late_ms      how late this host's loop came to what was due, at most, in the last minute
    silence_ms        how long the peer in session may be silent until it is suspected: `silence_limit_ms` now, as that
                      adapts to a jittery link up to ten times of it; 0 without a session
    counters          what this host's world and transport moved, dropped and refused since the start, by name
    warnings          what an operator was warned of since the start and the guest goes on in spite of, the latest last
    node, pid, version, listen   of this host: its name, process, release of ftvm, and where peers reach it
    """

    at: Nanos
    guest_id: str
    role: str
    link: str
    replica_id: str
    generation: int
    active: str | None
    standby: str | None
    engine: str
    interval_ms: float | None
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
    pauses: Histogram
    output_delays: Histogram
    bytes_sent: int
    bytes_raw: int
    failure: str | None
    guest_bytes: int = 0
    shadow_bytes: int = 0
    staging_bytes: int = 0
    state: str = ""
    reason: str = ""
    state_seconds: float = 0.0
    since: str = ""
    started: str = ""
    time: str = ""
    copy_pages_sent: int = 0
    copy_round: int = 0
    arbiter: str = ""
    arbiter_error: str | None = None
    loop_late_ms: float = 0.0
    silence_ms: float = 0.0
    silence_limit_ms: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    elsewhere: str | None = None
    node: str = ""
    pid: int = 0
    version: str = ""
    listen: str = ""
    warnings: tuple[str, ...] = ()
    engine_settings: str = ""

    @property
    def is_protected(self) -> bool:
        """Whether the guest runs here and its standby could take over now."""
        return self.state == State.PROTECTED

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON, with the bounds of the histograms."""
        return {**asdict(self), "histogram_bounds_us": HISTOGRAM_BOUNDS_US}

    def told_in(self, version: int) -> dict[str, Any]:
        """Return it as plain values for who speaks this version of the control protocol (service/requests.py).

        Who speaks version 1 refuses fields that he does not know: he is told those of that version alone.
        """
        told = self.as_dict()
        return {name: told[name] for name in FIRST_FIELDS} if version < 2 else told

    @classmethod
    def from_dict(cls, told: object) -> Self:
        """Return the status that another process told of with `as_dict`, of whatever release that is.

        What is new there is ignored; what is new here has its default. Raises RemoteProtocolError if a field of
        FIRST_FIELDS is missing, which every release tells.
        """
        if not isinstance(told, Mapping) or not told.keys() >= set(FIRST_FIELDS):
            raise RemoteProtocolError("what the host told is not a status: fields are missing that every release tells")
        try:
            return cls(
                **{
                    "state": _state_of_first_release(told),
                    **{known.name: told[known.name] for known in fields(cls) if known.name in told},
                    "pause_us": _percentiles(told["pause_us"]),
                    "output_delay_us": _percentiles(told["output_delay_us"]),
                    "pauses": _histogram(told["pauses"]),
                    "output_delays": _histogram(told["output_delays"]),
                    "warnings": tuple(map(str, told.get("warnings", ()))),
                }
            )
        except (TypeError, KeyError) as wrong:
            raise RemoteProtocolError(f"the host's status is malformed: {wrong}") from wrong


def _state_of_first_release(told: Mapping[str, Any]) -> State:
    """Return the state of a host that tells none: of 0.1."""
    if told["failure"] is not None:
        return State.FAILED
    if told["role"] != "active":
        return {"standby": State.STANDBY, "syncing": State.SYNCING}.get(told["role"], State.JOINING)
    if told["link"] in _STILL_LINKS:
        return State.STANDING_STILL
    if told["standby"] is not None:
        return State.PROTECTED
    return State.SYNCING if told["copy_pages_left"] else State.UNPROTECTED


def _percentiles(told: Mapping[str, Any]) -> Percentiles:
    return Percentiles(told["p50"], told["p99"])


def _histogram(told: Mapping[str, Any]) -> Histogram:
    return Histogram(tuple(told["counts"]), told["sum_us"])


class _Tally:
    """A histogram that grows."""

    __slots__ = ("_counts", "_sum_us")

    def __init__(self) -> None:
        self._counts = [0] * (len(HISTOGRAM_BOUNDS_US) + 1)
        self._sum_us = 0.0

    def add(self, sample_us: float, count: int = 1) -> None:
        self._counts[bisect_left(HISTOGRAM_BOUNDS_US, sample_us)] += count
        self._sum_us += sample_us * count

    def seen(self) -> Histogram:
        return Histogram(tuple(self._counts), self._sum_us)


@dataclass(slots=True)
class Counters:
    """Adds up what happened, and keeps the reasons that were told."""

    checkpoints: int = 0
    digests_compared: int = 0
    takeovers: int = 0
    bytes_sent: int = 0
    bytes_raw: int = 0
    outputs_released: int = 0
    pauses_us: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))
    output_delays_us: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))
    pauses: _Tally = field(default_factory=_Tally)
    output_delays: _Tally = field(default_factory=_Tally)
    reasons: Reasons = field(default_factory=Reasons)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=_WARNINGS_KEPT))

    def released(self, count: int, made_at: Sequence[tuple[int, Nanos]], since: Nanos, now: Nanos) -> None:
        """Take note of outputs that left together, so many of them made when; the others were held since `since`."""
        self.outputs_released += count
        others = count - sum([made for made, _ in made_at])
        for made, at in (*made_at, (others, since)) if others else made_at:
            delay_us = (now - at) / 1000
            self.output_delays_us += [delay_us] * made
            self.output_delays.add(delay_us, made)

    def count(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Committed():
                self.checkpoints += 1
                self.digests_compared += 1
                self.bytes_sent += event.sent_bytes
                self.bytes_raw += event.dirty_pages * 4096
                self.reasons.failed = ""
                if event.pause_ns:
                    self.pauses_us.append(event.pause_ns / 1000)
                    self.pauses.add(event.pause_ns / 1000)
            case Protected():
                self.pauses_us.clear()  # that of the first copy, and what was released alone, are of another kind
                self.output_delays_us.clear()
            case TookOver():
                self.takeovers += 1
                self.reasons.lost = "this host took it over, and no standby has joined since"
            case SessionEnded() | Halted():
                self.reasons.lost = f"its standby is gone: {event.reason}"
            case JoinRefused():
                self.reasons.refused = f"; {event.peer} refused it: {event.reason}"
            case RoleChanged():
                self.reasons.refused = self.reasons.failed = ""
            case HostFailed():
                self.reasons.failed = event.error
            case GuestWarned():
                self._warn(event.reason)
            case HistoryGap():
                self._warn(f"a gap in the history: {event.reason}")
            case HostServiceFailed():
                self._warn(f"the {event.name} failed and was closed: {event.error}")
            case _:
                pass

    def _warn(self, text: str) -> None:
        if text in self.warnings:
            self.warnings.remove(text)
        self.warnings.append(text)
