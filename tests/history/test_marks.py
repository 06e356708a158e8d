"""The pages of a mark come whole: they make any memory what the guest's was there."""

import random
from array import array

from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.merge import merge_batches
from ftvm.history.marks import copy_pages, whole_pages
from ftvm.units import PAGE_BYTES

PAGES = 6


def memory_of(seed: int) -> bytearray:
    chance = random.Random(seed)
    pages = [chance.choice([bytes(PAGE_BYTES), b"x" * PAGE_BYTES, chance.randbytes(PAGE_BYTES)]) for _ in range(PAGES)]
    return bytearray(b"".join(pages))


WRITTEN = st.sets(st.integers(0, PAGES - 1), min_size=1).map(sorted)


@given(st.integers(0, 999), st.integers(0, 999), WRITTEN)
def test_pages_become_what_they_were_in_the_copy_and_no_others_change(
    guest: int, other: int, written: list[int]
) -> None:
    there, here = memory_of(guest), memory_of(other)
    before = bytes(here)
    batch = whole_pages(copy_pages(NativeMemory([there]), written))
    committed = CommittedMemory(NativeMemory([here]))

    committed.verify([batch], None)
    committed.commit([batch])

    for page in range(PAGES):
        place = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        assert here[place] == (there if page in written else before)[place]


@given(st.lists(st.tuples(st.integers(0, 999), WRITTEN), min_size=1, max_size=5), st.integers(0, 999))
def test_marks_merged_do_what_they_do_one_after_the_other(marks: list[tuple[int, list[int]]], other: int) -> None:
    batches = [whole_pages(copy_pages(NativeMemory([memory_of(seed)]), written)) for seed, written in marks]
    merged, stepped = memory_of(other), memory_of(other)

    CommittedMemory(NativeMemory([merged])).replay(merge_batches(batches, PAGES))
    in_order = CommittedMemory(NativeMemory([stepped]))
    for batch in batches:
        in_order.replay(batch)

    assert merged == stepped


def test_a_copy_stays_as_it_was_when_the_guest_is_led_on() -> None:
    there = memory_of(1)
    before = bytes(there)

    copy = copy_pages(NativeMemory([there]), array("I", range(PAGES)))
    there[:] = bytes(len(there))

    assert copy.content == before
