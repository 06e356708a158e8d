"""A packed table is its records: however it was made, cut, joined or forgotten, it tells the same as they do."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.encode.fields import NAMES_MAX
from ftvm.errors import LimitExceeded
from ftvm.logtable import CHANNELS_MAX, NO_LOG, KeptLog, LogTable, joined

from .strategies import logs


def pieces_of(records: tuple[LogRecord, ...], cuts: set[int]) -> list[LogTable]:
    """Return tables of the records, cut at these places."""
    places = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    return [LogTable.of(records[start:end]) for start, end in pairwise(places)]


def last_output_of(records: tuple[LogRecord, ...]) -> int | None:
    return next((record.amount for record in reversed(records) if record.kind is LogKind.OUTPUT), None)


RECORD = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(1, 0), payload=b"x")
CUTS = st.sets(st.integers(0, 12))


@given(logs())
def test_a_table_tells_what_its_records_do(records: tuple[LogRecord, ...]) -> None:
    table = LogTable.of(records)

    assert tuple(table) == records
    assert table == records
    assert hash(table) == hash(records)
    assert (len(table), table[0], table[-1]) == (len(records), records[0], records[-1])
    assert (table.first, table.last) == (records[0].index, records[-1].index)
    assert len(table.payloads) == sum(len(record.payload) for record in records)
    assert table.last_output == last_output_of(records)
    assert LogTable.of(table) is table


@given(logs(), CUTS)
def test_pieces_that_are_joined_are_the_table_of_all_byte_for_byte(
    records: tuple[LogRecord, ...], cuts: set[int]
) -> None:
    """Mutant: each piece keeps its own numbers for channels, and inputs go to another device."""
    whole, again = LogTable.of(records), joined([NO_LOG, *pieces_of(records, cuts)])

    assert again == records
    assert (again.first, again.channels, again.rows) == (whole.first, whole.channels, whole.rows)
    assert again.payloads == whole.payloads


@given(logs(), st.integers(0, 12))
def test_the_first_records_of_a_table_and_what_is_behind_them_are_all_of_it(
    records: tuple[LogRecord, ...], count: int
) -> None:
    """Mutant: the first records keep the payloads of all."""
    table = LogTable.of(records)

    first = table.upto(count)

    assert tuple(first) == records[:count]
    assert first.payloads == b"".join(record.payload for record in records[:count])
    assert (first is table) == (count >= len(records))


@given(logs(), CUTS, st.integers(-2, 14))
def test_what_is_covered_is_forgotten_and_no_record_more(
    records: tuple[LogRecord, ...], cuts: set[int], covered: int
) -> None:
    """Mutants: a table is forgotten with its first record; one of which a part is covered is kept whole."""
    kept = KeptLog()
    for piece in pieces_of(records, cuts):
        kept.append(piece)
    index = records[0].index + covered

    kept.forget(index)

    left = tuple(record for record in records if record.index > index)
    assert tuple(kept) == left
    assert len(kept) == len(left)
    assert kept.payload_bytes == sum(len(record.payload) for record in left)
    assert kept.last_output == last_output_of(left)


def test_nothing_is_left_of_a_log_that_was_cleared() -> None:
    kept = KeptLog()
    kept.append(LogTable.of([RECORD]))

    kept.clear()

    assert (list(kept), len(kept), kept.payload_bytes, kept.last_output) == ([], 0, 0, None)


def test_more_channels_than_a_message_can_name_are_refused() -> None:
    """Mutant: they are sent, and the standby leaves a peer that breaks the protocol."""
    many = [replace(RECORD, index=1 + place, channel=f"net{place}") for place in range(CHANNELS_MAX + 1)]

    assert len(LogTable.of(many[1:]).channels) == CHANNELS_MAX == NAMES_MAX
    with pytest.raises(LimitExceeded, match="input channels"):
        LogTable.of(many)
    with pytest.raises(LimitExceeded, match="input channels"):
        joined([LogTable.of(many[:1]), LogTable.of(many[1:])])


def test_an_empty_table_joins_with_nothing() -> None:
    assert joined([]) is NO_LOG
    assert not joined([NO_LOG, NO_LOG])
    assert LogTable.of([RECORD]) != [replace(RECORD, index=2)]
