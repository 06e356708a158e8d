"""Which pages were written since the last look: three ways, one interface, and a choice among them that says why.

    store        the writer is our own code and sets a flag with each store: exact, almost free
    userfault    others write: the kernel notes the first write to each page (Linux 6.7 and later)
    compare      anything else: every page is compared with a copy

`choose_tracker` picks for memory that others write; a built-in machine knows that it wants `store`.
"""

from ftvm.capture.trackers.choose import Chosen, choose_tracker, track_memory
from ftvm.capture.trackers.compare import CompareTracker
from ftvm.capture.trackers.interface import Tracker
from ftvm.capture.trackers.store import StoreTracker
from ftvm.capture.trackers.userfault import OtherProcess, UserfaultTracker

__all__ = [
    "Chosen",
    "CompareTracker",
    "OtherProcess",
    "StoreTracker",
    "Tracker",
    "UserfaultTracker",
    "choose_tracker",
    "track_memory",
]
