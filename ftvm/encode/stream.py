"""The messages that build up a standby's state: batches of pages, ends of epochs, and the log.

What is large stands in frames behind the header, never in it; each length is compared with the frames, and each count
with its limit, before anything is kept.

    Copy               indices | lengths | payload
    EpochPart          indices | lengths | payload                             (a batch)
                       devices | output table | output payloads | page digests (the end)
                       all seven, in that order (both; since version 2)
    Log                record table | record payloads

Output table: per output one byte of channel number (its name is in the header) and a little-endian u32 of payload
bytes.
"""

from collections.abc import Sequence
from typing import Final

from ftvm._native.logtable import check_rows
from ftvm._native.memory import bytes_digest
from ftvm.checkpoint import (
    OUTPUT_ROW,
    PAGE_COUNT_MAX,
    PAGE_DIGEST_ROW,
    Buffer,
    Checkpoint,
    GuestPosition,
    Output,
    OutputTable,
    PageBatch,
)
from ftvm.config import Limits
from ftvm.encode.codec import Codec, Frames, Header, Packed
from ftvm.encode.fields import (
    DIGEST_BYTES,
    NAMES_MAX,
    read_digest,
    read_fields,
    read_identity,
    read_list,
    read_number,
    read_numbers,
    read_text,
)
from ftvm.encode.messages import Copy, EpochPart, Log
from ftvm.encode.versions import FLAT_SINCE
from ftvm.errors import BadFrame, ConfigError, InternalError, LimitExceeded
from ftvm.logtable import LOG_ROW, LogTable

__all__ = [
    "STREAM_MESSAGES",
    "check_batch",
    "check_end",
    "check_seal",
    "pack_outputs",
    "unpack_outputs",
    "unpack_records",
]

_BATCH_FRAMES: Final = 3
_END_FRAMES: Final = 4
_PART_FRAMES: Final = (_BATCH_FRAMES, _END_FRAMES, _BATCH_FRAMES + _END_FRAMES)


def _unpack_batch(value: object, frames: Frames, limits: Limits) -> PageBatch:
    pages, digest, unpacked_bytes = read_fields(value, 3, "batch")
    if len(frames) != _BATCH_FRAMES:
        raise BadFrame(f"a batch of pages has {_BATCH_FRAMES} frames, not {len(frames)}")
    indices, lengths, payload = frames
    pages = read_number(pages, "page count of the batch", PAGE_COUNT_MAX)
    unpacked = read_number(unpacked_bytes, "length of the unpacked payload")
    check_batch(pages, unpacked, indices, lengths, payload, limits)
    return PageBatch(
        count=pages,
        indices=indices,
        lengths=lengths,
        payload=payload,
        digest=read_digest(digest, "batch digest"),
        unpacked_bytes=unpacked,
    )


def check_batch(
    pages: int, unpacked_bytes: int, indices: Buffer, lengths: Buffer, payload: Buffer, limits: Limits
) -> None:
    """Compare the numbers of a batch with its frames and with the limits. Raises BadFrame, the peer's fault."""
    if pages == 0:
        raise BadFrame("a batch of no pages: any number of them would pass a limit that counts bytes")
    if len(indices) != 4 * pages or len(lengths) != 2 * pages:
        raise BadFrame(f"{pages} pages take {4 * pages} and {2 * pages} bytes, not {len(indices)} and {len(lengths)}")
    size_bytes = len(indices) + len(lengths) + len(payload)
    if size_bytes > 2 * limits.batch_bytes:
        raise BadFrame(f"a batch of {size_bytes} bytes is more than twice the limit of {limits.batch_bytes}")
    if unpacked_bytes > limits.batch_bytes:
        raise BadFrame(f"an unpacked payload of {unpacked_bytes} bytes is more than the limit of {limits.batch_bytes}")


def pack_outputs(outputs: Sequence[Output]) -> tuple[list[str], bytes, bytes]:
    """Return the channels' names, the table and the payloads of outputs."""
    table = outputs if isinstance(outputs, OutputTable) else OutputTable.of(outputs)
    if len(table.channels) > NAMES_MAX:
        raise LimitExceeded("output channels", limit=NAMES_MAX, wanted=len(table.channels))
    return list(table.channels), table.rows, table.payloads


