"""A backup's guest that executes the log as it comes, and is compared with the primary's at marks (lockstep).

Runs in the driver's thread, in bounded portions: a busy guest never keeps the driver from its heartbeats for long. A
guest that can takes many records by one call, as far as each is as it should be; the next one is taken alone, as by a
guest that cannot, and says what is wrong if something is.

Where two guests parted is known as an interval: from the last mark at which they agreed to where that was seen, which
is a record that this guest cannot take as the other did, or the next mark. To know it more exactly would take a copy of
both memories at each mark, to execute again from there: too much for a fault that must not happen.

Source: Scales et al., 2010, sections 2.1 and 3.2 (deterministic replay on the backup, kept close behind the primary).
"""

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Final, Protocol, cast

from ftvm.checkpoint import PAGE_DIGEST_ROW, Checkpoint, LogKind, LogRecord
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.interfaces import Capability, ReplayableGuest
from ftvm.logtable import LogTable
from ftvm.protocol.effects import Difference
from ftvm.runtime.sink import NumberingSink

__all__ = ["Follower", "GroupReplayingGuest", "replay"]

_INSTRUCTIONS_PER_STEP: Final = 2_000_000
_ITEMS_PER_STEP: Final = 1_024
_RECORDS_PER_CALL: Final = 256
_PAGES_NAMED_MAX: Final = 64

_Item = LogRecord | LogTable | Checkpoint
"""What waits to be executed: a table, if the guest takes many records by one call."""


class GroupReplayingGuest(ReplayableGuest, Protocol):
    """A guest with Capability.REPLAYS_GROUPS."""

    def lead_along(self, log: Sequence[LogRecord], made_here: range, limit: int | None = None) -> tuple[int, int]:
        """Do for each record what `run_until` and `inject` do, and find at an OUTPUT that it was made there.

        Only while paused. `made_here` has the numbers of the outputs that it made where it stands; without any it is
        empty, and begins with the number of its next one. Stops at the first record that is not as it should be, of
        which nothing is done, and where it likes to: to have its outputs taken. Begins no more than `limit`
        instructions.
        Returns how many records it took, and the number of the first output that it made where it stands now: of its
        next one, if it made none there. Raises GuestError if it cannot run.
        """


def replay(guest: ReplayableGuest, log: Iterable[LogRecord], sink: NumberingSink) -> None:
    """Lead the paused guest through a whole log; it stands behind the last record afterwards, its outputs in `sink`.

    Raises GuestError if it diverges; its state is then useless.
    """
    leads = _taking_groups(guest)
    _replay(guest, deque(log if leads is None else _packed(log)), leads, sink)


def _replay(
    guest: ReplayableGuest, waiting: deque[_Item], leads: GroupReplayingGuest | None, sink: NumberingSink
) -> None:
    while waiting:
        _take_together(leads, waiting, sink, None)
        if waiting and isinstance(record := _first_of(waiting), LogRecord):
            guest.run_until(record.position)
            _drop(waiting, 1)
            _take(guest, record, sink)


def _packed(items: Iterable[LogRecord | Checkpoint]) -> Iterable[_Item]:
    """Return items with records in a row as tables, for a guest that takes them together."""
    if isinstance(items, LogTable):
        return (items,) if items.record_count else ()
    return _in_tables(items)


def _in_tables(items: Iterable[LogRecord | Checkpoint]) -> Iterator[_Item]:
    for is_log, run in groupby(items, key=_is_record):
        while part := list(islice(run, _RECORDS_PER_CALL)):
            yield from [LogTable.of(cast("list[LogRecord]", part))] if is_log else part


def _first_of(waiting: deque[_Item]) -> LogRecord | Checkpoint:
    item = waiting[0]
    return next(iter(item)) if isinstance(item, LogTable) else item


def _drop(waiting: deque[_Item], count: int) -> None:
    """Take out what waits first: so many records of a table."""
    item = waiting[0]
    if isinstance(item, LogTable) and count < item.record_count:
        waiting[0] = item.behind(item.first + count - 1)
    else:
        waiting.popleft()


def _taking_groups(guest: ReplayableGuest) -> GroupReplayingGuest | None:
    return cast("GroupReplayingGuest", guest) if Capability.REPLAYS_GROUPS in guest.can else None


def _take_together(
    guest: GroupReplayingGuest | None, waiting: deque[_Item], sink: NumberingSink, limit: int | None
) -> int:
    """Lead the guest along the records that wait first, if it takes them together; return how many it took."""
    item = waiting[0]
    if guest is None or not isinstance(item, LogTable):
        return 0
    taken, first_here = guest.lead_along(item.upto(_RECORDS_PER_CALL), sink.made_at(guest.position), limit)
    sink.made_from(guest.position, first_here)
    if taken:
        _drop(waiting, taken)
    return taken


def _is_record(item: LogRecord | Checkpoint) -> bool:
    return isinstance(item, LogRecord)


def _take(guest: ReplayableGuest, record: LogRecord, sink: NumberingSink) -> None:
    if record.kind is not LogKind.OUTPUT:
        guest.inject(record)
    elif record.amount not in sink.made_at(record.position):  # not only the last: one instruction may make several
        made = sink.output_next - 1
        raise GuestError(f"at {record.position} the primary made output {record.amount}, this guest {made}")


class Follower:
    """Executes what is added, in order. The guest is paused and stays so: it is led, it does not run.

    waiting  what is still to be executed; only whether there is anything is for others to see
    written  which pages the guest has written up to the last mark, since the one before
    """

    def __init__(self, guest: ReplayableGuest, memory: CommittedMemory, sink: NumberingSink) -> None:
        self._guest = guest
        self._leads = _taking_groups(guest)
        self._memory = memory
        self._sink = sink
        self.waiting: deque[_Item] = deque()
        self.written = array("I")
        guest.collect_dirty()

    def add(self, items: Iterable[LogRecord | Checkpoint]) -> None:
        """Queue records, or a checkpoint to compare with. The protocol bounds how many there can be."""
        self.waiting.extend(items if self._leads is None else _packed(items))

    def advance(self) -> Checkpoint | Difference | None:
        """Execute a portion; return a checkpoint agreed with, or how the guest differs, as soon as it is known."""
        items, end = _ITEMS_PER_STEP, self._guest.position.retired + _INSTRUCTIONS_PER_STEP
        while self.waiting and items > 0:
            here = None
            try:
                items -= _take_together(self._leads, self.waiting, self._sink, self._left(end)) + 1
                if not self.waiting:
                    break
                item = _first_of(self.waiting)
                here = item.position
                if here is None or not self._guest.run_until(here, self._left(end)):
                    break
                _drop(self.waiting, 1)
                if isinstance(item, Checkpoint):
                    return self._compare(item) or item
                _take(self._guest, item, self._sink)
            except GuestError as wrong:
                return Difference(seen=here, reason=str(wrong))
        return None

    def _left(self, end: int) -> int:
        """Return how many instructions are left of this portion, which is to end there."""
        return max(0, end - self._guest.position.retired)

    def finish(self) -> None:
        """Execute all waiting records without comparing: no other host is left to compare with. Raises GuestError."""
        waiting, self.waiting = self.waiting, deque()
        log: deque[_Item] = deque([item for item in waiting if not isinstance(item, Checkpoint)])
        _replay(self._guest, log, self._leads, self._sink)

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
