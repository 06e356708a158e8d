"""An output that stands for frames that a card holds: which, how many, and the first of them themselves.

    16 bytes  the pump that holds them, drawn when it began: no other host, and no other run of this one, has it
     8        their mark there
     4        how many frames there are
     4        how many of them follow, each its length in 4 bytes, and then itself

Numbers are little-endian. What follows is for a takeover: the other host, which does not hold the frames, sends these.
The others are lost then, as on a wire that was cut. Pure. A frame has the header of virtio-net before it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ftvm.errors import BadFrame

__all__ = ["PUMP_ID_BYTES", "Batch", "decode_batch", "encode_batch", "unpack_frames"]

PUMP_ID_BYTES: Final = 16
_HEAD: Final = struct.Struct(f"<{PUMP_ID_BYTES}sQII")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """So many frames, which `pump` holds under `mark`; the first `packed_frames` of them are in `packed`."""

    pump: bytes
    mark: int
    frames: int
    packed_frames: int
    packed: bytes


def encode_batch(batch: Batch) -> bytes:
    """Return the payload of the output."""
    return _HEAD.pack(batch.pump, batch.mark, batch.frames, batch.packed_frames) + batch.packed


def decode_batch(payload: bytes) -> Batch:
    """Return what an output stands for; raises BadFrame unless it is whole."""
    if len(payload) < _HEAD.size:
        raise BadFrame(f"an output of a card has {len(payload)} bytes: too short")
    pump, mark, frames, packed_frames = _HEAD.unpack_from(payload)
    batch = Batch(pump=pump, mark=mark, frames=frames, packed_frames=packed_frames, packed=bytes(payload[_HEAD.size :]))
    if packed_frames > frames:
        raise BadFrame(f"an output of a card has {packed_frames} frames of {frames}")
    unpack_frames(batch)
    return batch


def unpack_frames(batch: Batch) -> Sequence[bytes]:
    """Return the frames that travel with the output; raises BadFrame unless they are as many as it says."""
    frames: list[bytes] = []
    at = 0
    while at < len(batch.packed) and len(frames) < batch.packed_frames:
        if len(batch.packed) - at < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(batch.packed, at)
        at += _LENGTH.size
        frames.append(batch.packed[at : at + length])
        at += length
    if at != len(batch.packed) or len(frames) != batch.packed_frames:
        raise BadFrame(f"the {batch.packed_frames} frames that travel with an output of a card are damaged")
    return frames
