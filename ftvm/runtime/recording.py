"""Opens what records a host's commits: the history, and the time that its entries are told with.

That time is of the day when recording began, and then as the host's clock runs; it never goes back, not even behind the
last entry of an earlier recording.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.history.history import History
from ftvm.history.recorder import HistoryRecorder
from ftvm.interfaces import Clock, Guest
from ftvm.runtime.clock import time_of_day_ns
from ftvm.runtime.names import machine_name
from ftvm.store.store import HistoryOwner

__all__ = ["RecorderOf", "recorder_for"]

RecorderOf = Callable[[Callable[[str], None], Clock], HistoryRecorder]
"""Makes the recorder; takes whom it tells why something is missing, and the host's clock."""

_BACK_NS: Final = 1_000_000_000


def recorder_for(
    history: History | None,
    guest: Guest,
    guest_id: str,
    undo: ExitStack,
    *,
    node: str | None = None,
    memory: NativeMemory | None = None,
) -> RecorderOf | None:
    """Take a history over, if there is one, to record `guest` into it; return how to make its recorder.

    undo    gives it back if the host does not start
    node    the name of this host; the machine's if not given
    memory  what holds the state of each commit; the guest's own if not given
    Raises ConfigError if it is another guest's, or another process writes it.
    """
    if history is None:
        return None
    store = history.writer()
    undo.callback(store.close)
    store.claim(HistoryOwner(guest_id=guest_id, geometry=guest.geometry))
    held = memory or NativeMemory([region.buffer for region in guest.memory])

    def make(on_gap: Callable[[str], None], clock: Clock) -> HistoryRecorder:
        last_ns, today_ns = store.catalogue.last_time_ns(), time_of_day_ns()
        start_ns = max(last_ns, today_ns) - clock.now()
        recorder = HistoryRecorder(
            store,
            history.keep,
            held,
            host=node or machine_name(),
            time_ns=lambda: start_ns + clock.now(),
            on_gap=on_gap,
        )
        if last_ns > today_ns + _BACK_NS:
            back = (last_ns - today_ns) / 1e9
            recorder.miss(f"the clock went back by {back:.0f} s: new epochs are told as later than the last")
        return recorder

    return make
