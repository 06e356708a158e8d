from array import array

import pytest

from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.checkpoint import Bitmap
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.units import PAGE_BYTES


def test_clear_zeroes_every_region() -> None:
    regions = [bytearray(b"x" * PAGE_BYTES), bytearray(bytes(PAGE_BYTES) + b"y" * PAGE_BYTES)]

    NativeMemory(regions).clear()

    assert regions == [bytes(PAGE_BYTES), bytes(2 * PAGE_BYTES)]


@pytest.mark.parametrize("buffer", [bytes(PAGE_BYTES), bytearray(), bytearray(PAGE_BYTES + 1)])
def test_buffer_that_is_no_writable_run_of_pages_is_refused(buffer: bytes | bytearray) -> None:
    with pytest.raises(ConfigError, match="memory region 1"):
        NativeMemory([bytearray(PAGE_BYTES), buffer])


def test_memory_without_regions_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        NativeMemory([])


@pytest.mark.parametrize("indices", [[0, 3], [1, 1], [2, 1], [0xFFFFFFFF]])
def test_indices_outside_or_not_rising_are_seen(indices: list[int]) -> None:
    memory = NativeMemory([bytearray(PAGE_BYTES), bytearray(2 * PAGE_BYTES)])

    assert not memory.holds(array("I", indices))
    assert memory.holds(array("I", [0, 1, 2]))
    assert memory.holds(array("I"))


def test_indices_of_a_bitmap_count_over_all_regions() -> None:
    bitmap = Bitmap.empty([70, 3, 65])
    bitmap.words[0][8] = 0b100000
    bitmap.words[1][0] = 0b101
    bitmap.words[2][8] = 1

    assert list(bitmap_indices(bitmap)) == [69, 70, 72, 137]


def test_clear_zeroes_only_the_pages_or_the_region_that_are_named() -> None:
    first, second = bytearray(b"x" * 3 * PAGE_BYTES), bytearray(b"y" * 2 * PAGE_BYTES)
    memory = NativeMemory([first, second])

    memory.clear_pages(array("I", [1, 3]))
    after_pages = [bytes(first), bytes(second)]
    memory.clear_region(1)

    page = bytes(PAGE_BYTES)
    assert after_pages == [b"x" * PAGE_BYTES + page + b"x" * PAGE_BYTES, page + b"y" * PAGE_BYTES]
    assert [bytes(first), bytes(second)] == [after_pages[0], page * 2]


def test_pages_and_regions_that_are_not_there_are_refused() -> None:
    memory = NativeMemory([bytearray(2 * PAGE_BYTES)])

    with pytest.raises(LocalProtocolError):
        memory.clear_pages(array("I", [1, 2]))
    with pytest.raises(IndexError):
        memory.clear_region(1)
