import ctypes
import mmap
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.checkpoint import PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.encode.merge import MERGED_AT_ONCE, join_batches, merge_batches
from ftvm.errors import BadFrame
from ftvm.units import PAGE_BYTES

from ..native.pages import overwritten, pages, sprinkled, writes
from .delta import delta_encode

PAGES = 5


def batch_of(deltas: dict[int, bytes]) -> PageBatch:
    indices = b"".join(page.to_bytes(4, "little") for page in sorted(deltas))
    lengths = b"".join(len(deltas[page]).to_bytes(2, "little") for page in sorted(deltas))
    payload = b"".join(deltas[page] for page in sorted(deltas))
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=len(deltas), indices=indices, lengths=lengths, payload=payload, digest=digest)


def applied(memory: bytes, *batches: PageBatch) -> bytes:
    buffer = bytearray(memory)
    committed = CommittedMemory(NativeMemory([buffer]))
    for batch in batches:
        committed.verify((batch,), None)
        committed.commit((batch,))
    return bytes(buffer)


def difference(before: bytes, after: bytes) -> PageBatch:
    """Return the batch that a capture makes of two memories."""
    deltas = {}
    for page in range(len(before) // PAGE_BYTES):
        at = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        if before[at] != after[at]:
            deltas[page] = delta_encode(after[at], before[at])
    return batch_of(deltas)


@st.composite
def histories(draw: st.DrawFn) -> list[bytes]:
    """Return memories of a few pages, one after the other."""
    states = [b"".join(draw(st.lists(pages, min_size=PAGES, max_size=PAGES)))]
    for _ in range(draw(st.integers(1, 5))):
        state = bytearray(states[-1])
        for page in draw(st.sets(st.integers(0, PAGES - 1))):
            at = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            old = bytes(state[at])
            state[at] = draw(
                st.one_of(
                    pages,
                    writes.map(lambda changes, old=old: overwritten(old, changes)),
                    st.builds(sprinkled, st.just(old), st.integers(0, 1 << 32), st.integers(0, 64)),
                )
            )
        states.append(bytes(state))
    return states


@given(histories())
def test_a_merged_batch_does_what_its_batches_do_in_order(states: list[bytes]) -> None:
    batches = [difference(a, b) for a, b in pairwise(states)]

    merged = merge_batches(batches, PAGES)

    assert applied(states[0], merged) == states[-1]


@given(histories(), pages)
def test_a_merged_batch_touches_no_byte_that_its_batches_do_not(states: list[bytes], noise: bytes) -> None:
    batches = [difference(a, b) for a, b in pairwise(states)]
    elsewhere = noise * PAGES

    merged = merge_batches(batches, PAGES)

    assert applied(elsewhere, merged) == applied(elsewhere, *batches)


@given(histories())
def test_merging_in_groups_gives_the_same_as_merging_at_once(states: list[bytes]) -> None:
    batches = [difference(a, b) for a, b in pairwise(states)]

    first = merge_batches(batches[: len(batches) // 2 + 1], PAGES)
    rest = batches[len(batches) // 2 + 1 :]

    assert applied(states[0], merge_batches([first, *rest], PAGES)) == states[-1]


def test_more_batches_than_merge_at_once_are_merged_in_groups() -> None:
    chance = random.Random(3)
    states = [bytes(PAGES * PAGE_BYTES)]
    for _ in range(2 * MERGED_AT_ONCE + 3):
        states.append(sprinkled(states[-1][:PAGE_BYTES], chance.randrange(1 << 30), 40) + states[-1][PAGE_BYTES:])
    batches = [difference(a, b) for a, b in pairwise(states)]

    merged = merge_batches(batches, PAGES)

    assert applied(states[0], merged) == states[-1]


def test_a_page_of_which_all_but_one_byte_is_known_merges() -> None:
    old = random.Random(1).randbytes(PAGE_BYTES)
    lower, upper = bytearray(old), bytearray(old)
    for at in range(PAGE_BYTES):
        if at % 64 < 32:
            lower[at] ^= 0xFF
        elif at % 64 != 63:
            upper[at] ^= 0xFF
    both = bytes(a if a != c else b for a, b, c in zip(lower, upper, old, strict=True))
    batches = [batch_of({0: delta_encode(bytes(lower), old)}), batch_of({0: delta_encode(both, bytes(lower))})]

    merged = merge_batches(batches, 1)

    assert applied(old, merged) == both


def test_batches_of_more_than_one_output_buffer_merge() -> None:
    count = 3_000
    first = batch_of({page: b"\x30" + random.Random(page).randbytes(PAGE_BYTES) for page in range(count)})
    second = batch_of(dict.fromkeys(range(0, count, 2), b"\x01\x00\x00!"))
    memory = bytes(count * PAGE_BYTES)

    merged = merge_batches([first, second], count)

    assert merged.count == count
    assert applied(memory, merged) == applied(memory, first, second)


def test_batches_of_one_checkpoint_join() -> None:
    parts = [batch_of({0: b"\x00"}), batch_of({2: b"\x00", 3: b"\x01\x00\x00!"})]

    assert join_batches(parts) == batch_of({0: b"\x00", 2: b"\x00", 3: b"\x01\x00\x00!"})
    assert join_batches(parts[:1]) is parts[0]


@pytest.mark.parametrize(
    "bad",
    [
        batch_of({9: b"\x00"}),
        batch_of({0xFFFF_FFFF: b"\x00"}),
        batch_of({0: b"\x77"}),
        batch_of({1: b"\x00" * 9000}),
        PageBatch(count=1, indices=bytes(4), lengths=b"\x09\x00", payload=b"\x00", digest=bytes(16)),
        PageBatch(count=1, indices=bytes(4), lengths=b"\x00\x00", payload=b"", digest=bytes(16)),
        PageBatch(count=2, indices=bytes(8), lengths=b"\x01\x00" * 2, payload=b"\x00\x00", digest=bytes(16)),
        PageBatch(count=1, indices=bytes(4), lengths=b"\x01\x00", payload=b"\x00\x00", digest=bytes(16)),
        PageBatch(count=2, indices=bytes(4), lengths=b"\x01\x00", payload=b"\x00", digest=bytes(16)),
        PageBatch(count=0, indices=b"", lengths=b"", payload=b"\x00", digest=bytes(16)),
    ],
    ids=[
        "outside",
        "last index",
        "no delta",
        "longer than any",
        "too long",
        "empty",
        "twice",
        "rest",
        "shape",
        "no pages",
    ],
)
def test_what_is_no_batch_is_refused(bad: PageBatch) -> None:
    good = batch_of({0: b"\x01\x00\x00!"})

    with pytest.raises(BadFrame):
        merge_batches([good, bad], PAGES)


def test_nothing_behind_a_batch_is_read() -> None:
    """What is copied as it is, because one batch alone has it, is never decoded, so no decoder looks at its length."""
    room = mmap.mmap(-1, 2 * PAGE_BYTES)
    behind = ctypes.addressof(ctypes.c_char.from_buffer(room)) + PAGE_BYTES
    payload = memoryview(room)[PAGE_BYTES - 1 : PAGE_BYTES]
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(behind), PAGE_BYTES, 0) == 0  # to read it ends the process
    lie = PageBatch(count=1, indices=bytes(4), lengths=b"\x09\x00", payload=payload, digest=bytes(16))

    with pytest.raises(BadFrame):
        merge_batches([lie, batch_of({1: b"\x00"})], PAGES)


@given(st.lists(st.binary(max_size=60), min_size=2, max_size=4), st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_any_bytes_merge_or_are_refused(payloads: list[bytes], places: list[int]) -> None:
    batches = [batch_of({place: payload}) for place, payload in zip(places, payloads, strict=False) if payload]

    try:
        merged = merge_batches(batches, PAGES) if batches else batch_of({})
    except BadFrame:
        return

    assert merged.count <= len(batches)
