"""What happened, as typed values: what `Protection.events()` yields and the log prints.

An event is a fact about this host; they come in order. Safety depends on no event.
"""

from dataclasses import dataclass

from ftvm.checkpoint import GuestPosition
from ftvm.units import Nanos

__all__ = [
    "ArbiterTrouble",
    "Committed",
    "ConnectionRefused",
    "CopyProgress",
    "Diverged",
    "EngineChanged",
    "Event",
    "GuestFinished",
    "GuestWarned",
    "Halted",
    "HistoryGap",
    "HostFailed",
    "HostServiceFailed",
    "HostStalled",
    "HostStopped",
    "JoinRefused",
    "JoinUnanswered",
    "PeerMisbehaved",
    "PlacesDiffer",
    "Protected",
    "RecordLearned",
    "RoleChanged",
    "SessionEnded",
    "Solo",
    "Suspected",
    "SwitchFailed",
    "SwitchedAway",
    "SwitchedHere",
    "TookOver",
    "TransportTrouble",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The root of all events. `at` is on this host's clock, in nanoseconds of arbitrary origin."""

    at: Nanos
    guest_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged(Event):
    """The replica's role changed: empty, syncing, standby or active."""

    role: str
    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLearned(Event):
    """The arbiter said what the record is."""

    generation: int
    active: str | None
    standby: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress(Event):
    """The first copy advanced (on the active)."""

    round: int
    pages_sent: int
    pages_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    """An epoch is safe on the backup (on the active) or became this host's state (on the standby)."""

    epoch: int
    dirty_pages: int
    sent_bytes: int
    pause_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected(Event):
    """A standby is in the record: a takeover is possible from now on. Told again when a guest that was paused because
    its standby was silent goes on."""

    generation: int
    standby: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solo(Event):
    """The active goes on without a standby; the arbiter has agreed."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStopped(Event):
    """This host has stopped. If `is_in_order`, nothing is left to do; `outcome` says what came of the guest and the
    record."""

    outcome: str
    is_in_order: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted(Event):
    """The standby is lost, and the guest may not run without one: it is paused until a standby has joined."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspected(Event):
    """The peer was silent for longer than the limit; if the limit was 0, `reason` says why."""

    silence_ns: int
    limit_ns: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStalled(Event):
    """This host's loop stalled for this long during a session: it was stopped, is too busy, or waited for its guest.

    waited  who did not answer what meanwhile, and for how long, if it waited for the guest's process; else empty
    """

    stall_ns: int
    waited: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TookOver(Event):
    """This host runs the guest now. The durations say what the takeover cost, step by step.

    detection_ns  how long the active had been silent when it was suspected, the first time if claims were called off
    arbiter_ns    from then until the arbiter's answer came
    load_ns       how much of that it took to load the state, in the claim that was won
    """

    generation: int
    epoch: int
    detection_ns: int
    arbiter_ns: int
    load_ns: int
    outputs_emitted_again: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedAway(Event):
    """The guest goes on at what was the standby, as planned; this host is its standby now.

    settle_ns  from the request to the pause, while the guest ran
    pause_ns   from the pause until the arbiter's answer came
    """

    generation: int
    epoch: int
    settle_ns: int
    pause_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedHere(Event):
    """The guest goes on at this host, as planned. `wait_ns`: from loaded until the arbiter's answer came."""

    generation: int
    epoch: int
    wait_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchFailed(Event):
    """A planned switchover failed, and why; the guest goes on where it was, unless that host is stopping."""

    reason: str
    is_stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverged(Event):
    """A backup that executes the log diverged: somewhere after `agreed`, noticed at `seen`.

    pages    indices of pages that differ (at most 64 of them are named)
    devices  whether the device states differ
    """

    epoch: int
    agreed: GuestPosition | None
    seen: GuestPosition | None
    pages: tuple[int, ...]
    devices: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChanged(Event):
    """Another engine is in force, on the backup too if there is one; or the same one with other parameters.

    interval_ms      between checkpoints, None for an engine that has none, and on a standby: it is told no parameters
    engine_settings  what it was given, for people, like "interval 25 ms, latency target 5 ms"; "" on a standby
    """

    before: str
    engine: str
    interval_ms: float | None = None
    engine_settings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRefused(Event):
    """An active refused to take this host as its standby for now, or this active refused a host for good.

    A host that is refused for good fails, with the reason.
    """

    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinUnanswered(Event):
    """No active has accepted this host as its standby for a while; this is the record, which says who should.

    Generation 0: the guest has no record. Without an `active`, the guest runs nowhere.
    """

    generation: int
    active: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session between active and standby ended before its time."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRefused(Event):
    """This end refused a connection, or was refused one: a wrong or unknown key, most often."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMisbehaved(Event):
    """A peer broke the protocol; `error` names how. Its message was dropped and, where it was in session, the session
    ended."""

    peer: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportTrouble(Event):
    """A message could not be sent; it counts as lost. Each error is told once."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArbiterTrouble(Event):
    """A request to the arbiter failed; it is tried again. Until it answers, no change of configuration happens."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestWarned(Event):
    """The guest's hypervisor works, but less well than it could; an operator should know."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryGap(Event):
    """Epochs are missing from the history that this host records, and why; the pair is not affected."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacesDiffer(Event):
    """Another host keeps this guest's record in another place than this one: two arbiters, so neither protects the
    other."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFinished(Event):
    """The guest ended by itself, and that is safe: this host is done."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFailed(Event):
    """This host cannot go on: the guest or its adapter failed here."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostServiceFailed(Event):
    """A service for operators, such as the control socket or the metrics, failed and was closed; the guest goes on."""

    name: str
    error: str
