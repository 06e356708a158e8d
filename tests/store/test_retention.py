from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.store.entry import EntryLevel
from ftvm.store.retention import (
    WIDTH_NS,
    Base,
    EntryRow,
    Keep,
    base_is_due,
    bucket,
    far_end,
    kept_for_pins,
    thinned,
)

SECOND = 1_000_000_000
MIB = 1 << 20


def row(base: int, epoch: int, time_ns: int = 0, level: EntryLevel = EntryLevel.FINE) -> EntryRow:
    return EntryRow(id=epoch, level=level, base=base, epoch=epoch, time_ns=time_ns, segment=1, offset=0, length=10)


FINE = [row(number, number + 1) for number in range(12)]
COVERS = [row(0, 4, level=EntryLevel.SECOND), row(4, 8, level=EntryLevel.SECOND)]


def kept(pins: list[int], covers: list[EntryRow] = COVERS, before_ns: int = 1) -> list[int]:
    gone, _ = thinned(FINE, covers, pins, before_ns=before_ns)
    return [each.epoch for each in FINE if each not in gone]


def test_a_fine_entry_goes_once_a_coarser_one_covers_it() -> None:
    assert kept([]) == [9, 10, 11, 12]


def test_nothing_goes_before_its_time() -> None:
    assert kept([], before_ns=0) == list(range(1, 13))


def test_no_fine_entry_goes_that_no_coarser_one_covers() -> None:
    assert kept([], covers=[]) == list(range(1, 13))
    assert kept([], covers=COVERS[1:]) == [1, 2, 3, 4, 9, 10, 11, 12]


@pytest.mark.parametrize(("pin", "expected"), [(2, [1, 2]), (4, []), (5, [5]), (7, [5, 6, 7]), (8, []), (3, [1, 2, 3])])
def test_a_pin_keeps_what_leads_to_it_within_its_cover(pin: int, expected: list[int]) -> None:
    assert kept([pin]) == [*expected, 9, 10, 11, 12]


def reaches(rows: list[EntryRow], target: int) -> bool:
    here = 0
    while here < target:
        fitting = [each.epoch for each in rows if each.base <= here < each.epoch <= target]
        if not fitting:
            return False
        here = max(fitting)
    return True


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12), st.lists(st.integers(1, 40), max_size=4), st.integers(0, 40)
)
def test_every_pin_and_every_covered_end_stays_reachable(widths: list[int], pins: list[int], covered: int) -> None:
    fine = [row(number, number + 1, time_ns=number) for number in range(40)]
    covers: list[EntryRow] = []
    for width in widths:
        start = covers[-1].epoch if covers else 0
        if start + width <= covered:
            covers.append(row(start, start + width, level=EntryLevel.SECOND))

    gone, _ = thinned(fine, covers, sorted(pins), before_ns=1 << 60)

    left = [each for each in fine if each not in gone] + covers
    assert all(reaches(left, pin) for pin in pins)
    assert all(reaches(left, cover.epoch) for cover in covers)
    assert reaches(left, 40)


def test_it_says_where_to_go_on_once_a_cover_is_missing() -> None:
    assert thinned(FINE, COVERS, [], before_ns=1)[1] == 8
    assert thinned(FINE[:8], COVERS, [], before_ns=1)[1] is None


BASES = [Base(since=10 * n, until=10 * n + 3, time_ns=n * 3600 * SECOND) for n in range(5)]
DAY = Keep()


def test_the_far_end_is_the_last_base_that_is_old_enough() -> None:
    assert far_end(BASES, DAY, now_ns=24 * 3600 * SECOND, is_over_budget=False) is None
    assert far_end(BASES, DAY, now_ns=26 * 3600 * SECOND, is_over_budget=False) == BASES[2]
    assert far_end(BASES, DAY, now_ns=99 * 3600 * SECOND, is_over_budget=False) == BASES[4]
    assert far_end([], DAY, now_ns=99 * 3600 * SECOND, is_over_budget=True) is None


def test_over_budget_the_far_end_moves_by_a_base() -> None:
    assert far_end(BASES, DAY, now_ns=0, is_over_budget=True) == BASES[1]
    assert far_end(BASES[:1], DAY, now_ns=0, is_over_budget=True) is None


def test_a_pin_before_the_far_end_keeps_the_span_from_its_base() -> None:
    assert kept_for_pins(BASES, [5, 8, 25, 44], before=40) == [(0, 8), (20, 25)]
    assert kept_for_pins(BASES, [2], before=40) == []


def test_a_base_is_due_when_it_is_worth_it_or_the_budget_needs_one() -> None:
    def due(**changed: int) -> bool:
        facts = {"base_bytes": MIB, "bytes_since": 0, "ns_since": 0, "total_bytes": MIB, "bases": 2}
        return base_is_due(Keep(budget="100M"), **(facts | changed))

    assert not due()
    assert not due(ns_since=4 * 3600 * SECOND)
    assert due(ns_since=4 * 3600 * SECOND, bytes_since=8 * MIB)
    assert not due(ns_since=60 * SECOND, bytes_since=8 * MIB)
    assert due(ns_since=25 * 3600 * SECOND)
    assert due(bytes_since=20 * MIB)
    assert due(bytes_since=MIB, total_bytes=101 * MIB, bases=1)


def test_each_level_covers_a_multiple_of_the_one_below() -> None:
    widths = list(WIDTH_NS.values())

    assert all(upper % lower == 0 for lower, upper in pairwise(widths))
    assert bucket(EntryLevel.MINUTE, 119 * SECOND) == 1


def test_how_long_is_read_from_text_and_told_as_text() -> None:
    keep = Keep.parse("all=90s, budget=2G")

    assert (keep.all_ns, keep.second_ns, keep.minute_ns) == (90 * SECOND, 3600 * SECOND, 86_400 * SECOND)
    assert keep.budget_bytes == 2 << 30
    assert Keep.parse(str(keep)) == keep
    assert Keep.parse("") == Keep()
    assert (keep.age_ns(EntryLevel.FINE), keep.age_ns(EntryLevel.SECOND)) == (keep.all_ns, keep.second_ns)


@pytest.mark.parametrize(
    "text", ["all", "all=", "all=1", "all=0s", "all=1w", "every=1m", "all=1m,all=2m", "budget=1K", "all=2h", "=1m"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Keep.parse(text)
