"""LZ4 over a batch of deltas, and when it pays.

Deltas are small already; packing them once more halves them at the price of a pass by the CPU. That pays where the
link is slower than the pass (below about 200 MB/s), and always in the first copy, whose pages were never sent before.
Packing changes nothing but the payload: indices, lengths and the digest, which is of the unpacked bytes, stay, so
that what a link or a decompressor damages is found.

`unpack_batch` is safe on anything a peer sends: the room that it takes is bounded before it is taken. The policy knows
no clock; it is told what was measured. Source: bench/codec.py, bench/link.py.
"""

from dataclasses import dataclass, replace
from typing import Final

import lz4.block

from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.errors import BadFrame
from ftvm.units import Nanos

__all__ = ["PackPolicy", "pack_batch", "unpack_batch"]


def pack_batch(batch: PageBatch) -> PageBatch:
    """Return the batch with its payload packed, or the batch itself if that is not shorter."""
    if batch.unpacked_bytes or not len(batch.payload):
        return batch
    packed = lz4.block.compress(batch.payload, mode="fast", store_size=False)
    if len(packed) >= len(batch.payload):
        return batch
    return replace(batch, payload=packed, unpacked_bytes=len(batch.payload))


def unpack_batch(batch: PageBatch, limits: Limits) -> PageBatch:
    """Return the batch with its payload as it was before packing; a batch that is not packed comes back as it is.

    Raises BadFrame (the peer's fault) if the length it claims is not within limits.batch_bytes, or is not what comes
    out.
    """
    if batch.unpacked_bytes == 0:
        return batch
    if not len(batch.payload) < batch.unpacked_bytes <= limits.batch_bytes:
        raise BadFrame(
            f"a payload of {len(batch.payload)} bytes claims to unpack to {batch.unpacked_bytes}: it must be more, and "
            f"at most {limits.batch_bytes}"
        )
    try:
        payload = lz4.block.decompress(batch.payload, uncompressed_size=batch.unpacked_bytes)
    except lz4.block.LZ4BlockError as error:
        raise BadFrame(f"a packed payload does not unpack: {error}") from error
    if len(payload) != batch.unpacked_bytes:
        raise BadFrame(f"a packed payload is {len(payload)} bytes long, not the {batch.unpacked_bytes} that it claims")
    return replace(batch, payload=payload, unpacked_bytes=0)


_WEIGHT: Final = 0.2
"""How much one measurement moves an average: five of them decide, one outlier does not."""

_PROBE_EVERY: Final = 64
"""While packing does not pay, every so many batches one is packed all the same: else nobody would notice that it does
now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPolicy:
    """What is known about the link and about packing; a new value with each thing learned.

    The speeds are in bytes per second; 0 means that nothing is known. They start with what LZ4 does with deltas on an
    ordinary core.
    """

    link_speed: float = 0.0
    pack_speed: float = 400e6
    kept_share: float = 0.55
    """What is left of a payload when it is packed."""
    unpacked_running: int = 0
    """Batches sent unpacked since the last packed one."""

    def should_pack(self, *, is_first_copy: bool) -> bool:
        """Tell whether packing the next batch makes it arrive sooner, or is due to find out whether it would."""
        if is_first_copy or self.unpacked_running >= _PROBE_EVERY:
            return True
        if self.link_speed == 0.0:
            return False
        seconds_saved_per_byte = (1 - self.kept_share) / self.link_speed
        return seconds_saved_per_byte > 1 / self.pack_speed

    def sent_unpacked(self) -> "PackPolicy":
        """Note a batch that was sent as it was."""
        return replace(self, unpacked_running=self.unpacked_running + 1)

    def packed(self, *, before_bytes: int, after_bytes: int, took_ns: Nanos) -> "PackPolicy":
        """Note a batch that was packed."""
        if before_bytes <= 0 or took_ns <= 0:
            return replace(self, unpacked_running=0)
        return replace(
            self,
            pack_speed=_moved(self.pack_speed, before_bytes * 1e9 / took_ns),
            kept_share=_moved(self.kept_share, after_bytes / before_bytes),
            unpacked_running=0,
        )

    def acknowledged(self, *, sent_bytes: int, took_ns: Nanos) -> "PackPolicy":
        """Note how long the link took for so many bytes, from the first one sent to the acknowledgement.

        Short messages measure the round trip, not the speed: leave out what is below a batch or so.
        """
        if sent_bytes <= 0 or took_ns <= 0:
            return self
        speed = sent_bytes * 1e9 / took_ns
        return replace(self, link_speed=speed if self.link_speed == 0.0 else _moved(self.link_speed, speed))


def _moved(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average)
