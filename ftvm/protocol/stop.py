"""An orderly stop of one host, whatever role it has by then (docs/protocol.md, "Stopping in order").

A host that stops is stepped on until it `is_over`. It never goes while it has a proposal that may yet take effect: a
record that names a host that is gone can be moved by nobody. What each role does meanwhile:

    active      hand the guest over; else ask the standby to take it; else vacate the record, and the guest ends
    standby     say goodbye, and go when the active has answered
    empty       wait for the START that it has proposed; go at once without one

A stop ends in order, or after LIMIT_NS with the reason why it did not.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ftvm.units import Nanos

__all__ = ["HAND_OVER_NS", "LIMIT_NS", "TAKE_NS", "StopKind", "Stopping"]

HAND_OVER_NS: Final = Nanos(2_000_000_000)
"""So long may a switchover take that a stop has asked for."""

TAKE_NS: Final = Nanos(2_000_000_000)
"""So long after it was asked to may a standby take to run the guest; then the record is vacated."""

LIMIT_NS: Final = Nanos(8_000_000_000)
"""So long may a stop take in all. It covers an arbiter that takes some seconds for each request."""


class StopKind(Enum):
    """Why a host stops."""

    ASKED = "asked"
    """An operator's word: the guest goes on at the other host, if that can take it."""
    ENDED = "ended"
    """The guest came to its own end. That is safe, and was released: nothing is to be taken over."""
    FAILED = "failed"
    """The guest cannot run here any more: only the standby can go on."""


@dataclass(slots=True)
class Stopping:
    """Mutable; kept from role to role.

    left_at      when the peer was told that this host goes; it is told again with each heartbeat
    fresh_at     the arbiter client's count of reads from which on the record was read later than that
    has_tried    whether a switchover was tried
    outcome      what came of the stop, in words; None until it is over
    is_in_order  whether nobody has to clean up behind this host
    """

    kind: StopKind
    reason: str
    began_at: Nanos
    left_at: Nanos | None = None
    tell_at: Nanos | None = None
    fresh_at: int = 0
    has_tried: bool = False
    outcome: str | None = None
    is_in_order: bool = False

    @property
    def is_over(self) -> bool:
        """Whether this host may go."""
        return self.outcome is not None

    @property
    def is_guest_gone(self) -> bool:
        """Whether there is no guest here any more that could be captured."""
        return self.kind is not StopKind.ASKED

    @property
    def ends_at(self) -> Nanos:
        """When it goes at the latest."""
        return Nanos(self.began_at + LIMIT_NS)

    def speaks_again(self, now: Nanos, every_ns: Nanos) -> bool:
        """Tell whether the peer is to be told again by now that this host goes; it is then due after `every_ns`."""
        if self.tell_at is not None and now < self.tell_at:
            return False
        self.tell_at = Nanos(now + every_ns)
        return True

    def end(self, outcome: str, *, is_in_order: bool) -> None:
        """Note what came of it; only the first word counts."""
        if self.outcome is None:
            self.outcome, self.is_in_order = outcome, is_in_order
