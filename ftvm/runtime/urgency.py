"""Has a thread run at once when it has something to do, however busy the machine is.

A host's loop needs little of a processor, but needs it now: its heartbeats are how the other host knows that it lives.
On a machine with more to do than processors, a thread of usual priority waits for its turn behind a guest that writes
as fast as it can, and behind whatever else runs, for hundreds of milliseconds; the other host then takes over from a
healthy one. The lowest real-time priority ends that wait. What the thread starts has the usual priority again.

Source: sched(7), sched_setscheduler(2).
"""

import os
from typing import Final

__all__ = ["make_urgent", "why_not_urgent"]

_PRIORITY: Final = 1
_PROCESSORS_LEAST: Final = 2
"""With a single one, a loop that copies a guest's memory would leave too little to all others."""


def make_urgent() -> str | None:
    """Run the calling thread at real-time priority; return why that may not be, None if it does.

    A thread that may not runs on as before: this is a help, no need.
    """
    if len(os.sched_getaffinity(0)) < _PROCESSORS_LEAST:
        return "there is one processor only"
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except OSError as wrong:
        return wrong.strerror
    return None


def why_not_urgent() -> str | None:
    """Return why a thread could not be made urgent, None if it could; the calling one is as before."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    wrong = make_urgent()
    if wrong is None:
        try:
            os.sched_setscheduler(0, policy, parameters)
        except PermissionError:  # to take the reset back needs a separate right; it does no harm
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameters)
    return wrong
