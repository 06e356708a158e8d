"""KVM's own log of written pages as a tracker: a look costs some microseconds, whatever the size."""

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import Chosen, choose_tracker
from ftvm.checkpoint import Bitmap
from ftvm.guests.kvm.machine import KvmMachine

__all__ = ["LogTracker", "choose_kvm_tracker"]


class LogTracker:
    """Asks KVM, and the machine's devices. Does not see what others write to RAM by their own mappings of it, nor the
    machine's `clock_pages`.

    A page that is written in each epoch is not protected again each time, and may be reported for some epochs more.
    """

    name = "log"

    def __init__(self, machine: KvmMachine) -> None:
        """Track a machine's RAM; it costs nothing before the first `collect`."""
        self._machine = machine
        self._restored: Bitmap | None = None

    def collect(self) -> Bitmap:
        """See Tracker."""
        found = Bitmap.empty((self._machine.ram.page_count,))
        self._machine.collect_written(found.words[0])
        restored, self._restored = self._restored, None
        return found if restored is None else found | restored

    def restore(self, bitmap: Bitmap) -> None:
        """See Tracker."""
        self._restored = bitmap if self._restored is None else self._restored | bitmap

    def close(self) -> None:
        """See Tracker; the log goes with the machine."""


def choose_kvm_tracker(machine: KvmMachine, name: str) -> Chosen:
    """Start the tracker of that name, or with "auto" KVM's log where there is one, as choose_tracker does."""
    if machine.has_log and name in ("auto", LogTracker.name):
        return Chosen(tracker=LogTracker(machine))
    return choose_tracker(NativeMemory([machine.ram.buffer]), name)
