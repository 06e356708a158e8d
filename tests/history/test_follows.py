"""Whether a stretch of a history has all inputs: a record of the log that is missing is never taken for silence."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import HistoryError
from ftvm.history.extract import follows, inputs_between
from ftvm.store.entry import Entry, EntryLevel

BEFORE = Entry(
    level=EntryLevel.FINE,
    base=0,
    epoch=1,
    time_ns=1,
    engine="remus",
    position=GuestPosition(10, 0),
    output_next=5,
    log_index=7,
)


def record(index: int) -> LogRecord:
    return LogRecord(index=index, kind=LogKind.INPUT, position=GuestPosition(10 * index, 0), channel="console")


def entries_of(sizes: Sequence[int]) -> list[Entry]:
    """Return entries that follow BEFORE, each with so many records."""
    entries, last = [], BEFORE
    for size in sizes:
        log = tuple(record(last.log_index + 1 + place) for place in range(size))
        last = replace(last, base=last.epoch, epoch=last.epoch + 1, log_index=last.log_index + size, log=log)
        entries.append(last)
    return entries


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), data=st.data())
def test_a_stretch_without_any_one_of_its_records_is_refused(sizes: list[int], data: st.DataObject) -> None:
    """Mutants: only the number of records is looked at, or only where they begin."""
    entries = entries_of(sizes)
    all_of_it = inputs_between(BEFORE, entries)
    with_log = [number for number, size in enumerate(sizes) if size]

    assert [each.index for each in all_of_it] == list(range(8, 8 + sum(sizes)))
    if with_log:
        number = data.draw(st.sampled_from(with_log))
        place = data.draw(st.integers(0, sizes[number] - 1))
        log = entries[number].log
        entries[number] = replace(entries[number], log=log[:place] + log[place + 1 :])
        with pytest.raises(HistoryError, match=f"the inputs of epoch {entries[number].epoch} are not in the history"):
            inputs_between(BEFORE, entries)


def test_records_of_another_stretch_are_not_those_of_this_one() -> None:
    after = replace(BEFORE, base=1, epoch=2, log_index=8, log=(record(9),))

    assert not follows(BEFORE, after)


@pytest.mark.parametrize(
    ("output_next", "idled", "is_complete"),
    [(5, 0, True), (6, 0, False), (5, 3, False)],
    ids=["silent", "an output was made", "the guest has waited"],
)
def test_an_entry_without_a_log_follows_only_if_nothing_can_have_been_logged(
    output_next: int, idled: int, is_complete: bool
) -> None:
    """Mutants: a host that does not ship its log counts as one whose guest took nothing."""
    after = replace(BEFORE, base=1, epoch=2, output_next=output_next, position=GuestPosition(20, idled))

    assert follows(BEFORE, after) is is_complete
