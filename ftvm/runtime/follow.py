"""A backup's guest that executes the log as it comes, and is compared with the primary's at marks (lockstep).

Runs in the driver's thread, in bounded portions: a busy guest never keeps the driver from its heartbeats for long.

Where two guests parted is known as an interval: from the last mark at which they agreed to where that was seen, which
is a record that this guest cannot take as the other did, or the next mark. To know it more exactly would take a copy of
both memories at each mark, to execute again from there: too much for a fault that must not happen.

Source: Scales et al., 2010, sections 2.1 and 3.2 (deterministic replay on the backup, kept close behind the primary).
"""

from array import array
from collections import deque
from collections.abc import Iterable
from typing import Final

from ftvm.checkpoint import PAGE_DIGEST_ROW, Checkpoint, LogKind, LogRecord
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.interfaces import ReplayableGuest
from ftvm.protocol.effects import Difference
from ftvm.runtime.sink import NumberingSink

__all__ = ["Follower", "replay"]

_INSTRUCTIONS_PER_STEP: Final = 2_000_000
_ITEMS_PER_STEP: Final = 1_024
_PAGES_NAMED_MAX: Final = 64


def replay(guest: ReplayableGuest, log: Iterable[LogRecord], sink: NumberingSink) -> None:
    """Lead the paused guest through a whole log; it stands behind the last record afterwards, its outputs in `sink`.

    Raises GuestError if it diverges; its state is then useless.
    """
    for record in log:
        guest.run_until(record.position)
        _take(guest, record, sink)


def _take(guest: ReplayableGuest, record: LogRecord, sink: NumberingSink) -> None:
    if record.kind is not LogKind.OUTPUT:
        guest.inject(record)
    elif record.amount not in sink.made_at(record.position):  # not only the last: one instruction may make several
        made = sink.output_next - 1
        raise GuestError(f"at {record.position} the primary made output {record.amount}, this guest {made}")


class Follower:
    """Executes what is added, in order. The guest is paused and stays so: it is led, it does not run.

    `written` is which pages it has written up to the last mark, since the one before.
    """

    def __init__(self, guest: ReplayableGuest, memory: CommittedMemory, sink: NumberingSink) -> None:
        self._guest = guest
        self._memory = memory
        self._sink = sink
        self._waiting: deque[LogRecord | Checkpoint] = deque()
        self.written = array("I")
        guest.collect_dirty()

    @property
    def has_work(self) -> bool:
        """Whether anything waits to be executed."""
        return bool(self._waiting)

    def add(self, items: Iterable[LogRecord | Checkpoint]) -> None:
        """Queue records, or a checkpoint to compare with. The protocol bounds how many there can be."""
        self._waiting.extend(items)

    def advance(self) -> Checkpoint | Difference | None:
        """Execute a portion; return a checkpoint agreed with, or how the guest differs, as soon as it is known."""
        for _ in range(_ITEMS_PER_STEP):
            if not self._waiting:
                return None
            item = self._waiting[0]
            here = item.position
            try:
                if here is None or not self._guest.run_until(here, _INSTRUCTIONS_PER_STEP):
                    return None
                self._waiting.popleft()
                if isinstance(item, Checkpoint):
                    return self._compare(item) or item
                _take(self._guest, item, self._sink)
            except GuestError as wrong:
                return Difference(seen=here, reason=str(wrong))
        return None

    def finish(self) -> None:
        """Execute all waiting records without comparing: no other host is left to compare with. Raises GuestError."""
        replay(self._guest, (item for item in self._waiting if isinstance(item, LogRecord)), self._sink)
        self._waiting.clear()

    def _compare(self, mark: Checkpoint) -> Difference | None:
        dirty = self._guest.collect_dirty()
        self.written = written = self._memory.refresh(dirty)
        is_same_machine = self._guest.save_devices() == mark.devices
        if is_same_machine and self._memory.memory_digest == mark.memory_digest:
            return None
        theirs = dict(PAGE_DIGEST_ROW.iter_unpack(mark.page_digests))
        pages = [page for page, digest in theirs.items() if self._memory.page_digest(page) != digest]
        pages += [page for page in written if page not in theirs]
        named = tuple(sorted(pages)[:_PAGES_NAMED_MAX])
        reason = f"{len(pages)} pages differ" + ("" if is_same_machine else ", and the devices")
        return Difference(seen=mark.position, pages=named, devices=not is_same_machine, reason=reason)
