"""Where the guest's outputs and log records enter ftvm: numbered and timed as they come, taken out by the driver.

The guest's thread fills it and the driver's thread drains it; a deque's append and popleft are atomic, and only whoever
has the guest counts: its thread, or the driver's, where that does the turn that inputs lead to. `open`, `close` and
`set_logging` are called only while the guest is paused.
"""

from collections import deque
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Final, Protocol

from ftvm.checkpoint import OUTPUT_ROW, GuestPosition, LogKind, LogRecord, OutputTable, joined_outputs
from ftvm.interfaces import Clock
from ftvm.logtable import NO_LOG, LogTable, joined
from ftvm.protocol.reports import Emitted
from ftvm.units import Nanos

__all__ = ["NumberingSink", "PackedTurn"]

_WARNINGS_KEPT: Final = 16
_TIMES_KEPT: Final = 4_096
"""Of outputs that have not left yet; where more are held, what the oldest of them waited for is told a little short."""


class PackedTurn(Protocol):
    """What a guest did in one turn, packed by whoever ran it."""

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        """Return the records, from index `log_next` on, and the outputs, from number `output_next` on, in order."""


class NumberingSink:
    """Counts outputs over all channels, and log records. What comes while it is closed is thrown away.

    items        what has come since the last drain; only whether there is anything is for others to see
    is_heard     whoever drains it looks at it when this is no longer set, and need not be woken for outputs
    output_next  the number of the next output; `log_index` the index of the last log record; exact only while the guest
                 is paused
    is_watched   the next that comes is told of, once, by `has_stirred`, though it be nothing to hand on
    """

    __slots__ = (
        "_clock",
        "_first_there",
        "_is_logging",
        "_is_open",
        "_spoken_at",
        "_times",
        "_wake",
        "_warnings",
        "has_flush",
        "has_stirred",
        "is_cut_wanted",
        "is_heard",
        "is_watched",
        "items",
        "log_index",
        "may_wait",
        "output_next",
    )

    def __init__(
        self, wake: Callable[[], None], clock: Clock, may_wait: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Call `wake` whenever something has come to an empty sink; `clock` says when each output was made. `may_wait`
        is as OutputSink has it."""
        self.may_wait = may_wait
        self.items: deque[tuple[OutputTable | LogRecord | Emitted, int]] = deque()
        self._warnings: deque[str] = deque(maxlen=_WARNINGS_KEPT)
        self._times: deque[tuple[int, int, Nanos]] = deque(maxlen=_TIMES_KEPT)
        self._wake = wake
        self._clock = clock
        self.output_next = 1
        self.log_index = 0
        self._spoken_at: GuestPosition | None = None
        self._first_there = 1
        self.is_cut_wanted = self.is_heard = self.is_watched = self.has_stirred = False
        self.has_flush: Callable[[], bool] | None = None
        self._is_open = False
        self._is_logging = False

    def open(self, output_next: int, log_next: int, *, is_logging: bool) -> None:
        """Let outputs in, and log records if `is_logging`; the next ones get these numbers."""
        self.items.clear()
        self._times.clear()
        self.output_next = output_next
        self.log_index = log_next - 1
        self._spoken_at = None
        self._is_logging = is_logging
        self._is_open = True

    def set_logging(self, is_wanted: bool) -> None:
        """Log what comes from now on, or log it no longer. What came before is drained by now."""
        self._is_logging = is_wanted

    def close(self) -> None:
        """Throw away what is here and all that comes."""
        self._is_open = False
        self.items.clear()

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        """Take one output from the guest; if inputs are logged, log where it was made."""
        if not self._is_open:
            return
        if self.is_watched:
            self._stir()
        number = self.output_next
        self.output_next += 1
        if position is None or position != self._spoken_at:
            self._spoken_at, self._first_there = position, number
        self._times.append((number, number, self._clock.now()))
        if self._is_logging and position is not None:
            self._log(LogKind.OUTPUT, position, amount=number)
        row = OUTPUT_ROW.pack(0, len(payload))
        output = OutputTable(first=number, last=number, channels=(channel,), rows=row, payloads=payload)
        self.items.append((output, self.log_index))  # rule: output_needs_its_record
        # Asked behind the append: the loop's thread may have taken all that was there before, and sleeps then.
        if len(self.items) <= 1 and not self.is_heard:
            self._wake()

    def hand_on(self, turn: PackedTurn) -> None:
        """Take what the guest did in one turn, in order: each as by `emit`, `took_input` or `moved_clock`.

        All of it goes on together, so that each output waits for all that is logged of the turn: one thing to wait for,
        behind its own record, and on its way with it. The records stay packed.
        """
        if not self._is_open:
            return
        if self.is_watched:
            self._stir()
        log, outputs = turn.packed(self.log_index + 1, self.output_next)
        if self._is_logging:
            self.log_index += log.record_count
        else:
            log = NO_LOG
        if outputs.rows:
            self._times.append((outputs.first, outputs.last, self._clock.now()))
            self.output_next = outputs.last + 1
        if log.record_count or outputs.rows:
            index = self.log_index
            self.items.append((Emitted(log, [(outputs, index)] if outputs.rows else ()), index))
            if len(self.items) <= 1 and not self.is_heard:
                self._wake()

    def made_at(self, position: GuestPosition) -> range:
        """Return the numbers of the outputs that were made at `position`, if the latest one was; else an empty range.

        One instruction may make several. Of what came by `hand_on` it knows what `made_from` told, and nothing from
        before it was opened.
        """
        first = self._first_there if position == self._spoken_at else self.output_next
        return range(first, self.output_next)

    def made_from(self, position: GuestPosition, first: int) -> None:
        """Note that the outputs from number `first` on, if there are any, were made where the guest stands now."""
        self._spoken_at, self._first_there = position, first

    def take_times(self, first: int, last: int) -> list[tuple[int, Nanos]]:
        """Return how many outputs were made when, in order, and forget that of them and of all before them.

        Left out are those that the guest did not make since the sink was opened, and those since which too many came.
        """
        times, made_at = self._times, []
        while times and times[0][0] <= last:
            lowest, highest, at = times.popleft()
            if highest > last:
                times.appendleft((last + 1, highest, at))
            count = min(highest, last) + 1 - max(lowest, first)
            if count > 0:
                made_at.append((count, at))
        return made_at

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        """Log an input."""
        if self.is_watched:
            self._stir()
        if self._is_open and self._is_logging:
            self._log(LogKind.INPUT, position, channel=channel, payload=payload)

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        """Log a step of the waiting guest's clock."""
        if self.is_watched:
            self._stir()
        if self._is_open and self._is_logging:
            self._log(LogKind.CLOCK, position, amount=amount)

    def _stir(self) -> None:
        self.is_watched, self.has_stirred = False, True
        self._wake()

    def want_cut(self) -> None:
        """Note that the guest asks for a cut; whoever hands that on takes the note back."""
        self.is_cut_wanted = True
        self._wake()

    def warn(self, reason: str) -> None:
        """Keep a warning, also while the sink is closed; the oldest ones go where there are too many."""
        self._warnings.append(reason)
        self._wake()

    def take_warnings(self) -> list[str]:
        """Take out the warnings that have come, in order."""
        return [self._warnings.popleft() for _ in range(len(self._warnings))]

    def drain(self) -> Emitted:
        """Take out all that has come, in order."""
        tables: list[LogTable] = []
        single: list[LogRecord] = []
        said: list[tuple[OutputTable, int]] = []
        while self.items:
            item, log_index = self.items.popleft()
            if isinstance(item, Emitted):
                if single:
                    tables.append(LogTable.of(single))
                    single = []
                tables.append(item.log)
                said += item.said
            elif isinstance(item, LogRecord):
                single.append(item)
            else:
                said.append((item, log_index))
        if single:
            tables.append(LogTable.of(single))
        # Behind the outputs: a flush that comes between counts as one that came before them.
        has_flush = bool(said) and self._is_logging and self.has_flush is not None and self.has_flush()
        if len(said) > 1:
            groups = groupby(said, key=itemgetter(1))
            said = [(joined_outputs([outputs for outputs, _ in group]), index) for index, group in groups]
        if not tables:
            return Emitted(NO_LOG, said, has_flush=has_flush)
        return Emitted(tables[0] if len(tables) == 1 else joined(tables), said, has_flush=has_flush)

    def put_back(self, emitted: Emitted) -> None:
        """Take back what was drained, before all that has come since: it is handed on as if nobody had asked."""
        if emitted.log.record_count or emitted.said:
            self.items.appendleft((emitted, 0))

    def _log(
        self, kind: LogKind, position: GuestPosition, *, amount: int = 0, channel: str = "", payload: bytes = b""
    ) -> None:
        self.log_index += 1
        index = self.log_index
        record = LogRecord(index=index, kind=kind, position=position, amount=amount, channel=channel, payload=payload)
        self.items.append((record, index))
        if len(self.items) <= 1:
            self._wake()
