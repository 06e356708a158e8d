"""How a standby that suspects its active comes to run the guest: load, ask, claim (docs/protocol.md, "TAKE").

    WATCHING --suspected--> CHECKING --fresh read says (g, X, me), state loaded--> CLAIMING --TAKE in force--> over
        ^                      |                                                      |
        +--- heard again, load failed, arbiter silent                                 |
        +--- another change won, this replica is still named -------------------------+

A planned switchover needs no claim, only a state that is seen to load before the active proposes (docs/protocol.md,
"SWITCH"):

    WATCHING --asked--> PREPARED --the record names this replica active--> over
        ^                  |
        +--- the active ships on, or the state does not load; a silent active is suspected as ever (to CHECKING)

Loading comes before claiming: a state that does not load is never claimed. From CHECKING on nothing is acknowledged. A
claim that was proposed is never abandoned before it is resolved; until then the guest is loaded and paused.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ftvm.errors import InternalError
from ftvm.units import Nanos

__all__ = ["CLAIMS", "Claim", "ClaimEvent", "ClaimState"]


class ClaimState(Enum):
    """Where a claim stands."""

    WATCHING = "watching"
    PREPARED = "prepared"
    CHECKING = "checking"
    CLAIMING = "claiming"


class ClaimEvent(Enum):
    """What moves a claim."""

    ASKED = "asked to prepare"
    SUSPECTED = "suspected"
    CALLED_OFF = "called off"
    PROPOSED = "proposed"
    LOST = "lost"


CLAIMS: Final[dict[tuple[ClaimState, ClaimEvent], ClaimState]] = {
    (ClaimState.WATCHING, ClaimEvent.ASKED): ClaimState.PREPARED,
    (ClaimState.PREPARED, ClaimEvent.CALLED_OFF): ClaimState.WATCHING,
    (ClaimState.PREPARED, ClaimEvent.SUSPECTED): ClaimState.CHECKING,
    (ClaimState.WATCHING, ClaimEvent.SUSPECTED): ClaimState.CHECKING,
    (ClaimState.CHECKING, ClaimEvent.CALLED_OFF): ClaimState.WATCHING,
    (ClaimState.CHECKING, ClaimEvent.PROPOSED): ClaimState.CLAIMING,
    (ClaimState.CLAIMING, ClaimEvent.LOST): ClaimState.WATCHING,
}
"""Every pair that is absent is illegal: reaching it is our bug."""


@dataclass(slots=True)
class Claim:
    """One standby's claim, with the times that TookOver reports.

    fresh_at      the arbiter client's count of reads from which on the record read is fresh
    is_loaded     the committed state is in the guest
    suspected_at  when the active was suspected first since it last shipped anything; claims that were called off count
    silence_ns    how long it had been silent then
    """

    state: ClaimState = ClaimState.WATCHING
    fresh_at: int = 0
    is_loaded: bool = False
    began_at: Nanos = Nanos(0)
    loaded_at: Nanos = Nanos(0)
    suspected_at: Nanos | None = None
    silence_ns: int = 0
    not_before: Nanos | None = None

    @property
    def is_watching(self) -> bool:
        """Whether epochs may be committed and acknowledged."""
        return self.state in (ClaimState.WATCHING, ClaimState.PREPARED)

    def step(self, event: ClaimEvent) -> None:
        """Move by the table."""
        state = CLAIMS.get((self.state, event))
        if state is None:
            raise InternalError(f"a claim that is {self.state.value} cannot be {event.value}")
        self.state = state

    def prepare(self, now: Nanos) -> None:
        """Load for a planned switchover, which nobody has proposed yet."""
        self.step(ClaimEvent.ASKED)
        self.is_loaded = False
        self.began_at = now

    def begin(self, *, fresh_at: int, silence_ns: int, now: Nanos) -> None:
        """Start checking: the active has been silent for `silence_ns`."""
        self.step(ClaimEvent.SUSPECTED)
        self.fresh_at = fresh_at
        self.is_loaded = False
        self.began_at = now
        if self.suspected_at is None:
            self.suspected_at, self.silence_ns = now, silence_ns
        self.not_before = None

    def note_shipping(self) -> None:
        """Note that the active shipped on: the guest ran there after all that was suspected before."""
        self.suspected_at = None
