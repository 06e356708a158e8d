"""A takeover explained in order: what was seen, what was decided, what it cost.

The events of a takeover come one by one, perhaps minutes after their cause. `TakeoverReport` keeps the last of a kind
and, once the guest runs here, puts them together. Pure: events in, explanation out.
"""

from dataclasses import dataclass
from typing import Final

from ftvm.events import Event, RecordLearned, SessionEnded, Suspected, TookOver

__all__ = ["Explanation", "TakeoverReport"]

_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why and how a guest came to run here: three sentences."""

    seen: str
    decided: str
    cost: str


class TakeoverReport:
    """Takes events; explains a takeover once it has happened."""

    def __init__(self) -> None:
        self._suspected: Suspected | None = None
        self._ended: SessionEnded | None = None
        self._records: tuple[RecordLearned | None, RecordLearned | None] = (None, None)

    def note(self, event: Event) -> Explanation | None:
        """Return an explanation if this event completes a takeover."""
        match event:
            case Suspected():
                self._suspected = event
            case SessionEnded():
                self._ended = event
            case RecordLearned() if self._records[1] is None or event.generation > self._records[1].generation:
                self._records = (self._records[1], event)
            case TookOver():
                told = Explanation(seen=self._seen(), decided=self._decided(event), cost=_cost(event))
                self._suspected = self._ended = None
                return told
            case _:
                pass
        return None

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
            f"the arbiter's record went from generation {before.generation} (active {before.active}, standby "
            f"{before.standby}) to generation {after.generation} (active {after.active}, standby "
            f"{after.standby or 'none'}): this host goes on with the guest from epoch {took.epoch}"
        )


def _cost(took: TookOver) -> str:
    total = (took.detection_ns + took.arbiter_ns) / _MS
    return (
        f"the guest did not run for {total:.1f} ms: {took.detection_ns / _MS:.1f} ms to notice, "
        f"{took.arbiter_ns / _MS:.1f} ms to claim the guest ({took.load_ns / _MS:.1f} ms of that to load its state); "
        f"{took.outputs_emitted_again} outputs were emitted again"
    )
