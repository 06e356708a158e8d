"""Messages to frames and back.

A message is one msgpack header, then the binary frames that its kind calls for. The header is a flat array:

    [version, kind, guest id, sender, session or nil, record, released, the kind's own fields ...]

Its first two places hold for every version to come, so that a peer of another version is told apart from noise. Page
data, device state and outputs never pass through msgpack (PERFORMANCE.md: 8-13 copies with the GIL held); their lengths
stand in the header and are compared with the frames before anything is kept (SECURITY.md).

    Copy               header | indices | lengths | payload
    EpochPart          header | indices | lengths | payload                    (a batch)
                       header | devices | output table | output payloads | page digests   (the end)
    Log                header | record table | record payloads
    all others         header

Output table: per output one byte of channel number (its name is in the header) and a little-endian u32 of payload
bytes.

`decode` raises BadFrame for anything that `encode` would not have made, and VersionMismatch for another version; both
are the peer's fault. It allocates nothing that the peer's lengths ask for before they were checked.
"""

import reprlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgpack

from ftvm.checkpoint import (
    PAGE_COUNT_MAX,
    PAGE_DIGEST_ROW,
    Buffer,
    Checkpoint,
    Geometry,
    GuestPosition,
    LogKind,
    LogRecord,
    Output,
    PageBatch,
    RegionShape,
)
from ftvm.config import PROTOCOL_VERSION, Limits
from ftvm.encode.fields import (
    DIGEST_BYTES,
    NAMES_MAX,
    TEXT_CHARS_MAX,
    read_digest,
    read_fields,
    read_flag,
    read_identity,
    read_list,
    read_number,
    read_optional,
    read_text,
)
from ftvm.encode.messages import (
    Ack,
    Copy,
    Envelope,
    EpochPart,
    Join,
    Leave,
    Log,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Refuse,
    Sequenced,
    SessionId,
    Welcome,
)
from ftvm.errors import BadFrame, ConfigError, LimitExceeded, VersionMismatch
from ftvm.interfaces import Record
from ftvm.units import PageCount

__all__ = ["Sealed", "decode", "encode", "read_header"]

FRAMES_MAX: Final = 5
_OUTPUT_ROW: Final = struct.Struct("<BI")
_LOG_ROW: Final = struct.Struct("<BBQQQI")
_LOG_KINDS: Final = {kind.value: kind for kind in LogKind}

Header = list[Any]
Frames = tuple[Buffer, ...]


# --- parts that several messages share -----------------------------------------------------------------------------


def _pack_record(record: Record) -> Header:
    return [record.generation, record.active, record.standby]


def _unpack_record(value: object) -> Record:
    generation, active, standby = read_fields(value, 3, "record")
    return Record(
        read_number(generation, "generation"),
        read_optional(read_identity, active, "the record's active"),
        read_optional(read_identity, standby, "the record's standby"),
    )


def _unpack_session(value: object, name: str) -> SessionId:
    counter, active, generation = read_fields(value, 3, name)
    return SessionId(
        read_number(counter, "session counter"),
        read_identity(active, "session's active"),
        read_number(generation, "generation"),
    )


def _unpack_region(value: object, name: str) -> RegionShape:
    region, pages = read_fields(value, 2, name)
    return RegionShape(
        name=read_text(region, "region name"), page_count=PageCount(read_number(pages, "page count", PAGE_COUNT_MAX))
    )


def _batch_frames(batch: PageBatch) -> list[Buffer]:
    return [batch.indices, batch.lengths, batch.payload]


def _pack_batch(batch: PageBatch) -> Header:
    return [batch.count, batch.digest, batch.unpacked_bytes]


def _unpack_batch(value: object, frames: Frames, limits: Limits) -> PageBatch:
    count, digest, unpacked_bytes = read_fields(value, 3, "batch")
    if len(frames) != 3:
        raise BadFrame(f"a batch of pages has 3 frames, not {len(frames)}")
    indices, lengths, payload = frames
    pages = read_number(count, "page count of the batch", PAGE_COUNT_MAX)
    if pages == 0:
        raise BadFrame("a batch of no pages: any number of them would pass a limit that counts bytes")
    if len(indices) != 4 * pages or len(lengths) != 2 * pages:
        raise BadFrame(f"{pages} pages take {4 * pages} and {2 * pages} bytes, not {len(indices)} and {len(lengths)}")
    size_bytes = len(indices) + len(lengths) + len(payload)
    if size_bytes > 2 * limits.batch_bytes:
        raise BadFrame(f"a batch of {size_bytes} bytes is more than twice the limit of {limits.batch_bytes}")
    return PageBatch(
        count=pages,
        indices=indices,
        lengths=lengths,
        payload=payload,
        digest=read_digest(digest, "batch digest"),
        unpacked_bytes=read_number(unpacked_bytes, "length of the unpacked payload", limits.batch_bytes),
    )


