"""The link from an active replica to its standby, as a table.

    NONE --JOIN--> COPYING --first cut--> CATCHING_UP --acknowledged--> ADDING --ADD in force--> PROTECTED
     ^                |                        |                          |                          |
     |                +--------- lost ---------+                         lost                       lost
     |                                                                    v                          v
     +------------------------------------------------------- DROPPING <--ADD in force-- ABANDONING  |
     +-- DROP in force -------------------------------------- DROPPING <-----------------------------+

A proposal is never abandoned: a standby lost while its ADD is unresolved is dropped once the ADD is known to be in
force.
"""

from enum import Enum
from typing import Final

__all__ = ["LINKS", "SHIPPING", "LinkEvent", "LinkState"]


class LinkState(Enum):
    """Where the link to a standby stands."""

    NONE = "none"
    COPYING = "copying"
    CATCHING_UP = "catching up"
    ADDING = "adding"
    ABANDONING = "abandoning"
    PROTECTED = "protected"
    DROPPING = "dropping"


class LinkEvent(Enum):
    """What moves the link."""

    JOINED = "joined"
    CUT = "cut"
    CAUGHT_UP = "caught up"
    IN_FORCE = "in force"
    LOST = "lost"


LINKS: Final[dict[tuple[LinkState, LinkEvent], LinkState]] = {
    (LinkState.NONE, LinkEvent.JOINED): LinkState.COPYING,
    (LinkState.COPYING, LinkEvent.CUT): LinkState.CATCHING_UP,
    (LinkState.COPYING, LinkEvent.LOST): LinkState.NONE,
    (LinkState.CATCHING_UP, LinkEvent.CAUGHT_UP): LinkState.ADDING,
    (LinkState.CATCHING_UP, LinkEvent.LOST): LinkState.NONE,
    (LinkState.ADDING, LinkEvent.IN_FORCE): LinkState.PROTECTED,
    (LinkState.ADDING, LinkEvent.LOST): LinkState.ABANDONING,
    (LinkState.ABANDONING, LinkEvent.IN_FORCE): LinkState.DROPPING,
    (LinkState.PROTECTED, LinkEvent.LOST): LinkState.DROPPING,
    (LinkState.DROPPING, LinkEvent.IN_FORCE): LinkState.NONE,
}
"""Every pair that is absent is illegal: reaching it is our bug."""

SHIPPING: Final = frozenset({LinkState.CATCHING_UP, LinkState.ADDING, LinkState.PROTECTED})
"""Where epochs and log records go to the standby."""
