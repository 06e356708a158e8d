import random
from array import array

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import DigestTable, NativeMemory, digest_to_int, digest_variants, page_hash64, page_hash128
from ftvm.errors import LocalProtocolError
from ftvm.units import PAGE_BYTES

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


def test_hash_of_anything_but_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="4096 bytes"):
        page_hash64(bytes(100), 0)
    with pytest.raises(ValueError, match="variant 99"):
        page_hash128(bytes(PAGE_BYTES), 0, variant=99)
