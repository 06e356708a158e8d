import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native import ffi, lib
from ftvm._native.memory import put_flags
from ftvm.errors import LocalProtocolError

flag_lists = st.lists(st.booleans(), min_size=1, max_size=300)


@given(flag_lists)
def test_flags_become_a_bitmap_and_back_without_loss(flags: list[bool]) -> None:
    marked = bytearray(flags)
    words = bytearray((len(flags) + 63) // 64 * 8)

    found = lib.ftvm_bitmap_take_flags(
        ffi.from_buffer("uint8_t[]", marked), len(flags), ffi.from_buffer("uint64_t[]", words)
    )
    cleared = bytes(marked)
    lib.ftvm_bitmap_put_flags(ffi.from_buffer("uint64_t[]", words), len(flags), ffi.from_buffer("uint8_t[]", marked))

    assert found == sum(flags)
    assert cleared == bytes(len(flags))
    assert list(marked) == [int(flag) for flag in flags]


@given(flag_lists, st.integers(0, 1 << 20))
def test_indices_are_the_set_bits_in_rising_order(flags: list[bool], first: int) -> None:
    words = bytearray(
        sum(1 << i for i, flag in enumerate(flags) if flag).to_bytes((len(flags) + 63) // 64 * 8, "little")
    )
    indices = ffi.new("uint32_t[]", len(flags))

    found = lib.ftvm_bitmap_indices(ffi.from_buffer("uint64_t[]", words), len(flags), first, indices, len(flags))

    assert list(indices[0:found]) == [first + i for i, flag in enumerate(flags) if flag]


@pytest.mark.parametrize("word_bytes", [0, 8, 24])
def test_a_bitmap_of_another_length_is_refused_and_sets_no_flag(word_bytes: int) -> None:
    flags = bytearray(100)

    with pytest.raises(LocalProtocolError, match=f"a bitmap of 100 pages has 16 bytes, not {word_bytes}"):
        put_flags(bytearray(b"\xff" * word_bytes), flags)

    assert flags == bytes(100)
