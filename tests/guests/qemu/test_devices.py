"""QEMU's device state as it is packed: it comes back as it was, and one that was altered is never given to QEMU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import GuestError
from ftvm.guests.qemu.devices import STATE_BYTES_MAX, pack_devices, unpack_devices

MARK = b"QEVM\x00\x00\x00\x03"
STREAM = MARK + b"\x04\x00\x00\x00\x01\x05timer" + bytes(600) + b"a disk's registers" + bytes(range(256))


@given(st.binary(max_size=4000))
def test_a_device_state_comes_back_as_it_was(content: bytes) -> None:
    assert unpack_devices(pack_devices(MARK + content)) == MARK + content


def test_a_bit_that_flips_anywhere_in_a_device_state_keeps_it_from_being_loaded() -> None:
    packed = pack_devices(STREAM)

    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(GuestError):
            unpack_devices(bytes(flipped))


def test_every_truncation_of_a_device_state_is_refused() -> None:
    packed = pack_devices(STREAM)

    for length in range(len(packed)):
        with pytest.raises(GuestError):
            unpack_devices(packed[:length])


@pytest.mark.parametrize("stream", [b"", b"QEVM", b"a text", bytes(100)])
def test_what_is_no_stream_of_qemus_is_refused(stream: bytes) -> None:
    with pytest.raises(GuestError, match="the device state is not a QEMU stream"):
        unpack_devices(pack_devices(stream))


def test_a_device_state_that_would_unpack_to_more_than_the_limit_is_refused() -> None:
    with pytest.raises(GuestError, match="not one of QEMU's"):
        unpack_devices(pack_devices(MARK + bytes(STATE_BYTES_MAX)))