def _pack_outputs(outputs: Sequence[Output]) -> tuple[list[str], bytes, bytes]:
    channels = list(dict.fromkeys(output.channel for output in outputs))
    if len(channels) > NAMES_MAX:
        raise LimitExceeded("output channels", limit=NAMES_MAX, wanted=len(channels))
    number = {channel: place for place, channel in enumerate(channels)}
    table = b"".join(_OUTPUT_ROW.pack(number[output.channel], len(output.payload)) for output in outputs)
    return channels, table, b"".join(output.payload for output in outputs)


def _unpack_outputs(
    channels: tuple[str, ...], output_next: int, table: Buffer, payloads: Buffer, limits: Limits
) -> tuple[Output, ...]:
    count, rest = divmod(len(table), _OUTPUT_ROW.size)
    if rest or count > limits.outputs_held or count >= output_next:
        raise BadFrame(f"an output table of {len(table)} bytes, ending below number {output_next}, cannot be")
    outputs: list[Output] = []
    offset = 0
    for place, (channel, length) in enumerate(_OUTPUT_ROW.iter_unpack(table)):
        if channel >= len(channels) or length > limits.output_bytes or length > len(payloads) - offset:
            raise BadFrame(f"output {place} of the table names channel {channel} and {length} bytes")
        payload = bytes(payloads[offset : offset + length])
        outputs.append(Output(number=output_next - count + place, channel=channels[channel], payload=payload))
        offset += length
    if offset != len(payloads):
        raise BadFrame(f"outputs use {offset} of {len(payloads)} payload bytes")
    return tuple(outputs)


# --- one pair of functions for each kind of message ----------------------------------------------------------------


def _pack_join(message: Join) -> tuple[Header, list[Buffer]]:
    regions = [[region.name, region.page_count] for region in message.geometry.regions]
    return [message.geometry.machine, regions, list(message.engines), message.staging_bytes], []


def _unpack_join(fields: Header, frames: Frames, _: Limits) -> Join:
    machine, regions, engines, staging_bytes = read_fields(fields, 4, "join")
    _no_frames(frames)
    try:
        geometry = Geometry(
            machine=read_text(machine, "machine"),
            regions=read_list(_unpack_region, regions, "regions"),
        )
    except ConfigError as wrong:
        raise BadFrame(f"geometry: {wrong}") from wrong
    return Join(
        geometry=geometry,
        engines=read_list(read_identity, engines, "engines"),
        staging_bytes=read_number(staging_bytes, "staging bound"),
    )


def _pack_welcome(message: Welcome) -> tuple[Header, list[Buffer]]:
    return [message.joiner, message.engine, message.staging_bytes], []


def _unpack_welcome(fields: Header, frames: Frames, _: Limits) -> Welcome:
    joiner, engine, staging_bytes = read_fields(fields, 3, "welcome")
    _no_frames(frames)
    return Welcome(
        joiner=read_identity(joiner, "joiner"),
        engine=read_identity(engine, "engine"),
        staging_bytes=read_number(staging_bytes, "staging bound"),
    )


def _pack_refuse(message: Refuse) -> tuple[Header, list[Buffer]]:
    return [message.joiner, message.reason[:TEXT_CHARS_MAX], message.is_final], []


def _unpack_refuse(fields: Header, frames: Frames, _: Limits) -> Refuse:
    joiner, reason, is_final = read_fields(fields, 3, "refuse")
    _no_frames(frames)
    return Refuse(
        joiner=read_identity(joiner, "joiner"),
        reason=read_text(reason, "reason"),
        is_final=read_flag(is_final, "final"),
    )


def _pack_copy(message: Copy) -> tuple[Header, list[Buffer]]:
    fields = [message.sequence, message.round, _pack_batch(message.batch)]
    return fields, _batch_frames(message.batch)


