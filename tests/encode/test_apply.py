import json
import random
import subprocess
import sys
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.checkpoint import PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import BadFrame, DigestMismatch, LocalProtocolError, RemoteProtocolError
from ftvm.units import PAGE_BYTES

from ..native.pages import ZERO_PAGE, page_of_seed
from ..native.test_digest import from_scratch
from .delta import delta_encode


def make_batch(entries: list[tuple[int, bytes]]) -> PageBatch:
    indices = array("I", [index for index, _ in entries]).tobytes()
    lengths = array("H", [len(delta) for _, delta in entries]).tobytes()
    payload = b"".join(delta for _, delta in entries)
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=len(entries), indices=indices, lengths=lengths, payload=payload, digest=digest)


def resealed(batch: PageBatch) -> PageBatch:
    return replace(batch, digest=batch_digest(batch.indices, batch.lengths, batch.payload))


class Backup:
    def __init__(self, page_counts: tuple[int, ...] = (3, 4)) -> None:
        self.regions = [bytearray(count * PAGE_BYTES) for count in page_counts]
        self.regions[0][:4] = b"here"
        self.committed = CommittedMemory(NativeMemory(self.regions))

    def content(self) -> bytes:
        return b"".join(self.regions)

    @staticmethod
    def of(content: bytes) -> CommittedMemory:
        return CommittedMemory(NativeMemory([bytearray(content)]))


ONE_BYTE = b"\x01\x00\x00x"
PAGE = page_of_seed(9)
GOOD = [(0, ONE_BYTE), (2, delta_encode(PAGE, ZERO_PAGE)), (3, ONE_BYTE)]


def expected_after_good(backup: Backup) -> bytes:
    content = bytearray(backup.content())
    content[0:1] = content[3 * PAGE_BYTES : 3 * PAGE_BYTES + 1] = b"x"
    content[2 * PAGE_BYTES : 3 * PAGE_BYTES] = PAGE
    return bytes(content)


def test_verified_batches_are_committed_whole() -> None:
    backup = Backup()
    after = expected_after_good(backup)
    batches = [make_batch(GOOD[:1]), make_batch(GOOD[1:])]

    backup.committed.verify(batches, from_scratch(after))
    backup.committed.commit(batches)

    assert backup.content() == after
    assert backup.committed.memory_digest == from_scratch(after)


def test_verify_leaves_memory_and_digest_alone() -> None:
    backup = Backup()
    before, digest = backup.content(), backup.committed.memory_digest

    backup.committed.verify([make_batch(GOOD)], None)

    assert backup.content() == before
    assert backup.committed.memory_digest == digest == from_scratch(before)


def test_nothing_captured_is_nothing_changed() -> None:
    backup = Backup()

    backup.committed.verify([], backup.committed.memory_digest)
    backup.committed.commit([])

    assert backup.committed.memory_digest == from_scratch(backup.content())


def test_another_memory_digest_is_refused() -> None:
    backup = Backup()
    batches = [make_batch(GOOD)]

    with pytest.raises(DigestMismatch, match="memories differ"):
        backup.committed.verify(batches, 1)

    with pytest.raises(LocalProtocolError):
        backup.committed.commit(batches)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(7, ONE_BYTE)], "entry 0: its page index"),
        ([(0xFFFFFFFF, ONE_BYTE)], "entry 0: its page index"),
        ([(1, ONE_BYTE), (1, ONE_BYTE)], "entry 1: its page index"),
        ([(2, ONE_BYTE), (1, ONE_BYTE)], "entry 1: its page index"),
        ([(0, b"")], "entry 0: its length"),
        ([(0, b"\x99")], "entry 0: its bytes"),
    ],
)
def test_malformed_batch_is_refused_by_name(entries: list[tuple[int, bytes]], reason: str) -> None:
    backup = Backup()
    before = backup.content()

    with pytest.raises(BadFrame, match=reason):
        backup.committed.verify([make_batch(entries)], None)

    assert backup.content() == before


def test_indices_must_rise_over_all_batches_of_a_checkpoint() -> None:
    with pytest.raises(BadFrame, match="batch 1, entry 0: its page index"):
        Backup().committed.verify([make_batch([(2, ONE_BYTE)]), make_batch([(2, ONE_BYTE)])], None)


def test_lengths_must_use_up_the_payload_exactly() -> None:
    batch = make_batch(GOOD)

    for payload in (bytes(batch.payload)[:-1], bytes(batch.payload) + b"\0"):
        with pytest.raises(BadFrame, match="its length does not fit"):
            Backup().committed.verify([resealed(replace(batch, payload=payload))], None)


@pytest.mark.parametrize("count", [-1, 0, 2, 4, 1 << 40])
def test_count_must_be_that_of_the_arrays(count: int) -> None:
    with pytest.raises(BadFrame, match="arrays do not have"):
        Backup().committed.verify([replace(make_batch(GOOD), count=count)], None)


@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    backup = Backup()
    before = backup.content()
    batch = make_batch(GOOD)
    part = data.draw(st.sampled_from(["indices", "lengths", "payload", "digest"]))
    flipped = bytearray(getattr(batch, part))
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(DigestMismatch):
        backup.committed.verify([replace(batch, **{part: bytes(flipped)})], None)

    assert backup.content() == before


