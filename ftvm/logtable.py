"""Log records as one packed table: the form that they keep from the guest's turn to the wire, and on the standby until
somebody asks for one.

A turn of a busy guest makes dozens of records. As a table they are counted, measured, joined, sent and kept by a few
calls, however many there are; a LogRecord is made only when one is looked at. The rows are those of the wire
(docs/wire.md, "What builds up the state"): kind, channel's number, retired, idled, amount, payload's bytes. The
payloads stand apart, one behind the other.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, overload

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import LimitExceeded

__all__ = ["CHANNELS_MAX", "LOG_ROW", "NO_LOG", "KeptLog", "LogTable", "joined"]

LOG_ROW: Final = struct.Struct("<BBQQQI")
_KINDS: Final = {kind.value: kind for kind in LogKind}
_OUTPUT: Final = bytes([LogKind.OUTPUT.value])
CHANNELS_MAX: Final = 64
"""So many names a message can have."""


class _Records(Sequence[LogRecord]):
    """A sequence that makes its records where somebody asks for them."""

    __slots__ = ()

    @overload
    def __getitem__(self, place: int) -> LogRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[LogRecord]: ...
    def __getitem__(self, place: int | slice) -> LogRecord | Sequence[LogRecord]:
        return tuple(self)[place]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogTable(_Records):
    """`record_count` records of consecutive indices from `first` on. Equal to any sequence of the same records.

    channels  the names that the rows count in
    rows      LOG_ROW for each record, checked by whoever made the table: kinds and channels exist, lengths add up
    payloads  of all records, in order
    """

    first: int
    record_count: int
    channels: tuple[str, ...]
    rows: bytes
    payloads: bytes

    @classmethod
    def of(cls, records: Sequence[LogRecord]) -> "LogTable":
        """Return the table of records, which are of consecutive indices; a table is returned as it is.

        Raises LimitExceeded if they are of more channels than a message can name.
        """
        if isinstance(records, LogTable):
            return records
        if not records:
            return NO_LOG
        channels = tuple(dict.fromkeys([record.channel for record in records]))
        if len(channels) > CHANNELS_MAX:
            raise _too_many(channels)
        rows = (
            LOG_ROW.pack(
                record.kind.value,
                channels.index(record.channel),
                record.position.retired,
                record.position.idled,
                record.amount,
                len(record.payload),
            )
            for record in records
        )
        payloads = b"".join(record.payload for record in records)
        return cls(
            first=records[0].index, record_count=len(records), channels=channels, rows=b"".join(rows), payloads=payloads
        )

    @property
    def last(self) -> int:
        """The index of the last record."""
        return self.first + self.record_count - 1

    @property
    def last_output(self) -> int | None:
        """The number of the last output that a record tells of; None if none does."""
        place = self.rows[:: LOG_ROW.size].rfind(_OUTPUT)
        return None if place < 0 else int(LOG_ROW.unpack_from(self.rows, place * LOG_ROW.size)[4])

    def behind(self, index: int) -> "LogTable":
        """Return the records above `index`, which is one of them."""
        cut = (index + 1 - self.first) * LOG_ROW.size
        covered = sum(row[5] for row in LOG_ROW.iter_unpack(self.rows[:cut]))
        return LogTable(
            first=index + 1,
            record_count=self.last - index,
            channels=self.channels,
            rows=self.rows[cut:],
            payloads=self.payloads[covered:],
        )

    def upto(self, count: int) -> "LogTable":
        """Return the first `count` records; all of them, if there are no more."""
        if count >= self.record_count:
            return self
        rows = self.rows[: count * LOG_ROW.size]
        payloads = self.payloads[: sum([row[5] for row in LOG_ROW.iter_unpack(rows)])]
        return LogTable(first=self.first, record_count=count, channels=self.channels, rows=rows, payloads=payloads)

    def __len__(self) -> int:
        return self.record_count

    def __iter__(self) -> Iterator[LogRecord]:
        index, at = self.first, 0
        for kind, channel, retired, idled, amount, length in LOG_ROW.iter_unpack(self.rows):
            yield LogRecord(
                index=index,
                kind=_KINDS[kind],
                position=GuestPosition(retired, idled),
                amount=amount,
                channel=self.channels[channel],
                payload=self.payloads[at : at + length],
            )
            index, at = index + 1, at + length

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


NO_LOG: Final = LogTable(first=0, record_count=0, channels=(), rows=b"", payloads=b"")


def joined(tables: Sequence[LogTable]) -> LogTable:
    """Return tables, each of which goes on where the one before ends, as one. Raises LimitExceeded as `LogTable.of`."""
    filled = [table for table in tables if table.record_count]
    if len(filled) < 2:
        return filled[0] if filled else NO_LOG
    channels = tuple(dict.fromkeys(chain.from_iterable([table.channels for table in filled])))
    if len(channels) > CHANNELS_MAX:
        raise _too_many(channels)
    rows = b"".join([_renumbered(table, channels) for table in filled])
    payloads = b"".join([table.payloads for table in filled])
    count = sum([table.record_count for table in filled])
    return LogTable(first=filled[0].first, record_count=count, channels=channels, rows=rows, payloads=payloads)


def _too_many(channels: tuple[str, ...]) -> LimitExceeded:
    return LimitExceeded("input channels", limit=CHANNELS_MAX, wanted=len(channels))


def _renumbered(table: LogTable, channels: tuple[str, ...]) -> bytes:
    """Return the rows of a table, with the channels' numbers in another list of names."""
    if channels[: len(table.channels)] == table.channels:
        return table.rows
    numbers = bytes([channels.index(name) for name in table.channels]).ljust(256, b"\0")
    rows = bytearray(table.rows)
    rows[1 :: LOG_ROW.size] = rows[1 :: LOG_ROW.size].translate(numbers)
    return bytes(rows)


class KeptLog(_Records):
    """Tables that follow one another, until they are covered. Mutable: `record_count` and `payload_bytes` of what is
    kept."""

    __slots__ = ("_tables", "payload_bytes", "record_count")

    def __init__(self) -> None:
        self._tables: deque[LogTable] = deque()
        self.record_count = 0
        self.payload_bytes = 0

    def append(self, table: LogTable) -> None:
        """Keep a table more, which goes on behind the last."""
        self._tables.append(table)
        self.record_count += table.record_count
        self.payload_bytes += len(table.payloads)

    def forget(self, covered: int) -> None:
        """Let go of the records up to index `covered`."""
        tables = self._tables
        while tables and tables[0].first <= covered:
            table = tables.popleft()
            self.record_count -= table.record_count
            self.payload_bytes -= len(table.payloads)
            if table.last > covered:
                rest = table.behind(covered)
                tables.appendleft(rest)
                self.record_count += rest.record_count
                self.payload_bytes += len(rest.payloads)

    def clear(self) -> None:
        """Let go of all records."""
        self._tables.clear()
        self.record_count = self.payload_bytes = 0

    @property
    def last_output(self) -> int | None:
        """The number of the last output that a record tells of; None if none does."""
        numbers = (table.last_output for table in reversed(self._tables))
        return next((number for number in numbers if number is not None), None)

    def __len__(self) -> int:
        return self.record_count

    def __iter__(self) -> Iterator[LogRecord]:
        for table in self._tables:
            yield from table