def unpack_outputs(
    channels: tuple[str, ...], output_next: int, table: Buffer, payloads: Buffer, limits: Limits
) -> OutputTable:
    """Return the outputs of a table, which end just below `output_next`. Raises BadFrame, the peer's fault."""
    count, rest = divmod(len(table), OUTPUT_ROW.size)
    if rest or count > limits.outputs_held or count >= output_next:
        raise BadFrame(f"an output table of {len(table)} bytes, ending below number {output_next}, cannot be")
    rows = bytes(table)
    lengths = [length for _, length in OUTPUT_ROW.iter_unpack(rows)]
    used = sum(lengths)
    if count and (
        max(rows[:: OUTPUT_ROW.size]) >= len(channels) or max(lengths) > limits.output_bytes or used > len(payloads)
    ):
        raise _wrong_output(rows, len(channels), len(payloads), limits)
    if used != len(payloads):
        raise BadFrame(f"outputs use {used} of {len(payloads)} payload bytes")
    return OutputTable(
        first=output_next - count, last=output_next - 1, channels=channels, rows=rows, payloads=bytes(payloads)
    )


def _wrong_output(rows: bytes, channels: int, left: int, limits: Limits) -> BadFrame:
    """Return what is wrong with the first output of a table that cannot be."""
    for place, (channel, length) in enumerate(OUTPUT_ROW.iter_unpack(rows)):
        if channel >= channels or length > limits.output_bytes or length > left:
            return BadFrame(f"output {place} of the table names channel {channel} and {length} bytes")
        left -= length
    raise InternalError("a table of outputs that can be was refused")


def _pack_copy(message: Copy) -> Packed:
    batch = message.batch
    fields = [message.sequence, message.round, [batch.count, batch.digest, batch.unpacked_bytes]]
    return fields, [batch.indices, batch.lengths, batch.payload]


def _unpack_copy(fields: Header, frames: Frames, limits: Limits) -> Copy:
    sequence, round_number, batch = fields
    read_numbers((sequence, round_number), "sequence, round")
    return Copy(sequence=sequence, round=round_number, batch=_unpack_batch(batch, frames, limits))


def _pack_part(message: EpochPart) -> Packed:
    batch, end = message.batch, message.checkpoint
    if batch is None and end is None:
        raise ConfigError("a part of an epoch carries a batch or the end")
    pages, frames = (
        (None, [])
        if batch is None
        else ([batch.count, batch.digest, batch.unpacked_bytes], [batch.indices, batch.lengths, batch.payload])
    )
    tail, behind = (None, []) if end is None else _pack_end(end)
    calm = None if end is None or end.has_flush else 1
    return [message.sequence, message.epoch, message.part, pages, tail, calm], [*frames, *behind]


def _pack_part_alone(message: EpochPart) -> Packed:
    if message.batch is not None and message.checkpoint is not None:
        raise ConfigError("in version 1 of the wire a part of an epoch carries a batch or the end, not both")
    return _pack_part(message)


def _pack_end(end: Checkpoint) -> Packed:
    channels, table, payloads = pack_outputs(end.outputs)
    digest = end.memory_digest.to_bytes(DIGEST_BYTES, "little")
    here = [end.position.retired, end.position.idled] if end.position is not None else None
    frames: list[Buffer] = [end.devices, table, payloads, end.page_digests]
    sealed = bytes_digest(*frames)
    tail = [end.base, end.engine, channels, end.output_next, end.log_index, digest, end.dirty_pages, here, sealed]
    return tail, frames


def _unpack_part(fields: Header, frames: Frames, limits: Limits) -> EpochPart:
    sequence, epoch, part, pages, tail, calm = fields
    if pages is None and tail is None:
        raise BadFrame("a part of an epoch carries a batch or the end, not neither")
    if calm is not None and (type(calm) is not int or calm != 1 or tail is None):
        raise BadFrame("a part of an epoch says that it holds no flush, and is not its end, or says so in other words")
    read_numbers((sequence, epoch, part), "sequence, epoch, part")
    behind = 0 if pages is None else len(frames) if tail is None else _BATCH_FRAMES
    batch = None if pages is None else _unpack_batch(pages, frames[:behind], limits)
    end = None if tail is None else _unpack_end(epoch, tail, frames[behind:], limits, has_flush=calm is None)
    return EpochPart(sequence=sequence, epoch=epoch, part=part, batch=batch, checkpoint=end)


def _unpack_part_alone(fields: Header, frames: Frames, limits: Limits) -> EpochPart:
    if fields[3] is not None and fields[4] is not None:
        raise BadFrame("a part of an epoch carries a batch or the end, not both")
    return _unpack_part([*fields, None], frames, limits)