def _unpack_copy(fields: Header, frames: Frames, limits: Limits) -> Copy:
    sequence, round_number, batch = read_fields(fields, 3, "copy")
    return Copy(
        sequence=read_number(sequence, "sequence"),
        round=read_number(round_number, "round"),
        batch=_unpack_batch(batch, frames, limits),
    )


def _pack_part(message: EpochPart) -> tuple[Header, list[Buffer]]:
    fields: Header = [message.sequence, message.epoch, message.part]
    if message.batch is not None:
        return [*fields, _pack_batch(message.batch), None], _batch_frames(message.batch)
    end = message.checkpoint
    if end is None:
        raise ConfigError("a part of an epoch carries a batch or the end")
    channels, table, payloads = _pack_outputs(end.outputs)
    digest = end.memory_digest.to_bytes(DIGEST_BYTES, "little")
    here = [end.position.retired, end.position.idled] if end.position is not None else None
    tail = [end.base, end.engine, channels, end.output_next, end.log_index, digest, end.dirty_pages, here]
    return [*fields, None, tail], [end.devices, table, payloads, end.page_digests]


def _unpack_part(fields: Header, frames: Frames, limits: Limits) -> EpochPart:
    sequence, epoch, part, pages, tail = read_fields(fields, 5, "epoch part")
    if (pages is None) == (tail is None):
        raise BadFrame("a part of an epoch carries a batch or the end, not both and not neither")
    number = read_number(epoch, "epoch")
    batch, end = None, None
    if pages is not None:
        batch = _unpack_batch(pages, frames, limits)
    else:
        end = _unpack_end(number, tail, frames, limits)
    return EpochPart(
        sequence=read_number(sequence, "sequence"),
        epoch=number,
        part=read_number(part, "part"),
        batch=batch,
        checkpoint=end,
    )


def _unpack_end(epoch: int, tail: object, frames: Frames, limits: Limits) -> Checkpoint:
    base, engine, channels, output_next, log_index, digest, dirty_pages, here = read_fields(tail, 8, "end of an epoch")
    if len(frames) != 4:
        raise BadFrame(f"the end of an epoch has 4 frames, not {len(frames)}")
    devices, table, payloads, page_digests = frames
    if len(page_digests) % PAGE_DIGEST_ROW.size or len(page_digests) > limits.staging_bytes:
        raise BadFrame(f"page digests of {len(page_digests)} bytes cannot be")
    if len(devices) > limits.devices_bytes:
        raise BadFrame(f"{len(devices)} bytes of device state is more than the limit of {limits.devices_bytes}")
    if len(payloads) > limits.outputs_held_bytes:
        raise BadFrame(f"{len(payloads)} bytes of outputs is more than the limit of {limits.outputs_held_bytes}")
    following = read_number(output_next, "next output number")
    names = read_list(read_identity, channels, "channels")
    return Checkpoint(
        epoch=epoch,
        base=read_number(base, "base epoch"),
        engine=read_identity(engine, "engine"),
        batches=(),
        devices=bytes(devices),
        outputs=_unpack_outputs(names, following, table, payloads, limits),
        output_next=following,
        log_index=read_number(log_index, "log index"),
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
        dirty_pages=read_number(dirty_pages, "dirty pages", PAGE_COUNT_MAX),
        page_digests=bytes(page_digests),
        position=read_optional(_unpack_position, here, "position"),
    )


def _pack_log(message: Log) -> tuple[Header, list[Buffer]]:
    channels = list(dict.fromkeys(record.channel for record in message.records))
    if len(channels) > NAMES_MAX:
        raise LimitExceeded("input channels", limit=NAMES_MAX, wanted=len(channels))
    rows = (
        _LOG_ROW.pack(
            record.kind.value,
            channels.index(record.channel),
            record.position.retired,
            record.position.idled,
            record.amount,
            len(record.payload),
        )
        for record in message.records
    )
    first = message.records[0].index if message.records else 0
    payloads = b"".join(record.payload for record in message.records)
    return [message.sequence, first, channels], [b"".join(rows), payloads]


