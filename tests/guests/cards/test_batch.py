"""An output that stands for frames, as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import BadFrame
from ftvm.guests.cards.batch import PUMP_ID_BYTES, Batch, decode_batch, encode_batch, unpack_frames

FRAMES = st.lists(st.binary(max_size=200), max_size=6)


def batch_of(frames: list[bytes], *, missing: int = 0, mark: int = 1, pump: bytes = bytes(PUMP_ID_BYTES)) -> Batch:
    packed = b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)
    return Batch(pump=pump, mark=mark, frames=len(frames) + missing, packed_frames=len(frames), packed=packed)


@given(
    frames=FRAMES,
    missing=st.integers(0, 1 << 20),
    mark=st.integers(0, (1 << 64) - 1),
    pump=st.binary(min_size=PUMP_ID_BYTES, max_size=PUMP_ID_BYTES),
)
def test_what_is_encoded_is_decoded(frames: list[bytes], missing: int, mark: int, pump: bytes) -> None:
    batch = batch_of(frames, missing=missing, mark=mark, pump=pump)

    decoded = decode_batch(encode_batch(batch))

    assert decoded == batch
    assert unpack_frames(decoded) == frames


@given(payload=st.binary(max_size=300))
def test_any_bytes_are_a_batch_of_whole_frames_or_refused(payload: bytes) -> None:
    try:
        decoded = decode_batch(payload)
    except BadFrame:
        return

    assert encode_batch(decoded) == payload
    assert len(unpack_frames(decoded)) == decoded.packed_frames <= decoded.frames


@given(frames=FRAMES.filter(bool), data=st.data())
def test_a_batch_that_was_cut_short_is_refused(frames: list[bytes], data: st.DataObject) -> None:
    payload = encode_batch(batch_of(frames))

    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]

    with pytest.raises(BadFrame, match="output of a card"):
        decode_batch(cut)


def test_more_frames_than_there_were_are_refused() -> None:
    payload = encode_batch(batch_of([b"one", b"two"], missing=-1))

    with pytest.raises(BadFrame, match="2 frames of 1"):
        decode_batch(payload)
