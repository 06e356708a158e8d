"""The link from an active replica to its standby, as a table.

    NONE --JOIN--> COPYING --first cut--> CATCHING_UP --acknowledged--> ADDING --ADD in force--> PROTECTED
     ^                |                        |                          |                          |
     |                +--------- lost ---------+                         lost                       lost
     |                                                                    v                          v
     +------------------------------------------------------- DROPPING <--ADD in force-- ABANDONING  |
     +-- DROP in force -------------------------------------- DROPPING <-----------------------------+

A planned switchover leaves PROTECTED, and comes back to it if it is called off before anything was proposed:

    PROTECTED --asked--> SETTLING --settled--> HANDING --the standby is ready--> SWITCHING --SWITCH in force--> NONE
        ^                    |                    |
        +---- called off ----+--------------------+----- lost ----> DROPPING

A host that stops leaves by LEAVING, where the guest stands still and the standby is asked to take it, or by VACATING,
where VACATE is proposed and the guest has ended (leaving.py):

    PROTECTED --left--> LEAVING --TAKE in force--> deposed
        |                  |  +------ lost ------> DROPPING
        +-- vacated --> VACATING --VACATE in force--> over;  from NONE likewise

It comes back from SWITCHING only if the SWITCH was withdrawn: no attempt at it can ever have an effect (arbiter.py).

An active that may not run alone proposes no DROP: whoever is lost from PROTECTED, SETTLING, HANDING or ABANDONING
leaves NONE behind, and the record goes on naming it. The guest stands still and no output leaves until a new standby
has caught up, and an ADD has put it in the place of the one that was lost. Who is only silent keeps its session
meanwhile, and the guest goes on when it is heard again.

While SETTLING the guest runs, and the arbiter is asked whether it answers. From HANDING on the guest stands still.

A proposal that may be in force is never abandoned: a standby lost while its ADD is unresolved is dropped once the ADD
is known to be in force.
"""

from enum import Enum
from typing import Final

__all__ = ["COVERED", "ENDING", "JOINING", "LINKS", "NAMED", "SHIPPING", "STANDING", "LinkEvent", "LinkState"]


class LinkState(Enum):
    """Where the link to a standby stands."""

    __hash__ = object.__hash__  # by identity: Enum's own is a call of Python at each look-up

    NONE = "none"
    COPYING = "copying"
    CATCHING_UP = "catching up"
    ADDING = "adding"
    ABANDONING = "abandoning"
    PROTECTED = "protected"
    DROPPING = "dropping"
    SETTLING = "settling"
    HANDING = "handing over"
    SWITCHING = "switching"
    LEAVING = "leaving"
    VACATING = "vacating"


class LinkEvent(Enum):
    """What moves the link."""

    JOINED = "joined"
    CUT = "cut"
    CAUGHT_UP = "caught up"
    IN_FORCE = "in force"
    LOST = "lost"
    ASKED = "asked to switch over"
    SETTLED = "settled"
    READY = "ready"
    CALLED_OFF = "called off"
    WITHDRAWN = "withdrawn"
    HALTED = "lost, and halted"
    LEFT = "left"
    VACATED = "vacated"


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
    (LinkState.PROTECTED, LinkEvent.ASKED): LinkState.SETTLING,
    (LinkState.SETTLING, LinkEvent.SETTLED): LinkState.HANDING,
    (LinkState.SETTLING, LinkEvent.CALLED_OFF): LinkState.PROTECTED,
    (LinkState.SETTLING, LinkEvent.LOST): LinkState.DROPPING,
    (LinkState.HANDING, LinkEvent.READY): LinkState.SWITCHING,
    (LinkState.HANDING, LinkEvent.CALLED_OFF): LinkState.PROTECTED,
    (LinkState.HANDING, LinkEvent.LOST): LinkState.DROPPING,
    (LinkState.SWITCHING, LinkEvent.IN_FORCE): LinkState.NONE,
    (LinkState.SWITCHING, LinkEvent.WITHDRAWN): LinkState.PROTECTED,
    (LinkState.PROTECTED, LinkEvent.HALTED): LinkState.NONE,
    (LinkState.SETTLING, LinkEvent.HALTED): LinkState.NONE,
    (LinkState.HANDING, LinkEvent.HALTED): LinkState.NONE,
    (LinkState.ABANDONING, LinkEvent.HALTED): LinkState.NONE,
    (LinkState.PROTECTED, LinkEvent.LEFT): LinkState.LEAVING,
    (LinkState.DROPPING, LinkEvent.LEFT): LinkState.LEAVING,
    (LinkState.LEAVING, LinkEvent.LOST): LinkState.DROPPING,
    (LinkState.LEAVING, LinkEvent.HALTED): LinkState.NONE,
    (LinkState.NONE, LinkEvent.VACATED): LinkState.VACATING,
    (LinkState.PROTECTED, LinkEvent.VACATED): LinkState.VACATING,
    (LinkState.LEAVING, LinkEvent.VACATED): LinkState.VACATING,
}
"""Every pair that is absent is illegal; reaching one is a bug in ftvm."""

SHIPPING: Final = frozenset(
    {LinkState.CATCHING_UP, LinkState.ADDING, LinkState.PROTECTED, LinkState.SETTLING, LinkState.HANDING}
)
"""Where epochs and log records go to the standby."""

JOINING: Final = frozenset({LinkState.CATCHING_UP, LinkState.ADDING, LinkState.ABANDONING})
"""Where outputs obey the standby in session although the record need not name it yet."""

NAMED: Final = frozenset(
    {LinkState.PROTECTED, LinkState.SETTLING, LinkState.HANDING, LinkState.SWITCHING, LinkState.LEAVING}
)
"""Where the standby in session is the one that the record names."""

COVERED: Final = frozenset({LinkState.PROTECTED, LinkState.SETTLING})
"""Where the guest runs beside the standby that the record names: whatever it flushes may be answered ahead of the disks
here. Once that standby is lost, or the guest is handed over, they are to have all of it."""

ENDING: Final = frozenset({LinkState.LEAVING, LinkState.VACATING})
"""Where nothing but the goodbye goes to the standby: any other message would tell it that this host lives."""

STANDING: Final = frozenset({LinkState.HANDING, LinkState.SWITCHING}) | ENDING
"""Where the guest must not run: nothing may follow what was shipped last, or the guest has ended."""