def _unpack_end(epoch: int, tail: object, frames: Frames, limits: Limits, *, has_flush: bool) -> Checkpoint:
    end = read_fields(tail, 9, "end of an epoch")
    base, engine, channels, output_next, log_index, digest, dirty_pages, here, sealed = end
    if len(frames) != _END_FRAMES:
        raise BadFrame(f"the end of an epoch has {_END_FRAMES} frames, not {len(frames)}")
    devices, table, payloads, page_digests = frames
    check_end(devices, page_digests, payloads, limits)
    check_seal(sealed, frames)
    read_numbers((base, output_next, log_index), "base epoch, next output number, log index")
    names = read_list(read_identity, channels, "channels")
    return Checkpoint(
        epoch=epoch,
        base=base,
        engine=read_identity(engine, "engine"),
        batches=(),
        devices=bytes(devices),
        outputs=unpack_outputs(names, output_next, table, payloads, limits),
        output_next=output_next,
        log_index=log_index,
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
        dirty_pages=read_number(dirty_pages, "dirty pages", PAGE_COUNT_MAX),
        page_digests=bytes(page_digests),
        position=None if here is None else _unpack_position(here),
        has_flush=has_flush,
    )


def check_end(devices: Buffer, page_digests: Buffer, payloads: Buffer, limits: Limits) -> None:
    """Compare what the end of an epoch carries with the limits. Raises BadFrame, the peer's fault."""
    if len(page_digests) % PAGE_DIGEST_ROW.size or len(page_digests) > limits.staging_bytes:
        raise BadFrame(f"page digests of {len(page_digests)} bytes cannot be")
    if len(devices) > limits.devices_bytes:
        raise BadFrame(f"{len(devices)} bytes of device state is more than the limit of {limits.devices_bytes}")
    if len(payloads) > limits.outputs_held_bytes:
        raise BadFrame(f"{len(payloads)} bytes of outputs is more than the limit of {limits.outputs_held_bytes}")


def _pack_log(message: Log) -> Packed:
    table = message.records
    frames: list[Buffer] = [table.rows, table.payloads]
    return [message.sequence, table.first, table.channels, bytes_digest(*frames)], frames


def _unpack_log(fields: Header, frames: Frames, limits: Limits) -> Log:
    sequence, first, channels, sealed = fields
    table, payloads = frames
    check_seal(sealed, frames)
    names = read_list(read_text, channels, "channels")
    index = read_number(first, "first log index")
    records = unpack_records(index, names, table, payloads, limits)
    return Log(sequence=read_number(sequence, "sequence"), records=records)


def unpack_records(index: int, names: tuple[str, ...], table: Buffer, payloads: Buffer, limits: Limits) -> LogTable:
    """Return the records of a table, from `index` on. Raises BadFrame, the peer's fault."""
    count, rest = divmod(len(table), LOG_ROW.size)
    if rest or not 0 < count <= limits.log_records or len(payloads) > limits.log_bytes:
        raise BadFrame(f"a log table of {len(table)} bytes with {len(payloads)} bytes of payload cannot be")
    place, left = check_rows(table, count, len(names), len(payloads))
    if place < count:
        kind, channel, *_, length = LOG_ROW.unpack_from(table, place * LOG_ROW.size)
        raise BadFrame(f"log record {index + place} is of kind {kind}, channel {channel}, {length} bytes")
    if left:
        raise BadFrame(f"log records use {len(payloads) - left} of {len(payloads)} payload bytes")
    return LogTable(first=index, record_count=count, channels=names, rows=bytes(table), payloads=bytes(payloads))


def check_seal(sealed: object, frames: Frames) -> None:
    """Compare the digest that stands in the header with the frames. Raises BadFrame, the peer's fault."""
    if read_digest(sealed, "digest of the frames") != bytes_digest(*frames):
        raise BadFrame("the frames were changed on the way: their digest is not the one in the header")


def _unpack_position(value: object) -> GuestPosition:
    retired, idled = read_fields(value, 2, "position")
    read_numbers((retired, idled), "retired, idled")
    return GuestPosition(retired, idled)


STREAM_MESSAGES: Final = (
    Codec(4, Copy, 3, _pack_copy, _unpack_copy, frames=(_BATCH_FRAMES,)),
    Codec(5, EpochPart, 5, _pack_part_alone, _unpack_part_alone, frames=(_BATCH_FRAMES, _END_FRAMES)),
    Codec(5, EpochPart, 5, _pack_part, _unpack_part, frames=_PART_FRAMES, optional=1, since=FLAT_SINCE),
    Codec(10, Log, 4, _pack_log, _unpack_log, frames=(2,)),
)
"""Each carries a sequence number, and counts only within a session (messages.Sequenced)."""