def _unpack_log(fields: Header, frames: Frames, limits: Limits) -> Log:
    sequence, first, channels = read_fields(fields, 3, "log")
    if len(frames) != 2:
        raise BadFrame(f"a log message has 2 frames, not {len(frames)}")
    table, payloads = frames
    count, rest = divmod(len(table), _LOG_ROW.size)
    if rest or not 0 < count <= limits.log_records or len(payloads) > limits.log_bytes:
        raise BadFrame(f"a log table of {len(table)} bytes with {len(payloads)} bytes of payload cannot be")
    names = read_list(read_text, channels, "channels")
    index = read_number(first, "first log index")
    records: list[LogRecord] = []
    offset = 0
    for kind, channel, retired, idled, amount, length in _LOG_ROW.iter_unpack(table):
        if kind not in _LOG_KINDS or channel >= len(names) or length > len(payloads) - offset:
            raise BadFrame(f"log record {index} is of kind {kind}, channel {channel}, {length} bytes")
        records.append(
            LogRecord(
                index=index,
                kind=_LOG_KINDS[kind],
                position=GuestPosition(retired, idled),
                amount=amount,
                channel=names[channel],
                payload=bytes(payloads[offset : offset + length]),
            )
        )
        index += 1
        offset += length
    if offset != len(payloads):
        raise BadFrame(f"log records use {offset} of {len(payloads)} payload bytes")
    return Log(sequence=read_number(sequence, "sequence"), records=tuple(records))


def _unpack_position(value: object, name: str) -> GuestPosition:
    retired, idled = read_fields(value, 2, name)
    return GuestPosition(read_number(retired, "retired"), read_number(idled, "idled"))


def _pack_ack(message: Ack) -> tuple[Header, list[Buffer]]:
    digest = message.memory_digest.to_bytes(DIGEST_BYTES, "little")
    return [message.received, message.epoch, message.log_index, digest], []


def _unpack_ack(fields: Header, frames: Frames, _: Limits) -> Ack:
    received, epoch, log_index, digest = read_fields(fields, 4, "ack")
    _no_frames(frames)
    return Ack(
        received=read_number(received, "received"),
        epoch=read_number(epoch, "epoch"),
        log_index=read_number(log_index, "log index"),
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
    )


def _pack_ping(message: Ping) -> tuple[Header, list[Buffer]]:
    return [message.number], []


def _unpack_ping(fields: Header, frames: Frames, _: Limits) -> Ping:
    (number,) = read_fields(fields, 1, "ping")
    _no_frames(frames)
    return Ping(number=read_number(number, "ping"))


def _pack_pong(message: Pong) -> tuple[Header, list[Buffer]]:
    return [message.number], []


def _unpack_pong(fields: Header, frames: Frames, _: Limits) -> Pong:
    (number,) = read_fields(fields, 1, "pong")
    _no_frames(frames)
    return Pong(number=read_number(number, "pong"))


def _pack_prepare(message: Prepare) -> tuple[Header, list[Buffer]]:
    return [message.epoch], []


def _unpack_prepare(fields: Header, frames: Frames, _: Limits) -> Prepare:
    (epoch,) = read_fields(fields, 1, "prepare")
    _no_frames(frames)
    return Prepare(epoch=read_number(epoch, "epoch"))


def _pack_prepared(message: Prepared) -> tuple[Header, list[Buffer]]:
    return [message.epoch, message.engine, message.error[:TEXT_CHARS_MAX]], []


def _unpack_prepared(fields: Header, frames: Frames, _: Limits) -> Prepared:
    epoch, engine, error = read_fields(fields, 3, "prepared")
    _no_frames(frames)
    return Prepared(
        epoch=read_number(epoch, "epoch"),
        engine=read_identity(engine, "engine"),
        error=read_text(error, "error"),
    )


def _pack_leave(message: Leave) -> tuple[Header, list[Buffer]]:
    return [message.reason[:TEXT_CHARS_MAX]], []


def _unpack_leave(fields: Header, frames: Frames, _: Limits) -> Leave:
    (reason,) = read_fields(fields, 1, "leave")
    _no_frames(frames)
    return Leave(reason=read_text(reason, "reason"))


def _no_frames(frames: Frames) -> None:
    if frames:
        raise BadFrame(f"{len(frames)} frames behind a message that has none")


