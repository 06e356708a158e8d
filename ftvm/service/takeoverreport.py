"""A takeover explained in order, by the host that took the guest and by the one that lost it: what was seen, what was
decided, what it cost.

The events of a takeover come one by one, perhaps minutes after their cause. `TakeoverReport` keeps the last of a kind
and, once the guest runs here or is lost to the other host, puts them together. Pure: events in, explanation out.
"""

from dataclasses import dataclass
from typing import Final

from ftvm.events import (
    Event,
    HostStalled,
    RecordLearned,
    RoleChanged,
    SessionEnded,
    Solo,
    Suspected,
    SwitchFailed,
    TookOver,
)

__all__ = ["Explanation", "TakeoverReport"]

_MS: Final = 1_000_000
_RECENT_NS: Final = 30_000_000_000
"""What was seen earlier explains no loss of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why and how a guest came to run here, or went: three sentences."""

    seen: str
    decided: str
    cost: str


class TakeoverReport:
    """Takes events; explains a takeover once it has happened, at either host."""

    def __init__(self) -> None:
        self._suspected: Suspected | None = None
        self._ended: SessionEnded | None = None
        self._stalled: HostStalled | None = None
        self._role = ""
        self._is_leaving = False
        self._records: tuple[RecordLearned | None, RecordLearned | None] = (None, None)

    def note(self, event: Event) -> Explanation | None:
        """Return an explanation if this event completes a takeover: a TookOver here, or the loss of the guest."""
        match event:
            case Suspected():
                self._suspected = event
            case SessionEnded():
                self._ended = event
            case HostStalled():
                self._stalled = event
            case SwitchFailed():
                self._is_leaving = event.is_stopping
            case Solo():
                self._suspected = self._ended = None
            case RoleChanged():
                was_active, self._role = self._role == "active", event.role
                if was_active and event.role == "empty" and not self._is_leaving:
                    return self._loss(event)
            case RecordLearned() if self._records[1] is None or event.generation > self._records[1].generation:
                self._records = (self._records[1], event)
            case TookOver():
                told = Explanation(seen=self._seen(), decided=self._decided(event), cost=_cost(event))
                self._suspected = self._ended = None
                return told
            case _:
                pass
        return None

    def _loss(self, changed: RoleChanged) -> Explanation | None:
        """Explain that another host has taken the guest from this one; None if nobody has it."""
        before, after = self._records
        if after is None or after.active is None:
            return None
        names = "" if before is None else f"from generation {before.generation} ({_names(before)}) "
        return Explanation(
            seen=self._seen_by_loser(changed),
            decided=f"the arbiter's record went {names}to generation {after.generation} ({_names(after)}): this host "
            "ends its guest, and asks to join as the standby",
            cost="nothing that the other host lacks had left this one: what it made since then was held, and is gone",
        )

    def _seen_by_loser(self, changed: RoleChanged) -> str:
        stalled, suspected = self._stalled, self._suspected
        if stalled is not None and changed.at - stalled.at < _RECENT_NS:
            ago_ms = (changed.at - stalled.at) / _MS
            why = stalled.waited or "it was stopped, or is too busy"
            heard = "saw no progress here" if stalled.waited else "heard nothing of it"
            return (
                f"this host stalled for {stalled.stall_ns / _MS:.0f} ms, until {ago_ms:.0f} ms ago, so the other host "
                f"{heard}: {why}"
            )
        if suspected is not None and changed.at - suspected.at < _RECENT_NS:
            silence = suspected.reason or f"silent for {suspected.silence_ns / _MS:.0f} ms"
            return (
                f"neither host heard the other (the standby, seen from here: {silence}): the link between them failed"
            )
        return (
            "nothing that this host noticed: the other one did not hear it for longer than its limit of silence; the "
            "link towards it may have failed, or this host was too busy to send"
        )

    def _seen(self) -> str:
        suspected, ended = self._suspected, self._ended
        after = f"; before that the session ended ({ended.reason})" if ended is not None else ""
        if suspected is None:
            return f"the active had left, or the record was vacant; no silence was waited for{after}"
        if suspected.reason:
            return f"{suspected.reason}{after}"
        silence = f"{suspected.silence_ns / _MS:.0f} ms"
        return f"the active was silent for {silence} (limit {suspected.limit_ns / _MS:.0f} ms){after}"

    def _decided(self, took: TookOver) -> str:
        before, after = self._records
        if after is None or before is None or after.generation != took.generation:
            return f"the arbiter's record of generation {took.generation} names this host active"
        return (
            f"the arbiter's record went from generation {before.generation} ({_names(before)}) to generation "
            f"{after.generation} ({_names(after)}): this host goes on with the guest from epoch {took.epoch}"
        )


def _names(record: RecordLearned) -> str:
    return f"active {record.active or 'none'}, standby {record.standby or 'none'}"


def _cost(took: TookOver) -> str:
    total = (took.detection_ns + took.arbiter_ns) / _MS
    return (
        f"the guest did not run for {total:.1f} ms: {took.detection_ns / _MS:.1f} ms to notice, "
        f"{took.arbiter_ns / _MS:.1f} ms to claim the guest ({took.load_ns / _MS:.1f} ms of that to load its state); "
        f"{took.outputs_emitted_again} outputs were emitted again"
    )
