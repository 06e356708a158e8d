import random
from array import array

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native import lib
from ftvm._native.memory import UNKNOWN_HASH, DigestTable, NativeMemory, digest_to_int, is_unknown
from ftvm.checkpoint import PAGE_COUNT_MAX
from ftvm.errors import LocalProtocolError
from ftvm.units import PAGE_BYTES

from .hashes import digest_variants, page_hash64, page_hash128
from .pages import pages

seeds = st.integers(0, (1 << 64) - 1)


def from_scratch(memory: bytes) -> int:
    digests = (
        xxhash.xxh3_128_intdigest(memory[at : at + PAGE_BYTES], seed=at // PAGE_BYTES)
        for at in range(0, len(memory), PAGE_BYTES)
    )
    return sum(digests) % (1 << 128)


@given(pages, seeds)
def test_page_hash_equals_the_xxhash_package(page: bytes, seed: int) -> None:
    assert page_hash64(page, seed) == xxhash.xxh3_64_intdigest(page, seed=seed)
    for variant in digest_variants():
        assert page_hash128(page, seed, variant=variant) == xxhash.xxh3_128_intdigest(page, seed=seed)


def test_table_of_a_memory_equals_the_sum_from_scratch() -> None:
    content = random.Random(7).randbytes(9 * PAGE_BYTES)
    regions = [bytearray(content[: 4 * PAGE_BYTES]), bytearray(content[4 * PAGE_BYTES :])]
    table = DigestTable(9)

    table.measure(NativeMemory(regions))

    assert digest_to_int(table.sum) == from_scratch(content)


def test_table_of_zero_memory_is_what_zero_pages_hash_to() -> None:
    table = DigestTable(5)

    assert digest_to_int(table.sum) == from_scratch(bytes(5 * PAGE_BYTES)) != 0


@pytest.mark.parametrize("step", [1, 300, 511])
def test_the_known_sums_of_zeros_are_those_of_their_pages(step: int) -> None:
    """Between two of them are a million pages: one less than the step is summed up page by page."""
    table = lib.ftvm_digest_zeros(step << 20)
    before = lib.ftvm_digest_zeros((step << 20) - 1)

    last = page_hash128(bytes(PAGE_BYTES), (step << 20) - 1)
    assert (digest_to_int(before) + last) % (1 << 128) == digest_to_int(table)


def test_the_largest_memory_has_a_sum() -> None:
    largest, one_less = (digest_to_int(lib.ftvm_digest_zeros(count)) for count in (PAGE_COUNT_MAX, PAGE_COUNT_MAX - 1))

    assert largest == (one_less + page_hash128(bytes(PAGE_BYTES), PAGE_COUNT_MAX - 1)) % (1 << 128)


def test_a_table_of_present_pages_is_that_of_all() -> None:
    content = bytearray(9000 * PAGE_BYTES)
    written = array("I", [0, 4095, 4096, 8999])
    for page in written:
        content[page * PAGE_BYTES] = 1
    whole, some = DigestTable(9000), DigestTable(9000)
    memory = NativeMemory([content])

    whole.measure(memory)
    some.refresh(memory, array("I", [7]))
    some.measure(memory, written)

    assert digest_to_int(some.sum) == digest_to_int(whole.sum)
    assert [some.page(page) for page in (0, 1, 4095, 8999)] == [whole.page(page) for page in (0, 1, 4095, 8999)]
    with pytest.raises(IndexError, match="page 9000 of 9000"):
        some.page(9000)


@pytest.mark.parametrize("page_count", [4, 6])
def test_a_memory_of_another_size_than_the_table_is_refused_and_changes_nothing(page_count: int) -> None:
    table = DigestTable(5)
    before = digest_to_int(table.sum)
    memory = NativeMemory([bytearray(b"x" * (page_count * PAGE_BYTES))])

    with pytest.raises(LocalProtocolError, match=f"a table of 5 pages, a memory of {page_count}"):
        table.measure(memory)
    with pytest.raises(LocalProtocolError, match=f"a table of 5 pages, a memory of {page_count}"):
        table.refresh(memory, array("I", [0]))

    assert digest_to_int(table.sum) == before


def test_pages_that_swap_places_change_the_digest() -> None:
    one, other = bytes([1]) * PAGE_BYTES, bytes([2]) * PAGE_BYTES

    assert from_scratch(one + other) != from_scratch(other + one)


@pytest.mark.parametrize(("first", "count"), [(0, 10_000), (4_000, 200), (5_000, 0), (8_191, 2), (9_999, 1)])
def test_pages_that_become_zero_unseen_leave_the_table_of_a_memory_in_which_they_are(first: int, count: int) -> None:
    memory = bytearray(10_000 * PAGE_BYTES)
    for page in (0, 4_095, 4_100, 8_191, 8_192, 9_999):
        memory[page * PAGE_BYTES] = 1
    table, native = DigestTable(10_000), NativeMemory([memory])
    table.refresh(native, array("I", [0, 4_095, 4_100, 8_191, 8_192, 9_999]))

    table.zero(first, count)
    memory[first * PAGE_BYTES : (first + count) * PAGE_BYTES] = bytes(count * PAGE_BYTES)
    expected = DigestTable(10_000)
    expected.measure(native)

    assert digest_to_int(table.sum) == digest_to_int(expected.sum)
    assert [table.page(page) for page in range(0, 10_000, 5)] == [expected.page(page) for page in range(0, 10_000, 5)]


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (9, 2), (11, 0)])
def test_pages_beyond_a_table_are_refused(first: int, count: int) -> None:
    table = DigestTable(10)

    with pytest.raises(IndexError):
        table.zero(first, count)
    with pytest.raises(IndexError):
        table.pages(first, count)


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 3))
def test_hashes_that_are_taken_are_as_good_as_a_look_and_unknown_ones_change_nothing(
    taken: list[bool], first: int
) -> None:
    content = random.Random(8).randbytes(9 * PAGE_BYTES)
    memory, table, whole = NativeMemory([bytearray(content)]), DigestTable(9), DigestTable(9)
    whole.measure(memory)
    hashes = b"".join(whole.pages(first + n, 1) if is_taken else UNKNOWN_HASH for n, is_taken in enumerate(taken))

    table.take(first, hashes)

    assert [is_unknown(hashes, n) for n in range(6)] == [not is_taken for is_taken in taken]
    read = [page for page in range(9) if not (first <= page < first + 6 and taken[page - first])]
    table.refresh(memory, array("I", read))
    assert digest_to_int(table.sum) == from_scratch(content)
    assert table.pages(0, 9) == whole.pages(0, 9)
    with pytest.raises(IndexError, match="in a table of 9"):
        table.take(4, hashes)
