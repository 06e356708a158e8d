"""What is due by time, as a table of each role: when, and what is done then. Ticks and deadlines read the same rows.

When a thing is due is asked of the state each time, so nothing needs to be moved when something else happens: a sign of
life, an acknowledgement, a held output. All rows of a role are asked at once, by one function: each output asks several
times, and a call for each row was most of what it cost. A tick that finds nothing due keeps the answer as the deadline.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ftvm.units import Nanos

__all__ = ["AT_ONCE", "NEVER", "Timers", "act_on"]

S = TypeVar("S")

AT_ONCE: Final = Nanos(-(1 << 62))
"""Before any time that a clock may give."""

NEVER: Final = Nanos(1 << 62)
"""After any such time."""


@dataclass(frozen=True, slots=True)
class Timers(Generic[S]):
    """The rows of a role.

    due         tells when each row is due, NEVER where not for now; one time more, the last, says when the first is due
                that is worth waking for: a row that is not is done late, with what comes next
    acts        what each row does: it is due later, or no more, from then on
    apart_from  the first row that leaves those behind it as they are, as all that follow do: they are not asked again
    """

    due: Callable[[S], tuple[Nanos, ...]]
    acts: tuple[Callable[[S, Nanos], None], ...]
    apart_from: int


def act_on(timers: Timers[S], state: S, due: tuple[Nanos, ...], now: Nanos) -> None:
    """Do what is due, row by row: what one does may change what the next has to do.

    due  what `timers.due` says of the state as it is
    """
    for row, act in enumerate(timers.acts):
        if now >= due[row]:
            act(state, now)
            if row < timers.apart_from:
                due = timers.due(state)
