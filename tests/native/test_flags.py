"""Flags of which few are set: what was set is found, taken and put back, wherever parts begin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.flags import PART_PAGES, SparseFlags
from ftvm.errors import LocalProtocolError

COUNT = 2 * PART_PAGES + 100
pages = st.sampled_from([0, 1, 63, 64, PART_PAGES - 1, PART_PAGES, PART_PAGES + 1, 2 * PART_PAGES, COUNT - 1])
page_sets = st.sets(pages)


def set_pages(flags: SparseFlags, chosen: set[int]) -> None:
    flags.set((page, page + 1) for page in chosen)


def pages_of(words: bytearray) -> set[int]:
    number = int.from_bytes(words, "little")
    return {page for page in range(COUNT) if number >> page & 1}


def found(flags: SparseFlags) -> set[int]:
    return {page for first, end in flags.runs() for page in range(first, end)}


@given(page_sets, page_sets)
def test_what_was_set_is_taken_once_and_can_be_put_back(one: set[int], other: set[int]) -> None:
    flags = SparseFlags(COUNT)
    set_pages(flags, one)

    seen, words = found(flags), flags.take()
    left = found(flags)
    set_pages(flags, other)
    flags.put(words)

    assert (seen, pages_of(words), left) == (one, one, set())
    assert pages_of(flags.take()) == one | other


@given(page_sets, page_sets)
def test_what_was_cleared_is_not_found(one: set[int], other: set[int]) -> None:
    flags = SparseFlags(COUNT)
    set_pages(flags, one)

    for page in other:
        flags.clear(page, page + 1)

    assert found(flags) == one - other


def test_a_run_over_parts_is_found_whole() -> None:
    flags = SparseFlags(COUNT)

    flags.set([(PART_PAGES - 2, 2 * PART_PAGES + 3)])

    assert found(flags) == set(range(PART_PAGES - 2, 2 * PART_PAGES + 3))
    flags.reset()
    assert list(flags.runs()) == []


def test_a_bitmap_of_another_size_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="a bitmap of"):
        SparseFlags(COUNT).put(bytearray(8))
