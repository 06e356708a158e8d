"""What is due by time, as a table of each role: when, and what is done then. Ticks and deadlines read the same rows.

When a thing is due is asked of the state each time, so nothing needs to be moved when something else happens: a sign of
life, an acknowledgement, a held output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ftvm.units import Nanos

__all__ = ["AT_ONCE", "Timer", "act_on", "soonest"]

S = TypeVar("S")

AT_ONCE: Final = Nanos(-(1 << 62))
"""Before any time that a clock may give."""


@dataclass(frozen=True, slots=True)
class Timer(Generic[S]):
    """One row. `due` tells when, None for not now; `act` does it, and is due later, or no more, from then on.

    wakes  whether that is worth waking for, where it is not always; if not, it is done late, with what comes next
    """

    due: Callable[[S], Nanos | None]
    act: Callable[[S, Nanos], None]
    wakes: Callable[[S], bool] | None = None


def act_on(timers: tuple[Timer[S], ...], state: S, now: Nanos) -> Nanos | None:
    """Do what is due, row by row: what one does may change what the next has to do.

    Returns `soonest` if nothing was due, which spares asking again; else None.
    """
    acted, first = False, None
    for timer in timers:
        at = timer.due(state)
        if at is None:
            continue
        if now >= at:
            timer.act(state, now)
            acted = True
        elif (first is None or at < first) and (timer.wakes is None or timer.wakes(state)):
            first = at
    return None if acted else first


def soonest(timers: tuple[Timer[S], ...], state: S) -> Nanos | None:
    """Return when the first is due that is worth waking for."""
    first = None
    for timer in timers:
        at = timer.due(state)
        if at is not None and (first is None or at < first) and (timer.wakes is None or timer.wakes(state)):
            first = at
    return first
