"""The batches of several epochs as one, without the pages that they apply to: how a history is thinned.

A delta carries new bytes, so that the later of two wins byte by byte. What comes out applies to whatever the first
batch applied to, and gives what all of them give in order.

Wraps the native noun `merge` (merge.h is its manual).
"""

from array import array
from collections.abc import Sequence
from typing import Any, Final

from ftvm._native import ffi, lib
from ftvm._native.memory import batch_digest
from ftvm.checkpoint import PageBatch
from ftvm.errors import BadFrame, LimitExceeded

__all__ = ["MERGED_AT_ONCE", "join_batches", "merge_batches"]

MERGED_AT_ONCE: Final[int] = lib.FTVM_MERGE_INPUTS_MAX
"""So many batches merge in one pass; more are merged in groups."""

_OUT_ENTRIES: Final = 16_384
_OUT_BYTES: Final = 4 << 20


def join_batches(batches: Sequence[PageBatch]) -> PageBatch:
    """Return batches of one checkpoint, whose page indices rise over all of them, as one batch."""
    if len(batches) == 1:
        return batches[0]
    return _batch(
        b"".join(batch.indices for batch in batches),
        b"".join(batch.lengths for batch in batches),
        b"".join(batch.payload for batch in batches),
    )


def merge_batches(batches: Sequence[PageBatch], page_count: int) -> PageBatch:
    """Return one batch that does what `batches` do in this order, each of them of one checkpoint, unpacked.

    Raises BadFrame if one of them is no batch for a memory of `page_count` pages.
    """
    merged = list(batches)
    while len(merged) > MERGED_AT_ONCE:
        merged = [_merged(merged[i : i + MERGED_AT_ONCE], page_count) for i in range(0, len(merged), MERGED_AT_ONCE)]
    return merged[0] if len(merged) == 1 else _merged(merged, page_count)


def _merged(batches: Sequence[PageBatch], page_count: int) -> PageBatch:
    inputs = ffi.new("struct ftvm_merge_input[]", len(batches))
    kept = [_set_input(cell, batch) for cell, batch in zip(inputs, batches, strict=True)]
    indices, lengths = array("I", bytes(4 * _OUT_ENTRIES)), array("H", bytes(2 * _OUT_ENTRIES))
    payload = bytearray(_OUT_BYTES)
    out = ffi.new("struct ftvm_batch *")
    out.indices, out.lengths = ffi.from_buffer("uint32_t[]", indices), ffi.from_buffer("uint16_t[]", lengths)
    out.payload = ffi.from_buffer("uint8_t[]", payload)
    out.entry_capacity, out.payload_capacity = _OUT_ENTRIES, _OUT_BYTES
    pieces: list[tuple[bytes, bytes, bytes]] = []
    end = lib.FTVM_MERGE_FULL
    while end == lib.FTVM_MERGE_FULL:
        out.entry_count = out.payload_bytes = 0
        end = lib.ftvm_merge_batches(inputs, len(batches), page_count, out)
        if end == lib.FTVM_MERGE_BAD:
            raise BadFrame("batches of a history do not merge: an index, a length or a delta is damaged")
        count = out.entry_count
        pieces.append((indices[:count].tobytes(), lengths[:count].tobytes(), bytes(payload[: out.payload_bytes])))
    del kept
    return _batch(*(b"".join(parts) for parts in zip(*pieces, strict=True)))


def _set_input(cell: Any, batch: PageBatch) -> tuple[Any, ...]:
    """Point a native input at a batch; returns what keeps its pointers valid."""
    sizes = len(batch.indices), len(batch.lengths)
    if sizes != (4 * batch.count, 2 * batch.count) or (not batch.count and len(batch.payload)):
        raise BadFrame(f"a batch of {batch.count} pages has indices and lengths of {sizes[0]} and {sizes[1]} bytes")
    if batch.unpacked_bytes:
        raise LimitExceeded("packed bytes in a batch to merge", limit=0, wanted=len(batch.payload))
    parts = tuple(ffi.from_buffer("uint8_t[]", part) for part in (batch.indices, batch.lengths, batch.payload))
    received = cell.batch
    received.indices, received.lengths, received.payload = parts
    received.entry_count, received.payload_bytes = batch.count, len(parts[2])
    return parts


def _batch(indices: bytes, lengths: bytes, payload: bytes) -> PageBatch:
    return PageBatch(
        count=len(lengths) // 2,
        indices=indices,
        lengths=lengths,
        payload=payload,
        digest=batch_digest(indices, lengths, payload),
    )