@given(
    st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=40)), max_size=8),
    st.integers(0, 1 << 128),
)
def test_arbitrary_batch_never_reaches_memory_unless_its_digest_is_right(
    entries: list[tuple[int, bytes]], expected: int
) -> None:
    backup = Backup()
    before = backup.content()

    if entries:
        with pytest.raises(RemoteProtocolError):
            backup.committed.verify([make_batch(entries)], expected)

    assert backup.content() == before


def test_only_what_was_verified_last_can_be_committed() -> None:
    backup = Backup()
    batch = make_batch(GOOD)
    backup.committed.verify([batch], None)

    with pytest.raises(LocalProtocolError):
        backup.committed.commit([make_batch(GOOD)])
    with pytest.raises(LocalProtocolError):
        backup.committed.commit([batch])


def test_clear_zeroes_memory_and_its_digest() -> None:
    backup = Backup()
    backup.committed.verify([make_batch(GOOD)], None)

    backup.committed.clear()

    assert backup.content() == bytes(7 * PAGE_BYTES)
    assert backup.committed.memory_digest == from_scratch(bytes(7 * PAGE_BYTES))
    with pytest.raises(LocalProtocolError):
        backup.committed.commit([make_batch(GOOD)])


def test_arrays_need_not_be_aligned() -> None:
    backup = Backup()
    batch = make_batch(GOOD)
    shifted = {part: memoryview(b"_" + getattr(batch, part))[1:] for part in ("indices", "lengths", "payload")}

    backup.committed.verify([replace(batch, **shifted)], None)


# --- where the arrays end ---------------------------------------------------------------------------------------------


def outcomes_at_the_edge(batches: Sequence[PageBatch]) -> list[str]:
    """Return what becomes of batches behind whose arrays nothing may be read (edge.py)."""
    told = [[bytes(part).hex() for part in (batch.indices, batch.lengths, batch.payload)] for batch in batches]
    program = Path(__file__).with_name("edge.py")
    done = subprocess.run(
        [sys.executable, "-P", program],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"ended by {-done.returncode}, a read behind the end? after {done.stdout!r}"
    return done.stdout.splitlines()


def sparse_page(seed: int, share: float) -> bytes:
    """Return a page in which so large a share of the bytes is not zero."""
    rng = random.Random(seed)
    return bytes(rng.randrange(1, 256) if rng.random() < share else 0 for _ in range(PAGE_BYTES))


DELTAS = [
    delta_encode(sparse_page(seed, share), ZERO_PAGE) for seed, share in enumerate((0.003, 0.02, 0.1, 0.4, 0.8, 1))
]


def test_nothing_behind_a_good_batch_is_read() -> None:
    batches = [make_batch([(0, first), (2, last)]) for first in DELTAS for last in DELTAS]

    assert outcomes_at_the_edge(batches) == ["taken"] * len(batches)


@pytest.mark.parametrize("missing", [1, 3, 8, 60])
def test_a_delta_that_would_reach_behind_its_payload_is_refused_unread(missing: int) -> None:
    """Its length fits the payload, but not what the entries before it have left of that."""
    short = [make_batch([(0, first), (2, last)]) for first in DELTAS for last in DELTAS if missing < len(last)]
    batches = [replace(batch, payload=bytes(batch.payload)[:-missing]) for batch in short]

    said = outcomes_at_the_edge(batches)

    assert said == ["refused: batch 0, entry 1: its length does not fit the payload"] * len(batches)


# --- a cache ---------------------------------------------------------------------------------------------------------


def test_what_is_offered_are_the_pages_as_they_are_now() -> None:
    """A guest that was active here has written since anybody looked."""
    backup = Backup()
    backup.regions[1][:PAGE_BYTES] = PAGE

    backup.committed.hold()
    offered = backup.committed.offer(0, 7)

    assert offered == Backup.of(backup.content()).offer(0, 7)
    assert backup.committed.memory_digest == from_scratch(backup.content())


def test_what_is_not_kept_becomes_zero() -> None:
    backup = Backup()
    backup.regions[0][:] = PAGE * 3
    backup.regions[1][:] = PAGE * 4
    backup.committed.hold()
    backup.committed.offer(0, 7)

    kept = backup.committed.keep(0, 4, (0b1010).to_bytes(8, "little")) + backup.committed.keep(4, 3, bytes(8))

    zero = bytes(PAGE_BYTES)
    assert kept == 2
    assert backup.content() == zero + PAGE + zero + PAGE + zero * 3
    assert backup.committed.memory_digest == from_scratch(backup.content())


def test_a_region_that_is_to_begin_anew_is_zero_and_is_not_offered() -> None:
    backup = Backup()
    backup.regions[0][:] = PAGE * 3
    backup.regions[1][:] = PAGE * 4

    offered = backup.committed.hold([0])

    assert offered == ((3, 4),)
    assert backup.content() == bytes(3 * PAGE_BYTES) + PAGE * 4
    backup.committed.offer(3, 4)
    assert backup.committed.memory_digest == from_scratch(backup.content())


def test_only_what_was_verified_since_can_be_committed_onto_a_cache() -> None:
    backup = Backup()
    batch = make_batch(GOOD)
    backup.committed.verify([batch], None)

    backup.committed.hold()

    with pytest.raises(LocalProtocolError):
        backup.committed.commit([batch])
