"""When a guest may be lost: by two failures at once, and not otherwise (docs/protocol.md, "Not attainable")."""

from dataclasses import dataclass, field

from ftvm.interfaces import Record

__all__ = ["PATIENCE_NS", "Losses"]

PATIENCE_NS = 4_500_000_000
"""How long, at least, by any clock, a whole standby waits for the record to name it."""


@dataclass(slots=True)
class Losses:
    """What could lose the guest together with one more failure, by replica id.

    died_dropping   its host died while its DROP of the standby was open
    failed_to_load  what it held as a standby did not load, so that it was discarded
    suspecting      when it found its active silent
    named_too_late  named after it had found its active silent, had read that it is no member, and had begun again
    stopped_badly   its host was stopped while the other was dead or out of reach, and said that this is not in order

    `is_guest_ended` tells whether an operator has ended the guest for good: then it is not lost.
    """

    died_dropping: set[str] = field(default_factory=set)
    failed_to_load: set[str] = field(default_factory=set)
    suspecting: dict[str, int] = field(default_factory=dict)
    named_too_late: set[str] = field(default_factory=set)
    stopped_badly: set[str] = field(default_factory=set)
    is_guest_ended: bool = False

    def was_named(self, standby: str, now: int) -> None:
        """Note that the record names a standby from now on."""
        if now - self.suspecting.get(standby, now) > PATIENCE_NS:
            self.named_too_late.add(standby)

    def is_lost(self, record: Record, alive: set[str]) -> bool:
        """Tell whether the guest is gone; `alive` are the replicas whose hosts live."""
        are_both_gone = not alive & {record.active, record.standby}
        had_given_up = record.standby in self.failed_to_load | self.named_too_late
        was_left = bool(self.stopped_badly & {record.active, record.standby})
        return record.active in self.died_dropping or (are_both_gone and (had_given_up or was_left))
