"""A sentence for each kind of event: what happened, and what it cost where that matters."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from ftvm import events
from ftvm.events import Event
from ftvm.protocol.record import force_command
from ftvm.runtime.names import for_people
from ftvm.runtime.status import Status

__all__ = ["EngineWord", "describe", "stopped_line"]

_MS: Final = 1_000_000


def _who_should(event: Any) -> str:
    if event.generation == 0:
        return f"the arbiter has no record of guest {event.guest_id!r}: start it with `ftvm run --create`"
    if event.active is None:
        return f"the record (generation {event.generation}) has no active host: start the guest with `ftvm run`"
    return (
        f"the record (generation {event.generation}) names {event.active} active: is it up, and among the peers? "
        f"If it is dead for good, run {force_command(event.guest_id)}, then start the guest with `ftvm run`"
    )


def _names(record: Any) -> str:
    names = f"active {record.active or 'none'}, standby {record.standby or 'none'}"
    are_twins = record.standby is not None and for_people(str(record.standby)) == for_people(str(record.active))
    return f"{names}: both hosts have this name; give each its own with --node" if are_twins else names


def _engine(told: events.EngineChanged | Status) -> str:
    return f"{told.engine} ({told.engine_settings})" if told.engine_settings else told.engine


class EngineWord:
    """Says, once a guest has come to run here from another host, what it runs under: intervals do not come over."""

    def __init__(self) -> None:
        self._is_due = False

    def note(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, events.TookOver | events.SwitchedHere):
            self._is_due = True

    def word(self, status: Status) -> str | None:
        """Return the sentence, once; None if there is nothing to say."""
        if not self._is_due or status.role != "active":
            return None
        self._is_due = False
        return (
            f"the guest runs here under {_engine(status)}, as this host is set; what was set by `ftvm ctl` on the "
            "other host does not come over"
        )


def stopped_line(told: Mapping[str, Any]) -> str:
    """Return what a HostStopped says, given its fields as plain values."""
    return for_people(f"stopped{'' if told['is_in_order'] else ', but not cleanly'}: {told['outcome']}")


_SENTENCES: Final[dict[type[Event], Callable[[Any], str]]] = {
    events.RoleChanged: lambda e: f"now {e.role}: {e.reason}",
    events.RecordLearned: lambda e: f"record: generation {e.generation}, {_names(e)}",
    events.Protected: lambda e: f"protected: {e.standby} stands by (generation {e.generation})",
    events.Solo: lambda e: f"solo: {e.reason} (generation {e.generation})",
    events.Halted: lambda e: f"the guest is paused until a standby joins: {e.reason}",
    events.Suspected: lambda e: (
        f"suspected the peer: {e.reason}"
        if e.reason
        else f"suspected the peer: silent for {e.silence_ns / _MS:.0f} ms (limit {e.limit_ns / _MS:.0f} ms)"
    ),
    events.HostStalled: lambda e: (
        f"this host did nothing else for {e.stall_ns / _MS:.0f} ms, as {e.waited}; "
        "silence of the peer meanwhile does not count. If it happens again, look at that process"
        if e.waited
        else f"this host stalled for {e.stall_ns / _MS:.0f} ms: it was stopped, or is too busy; "
        "silence of the peer during the stall does not count. If it happens again, give this host more processor time, "
        "or both hosts a longer --silence"
    ),
    events.TookOver: lambda e: (
        f"took over at epoch {e.epoch}, generation {e.generation}: noticed in {e.detection_ns / _MS:.0f} ms, "
        f"claimed in {e.arbiter_ns / _MS:.1f} ms (loaded in {e.load_ns / _MS:.1f} ms), "
        f"{e.outputs_emitted_again} outputs emitted again"
    ),
    events.SwitchedAway: lambda e: (
        f"switched over at epoch {e.epoch}, generation {e.generation}: the guest now runs on the other host; "
        f"it was paused for {e.pause_ns / _MS:.1f} ms"
    ),
    events.SwitchedHere: lambda e: (
        f"switched over at epoch {e.epoch}, generation {e.generation}: the guest now runs here; "
        f"the arbiter answered {e.wait_ns / _MS:.1f} ms after it was loaded"
    ),
    events.HostStopped: lambda e: stopped_line(asdict(e)),
    events.SwitchFailed: lambda e: (
        f"the guest could not be handed over: {e.reason}"
        if e.is_stopping
        else f"the switchover failed; the guest still runs where it was: {e.reason}"
    ),
    events.JoinRefused: lambda e: f"join refused ({e.peer}): {e.reason}",
    events.JoinUnanswered: lambda e: f"no active host has accepted this standby yet; {_who_should(e)}",
    events.SessionEnded: lambda e: f"session ended: {e.reason}",
    events.ConnectionRefused: lambda e: e.reason,
    events.Diverged: lambda e: f"diverged between {e.agreed} and {e.seen}: {e.reason}; pages {list(e.pages)}",
    events.PeerMisbehaved: lambda e: f"peer {e.peer} broke the protocol: {e.error}",
    events.PlacesDiffer: lambda e: e.reason,
    events.TransportTrouble: lambda e: f"a message was lost: {e.error}",
    events.ArbiterTrouble: lambda e: f"arbiter: {e.error}",
    events.HostServiceFailed: lambda e: f"the {e.name} failed and was closed; the guest still runs: {e.error}",
    events.EngineChanged: lambda e: (
        f"engine: {_engine(e)}" + (f" instead of {e.before}" if e.engine != e.before else ", with new settings")
    ),
    events.HistoryGap: lambda e: f"a gap in the history: {e.reason}",
    events.GuestFinished: lambda e: f"{e.reason}; this host is done",
    events.GuestWarned: lambda e: e.reason,
    events.HostFailed: lambda e: f"failed: {e.error}",
    events.Committed: lambda e: f"epoch {e.epoch} committed: {e.dirty_pages} pages, {e.sent_bytes} bytes",
    events.CopyProgress: lambda e: f"first copy: round {e.round}, {e.pages_sent} pages sent, {e.pages_left} left",
}


def describe(event: Event) -> str:
    """Return one line about an event, with nodes' names in the place of replica ids."""
    return for_people(str(_SENTENCES[type(event)](event)))