_PACK: Final[dict[type, tuple[int, Callable[[Any], tuple[Header, list[Buffer]]]]]] = {
    Join: (1, _pack_join),
    Welcome: (2, _pack_welcome),
    Refuse: (3, _pack_refuse),
    Copy: (4, _pack_copy),
    EpochPart: (5, _pack_part),
    Ack: (6, _pack_ack),
    Ping: (7, _pack_ping),
    Pong: (8, _pack_pong),
    Leave: (9, _pack_leave),
    Log: (10, _pack_log),
    Prepare: (11, _pack_prepare),
    Prepared: (12, _pack_prepared),
}

_UNPACK: Final[dict[int, Callable[[Header, Frames, Limits], Message]]] = {
    1: _unpack_join,
    2: _unpack_welcome,
    3: _unpack_refuse,
    4: _unpack_copy,
    5: _unpack_part,
    6: _unpack_ack,
    7: _unpack_ping,
    8: _unpack_pong,
    9: _unpack_leave,
    10: _unpack_log,
    11: _unpack_prepare,
    12: _unpack_prepared,
}


def encode(envelope: Envelope, message: Message) -> list[Buffer]:
    """Return the frames of a message, the header first. The page frames are the batch's own buffers, not copies."""
    kind, pack = _PACK[type(message)]
    fields, frames = pack(message)
    session = envelope.session
    header = [
        PROTOCOL_VERSION,
        kind,
        envelope.guest_id,
        envelope.sender,
        None if session is None else [session.counter, session.active, session.generation],
        _pack_record(envelope.record),
        envelope.released,
        fields,
    ]
    return [msgpack.packb(header), *frames]


_SEQUENCED: Final = frozenset(_PACK[kind][0] for kind in get_args(Sequenced))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message of which only the header was read: what is in its frames costs time to read, so first see whose it is.

    builds_state  whether it is one of those that only count within a session (messages.Sequenced)
    """

    envelope: Envelope
    builds_state: bool
    _unpack: Callable[[Header, Frames, Limits], Message]
    _fields: Header
    _frames: Frames

    def open(self, limits: Limits) -> Message:
        """Return the message. Raises BadFrame, the peer's fault; nothing of the message is kept then."""
        return self._unpack(self._fields, self._frames, limits)


def decode(frames: Sequence[Buffer], limits: Limits) -> tuple[Envelope, Message]:
    """Return the message that the frames carry.

    Raises BadFrame or VersionMismatch, both the peer's fault; nothing of the message is kept then.
    """
    sealed = read_header(frames, limits)
    return sealed.envelope, sealed.open(limits)


def read_header(frames: Sequence[Buffer], limits: Limits) -> Sealed:
    """Return the message that the frames carry, sealed. Raises BadFrame or VersionMismatch, both the peer's fault."""
    if not frames or len(frames) > FRAMES_MAX:
        raise BadFrame(f"a message has 1 to {FRAMES_MAX} frames, not {len(frames)}")
    header = _unpack_header(frames[0], limits)
    _, kind, guest_id, sender, session, record, released, fields = read_fields(header, 8, "header")
    unpack = _UNPACK.get(kind) if type(kind) is int else None
    if unpack is None:
        raise BadFrame(f"no message is of kind {reprlib.repr(kind)}")
    envelope = Envelope(
        guest_id=read_identity(guest_id, "guest id"),
        sender=read_identity(sender, "sender"),
        session=read_optional(_unpack_session, session, "session"),
        record=_unpack_record(record),
        released=read_number(released, "released"),
    )
    return Sealed(envelope, kind in _SEQUENCED, unpack, fields, tuple(frames[1:]))


def _unpack_header(frame: Buffer, limits: Limits) -> Header:
    if len(frame) > limits.header_bytes:
        raise BadFrame(f"a header of {len(frame)} bytes is more than the limit of {limits.header_bytes}")
    try:
        header = msgpack.unpackb(
            frame,
            max_array_len=2 * NAMES_MAX,
            max_map_len=0,
            max_str_len=4 * TEXT_CHARS_MAX,
            max_bin_len=DIGEST_BYTES,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as wrong:
        raise BadFrame(f"the header is not what this protocol packs: {wrong or type(wrong).__name__}") from wrong
    if type(header) is not list or not header or type(header[0]) is not int:
        raise BadFrame("the header is not a list that starts with a version")
    if header[0] != PROTOCOL_VERSION:
        raise VersionMismatch("protocol version", ours=PROTOCOL_VERSION, theirs=header[0])
    return header
