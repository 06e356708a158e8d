"""Messages to frames and back: in one frame the three that a protected pair sends all the time, where they are small.

A header of msgpack with binary frames behind it (headed.py, for all others) costs a dozen calls a field and one send a
frame. An acknowledgement, a short piece of log and a small epoch are instead one frame of fixed fields, then arrays,
then bytes, the flat form:

    head      mark, version, kind, 0, length of the prefix, length of the names, released
    prefix    msgpack array [guest id, sender, record's 3, session's 3]: it seldom changes, so each side keeps it packed
    names     msgpack array of the names that the body counts in; empty where it counts in none
    body      the kind's fields as a struct, then its arrays and bytes, whose lengths must fill the frame exactly
    digest    XXH3-128 of all before it

What is larger than FLAT_BYTES_MAX goes in the other form: its buffers are lent, not copied. `decode` raises BadFrame
for anything that `encode` would not have made, and VersionMismatch for another version; both are the peer's fault.
Lengths are compared with the frame before anything is made of them. Source: docs/wire.md, "The flat form".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgpack

from ftvm._native.memory import frame_digest
from ftvm.checkpoint import OUTPUT_ROW, PAGE_COUNT_MAX, Buffer, Checkpoint, GuestPosition, PageBatch
from ftvm.config import Limits
from ftvm.encode.envelope import known
from ftvm.encode.fields import DIGEST_BYTES, NAMES_MAX, TEXT_CHARS_MAX, read_fields, read_identity, read_list, read_text
from ftvm.encode.headed import Sealed, encode_headed, read_headed
from ftvm.encode.messages import Ack, Envelope, EpochPart, Log, Message, SessionId
from ftvm.encode.stream import (
    check_batch,
    check_end,
    pack_outputs,
    unpack_outputs,
    unpack_records,
)
from ftvm.encode.versions import FLAT_SINCE, SPOKEN
from ftvm.errors import BadFrame, VersionMismatch
from ftvm.interfaces import Record
from ftvm.logtable import LOG_ROW

__all__ = ["FLAT_BYTES_MAX", "MARK", "FlatSealed", "decode", "encode", "read_header"]

MARK: Final = 0xC1
"""The first byte. No msgpack starts with it, so the two forms are told apart."""

FLAT_BYTES_MAX: Final = 1 << 15
"""The longest frame of this form: to copy this much costs less than to send more frames."""

_PREFIX_BYTES_MAX: Final = 2048
_KEPT: Final = 64
"""So many prefixes and lists of names are kept packed: one session uses two of each."""

_HEAD: Final = struct.Struct("<BBBBHHq")
_ACK: Final = struct.Struct("<qqq16s")
_LOG: Final = struct.Struct("<qqI")
_PART: Final = struct.Struct("<qqqI")
_BATCH: Final = struct.Struct("<III16s")
_END: Final = struct.Struct("<qqq16sIqqIII")

_PART_KIND, _ACK_KIND, _LOG_KIND = 5, 6, 10
_HAS_BATCH, _HAS_END, _HAS_POSITION, _IS_CALM = 1, 2, 4, 8


# --- writing ----------------------------------------------------------------------------------------------------------


def encode(envelope: Envelope, message: Message) -> list[Buffer]:
    """Return the frames of a message: one in the flat form, or a header and the batch's own buffers, not copies.

    They are in the version of the session that the envelope names. Raises KeyError for one that SPOKEN does not name.
    A single frame is a copy: none of the batch's buffers is in use then.
    """
    session = envelope.session
    if session is None or session.version < FLAT_SINCE:
        return encode_headed(envelope, message)
    names: tuple[str, ...] = ()
    body: list[Buffer]
    match message:
        case Ack():
            digest = message.memory_digest.to_bytes(DIGEST_BYTES, "little")
            kind, body = _ACK_KIND, [_ACK.pack(message.received, message.epoch, message.log_index, digest)]
        case EpochPart():
            kind = _PART_KIND
            names, body = _pack_part(message)
        case Log():
            kind = _LOG_KIND
            names, body = _pack_log(message)
        case _:
            return encode_headed(envelope, message)
    prefix, listed = _pack_prefix(envelope.guest_id, envelope.sender, session, envelope.record), _pack_names(names)
    if _HEAD.size + len(prefix) + len(listed) + sum(map(len, body)) + DIGEST_BYTES > FLAT_BYTES_MAX:
        return encode_headed(envelope, message)
    head = _HEAD.pack(MARK, session.version, kind, 0, len(prefix), len(listed), envelope.released)
    packed = b"".join((head, prefix, listed, *body))
    return [packed + frame_digest(packed)]


@lru_cache(maxsize=_KEPT)
def _pack_prefix(guest_id: str, sender: str, session: SessionId, record: Record) -> bytes:
    names = [record.generation, record.active, record.standby, session.counter, session.active, session.generation]
    return bytes(msgpack.packb([guest_id, sender, *names]))


@lru_cache(maxsize=_KEPT)
def _pack_names(names: tuple[str, ...]) -> bytes:
    return bytes(msgpack.packb(names)) if names else b""


def _pack_log(message: Log) -> tuple[tuple[str, ...], list[Buffer]]:
    table = message.records
    return table.channels, [_LOG.pack(message.sequence, table.first, table.record_count), table.rows, table.payloads]


def _pack_part(message: EpochPart) -> tuple[tuple[str, ...], list[Buffer]]:
    batch, end = message.batch, message.checkpoint
    has = (_HAS_BATCH if batch is not None else 0) | (_HAS_END if end is not None else 0)
    names: tuple[str, ...] = ()
    fixed: list[Buffer] = []
    content: list[Buffer] = []
    if batch is not None:
        fixed.append(_BATCH.pack(batch.count, len(batch.payload), batch.unpacked_bytes, batch.digest))
        content += (batch.indices, batch.lengths, batch.payload)
    if end is not None:
        has |= (_HAS_POSITION if end.position is not None else 0) | (0 if end.has_flush else _IS_CALM)
        channels, table, payloads = pack_outputs(end.outputs)
        names = (end.engine, *channels)
        fixed.append(
            _END.pack(
                end.base,
                end.output_next,
                end.log_index,
                end.memory_digest.to_bytes(DIGEST_BYTES, "little"),
                end.dirty_pages,
                *((end.position.retired, end.position.idled) if end.position is not None else (0, 0)),
                len(end.devices),
                len(end.page_digests),
                len(table) // OUTPUT_ROW.size,
            )
        )
        content += (end.devices, end.page_digests, table, payloads)
    return names, [_PART.pack(message.sequence, message.epoch, message.part, has), *fixed, *content]


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlatSealed:
    """A message of which only the head was read: see headed.Sealed."""

    envelope: Envelope
    builds_state: bool
    _kind: int
    _names: bytes
    _body: memoryview

    def open(self, limits: Limits) -> Message:
        """Return the message. Raises BadFrame, the peer's fault; nothing of the message is kept then."""
        if self._kind == _ACK_KIND:
            if self._names or len(self._body) != _ACK.size:
                raise BadFrame(f"an acknowledgement of {len(self._body)} bytes is not of {_ACK.size}, or has names")
            received, epoch, log_index, digest = _ACK.unpack(self._body)
            if min(received, epoch, log_index) < 0:
                raise BadFrame("an acknowledgement counts from 0")
            memory_digest = int.from_bytes(digest, "little")
            return Ack(received=received, epoch=epoch, log_index=log_index, memory_digest=memory_digest)
        if self._kind == _LOG_KIND:
            return _unpack_log(self._body, _read_names(self._names, False), limits)
        return _unpack_part(self._body, _read_names(self._names, True), limits)


def decode(frames: Sequence[Buffer], limits: Limits) -> tuple[Envelope, Message]:
    """Return the message that the frames carry.

    Raises BadFrame or VersionMismatch, both the peer's fault; nothing of the message is kept then.
    """
    sealed = read_header(frames, limits)
    return sealed.envelope, sealed.open(limits)


def read_header(frames: Sequence[Buffer], limits: Limits) -> Sealed | FlatSealed:
    """Return the message that the frames carry, sealed. Raises BadFrame or VersionMismatch, both the peer's fault."""
    if not frames or not len(frames[0]) or frames[0][0] != MARK:
        return read_headed(frames, limits)
    if len(frames) != 1:
        raise BadFrame(f"a flat message has one frame, not {len(frames)}")
    frame = memoryview(frames[0])
    if not _HEAD.size + DIGEST_BYTES <= len(frame) <= FLAT_BYTES_MAX:
        raise BadFrame(f"a flat message of {len(frame)} bytes is not within {_HEAD.size} and {FLAT_BYTES_MAX}")
    end = len(frame) - DIGEST_BYTES
    if frame_digest(frame[:end]) != frame[end:]:
        raise BadFrame("message digest mismatch: corrupted, or not an ftvm message")
    _, version, kind, zero, prefix_bytes, names_bytes, released = _HEAD.unpack_from(frame)
    if not SPOKEN.lowest <= version <= SPOKEN.highest:
        raise VersionMismatch("wire version", ours=SPOKEN, theirs=version)
    if version < FLAT_SINCE or kind not in (_PART_KIND, _ACK_KIND, _LOG_KIND) or zero or released < 0:
        raise BadFrame(f"no flat message of version {version} and kind {kind} starts like this")
    names_at = _HEAD.size + prefix_bytes
    body_at = names_at + names_bytes
    if prefix_bytes > _PREFIX_BYTES_MAX or body_at > end:
        raise BadFrame(f"a prefix of {prefix_bytes} and names of {names_bytes} bytes do not fit the message")
    guest_id, sender, session, record = _read_prefix(bytes(frame[_HEAD.size : names_at]), version)
    envelope = Envelope(guest_id=guest_id, sender=sender, session=session, record=record, released=released)
    return FlatSealed(envelope, kind != _ACK_KIND, kind, bytes(frame[names_at:body_at]), frame[body_at:end])


def _unpack_msgpack(packed: bytes, name: str) -> object:
    try:
        return msgpack.unpackb(
            packed,
            max_array_len=2 * NAMES_MAX,
            max_map_len=0,
            max_str_len=4 * TEXT_CHARS_MAX,
            max_bin_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as wrong:
        raise BadFrame(f"the {name} of a flat message: {wrong or type(wrong).__name__}") from wrong


@lru_cache(maxsize=_KEPT)
def _read_prefix(packed: bytes, version: int) -> tuple[str, str, SessionId | None, Record]:
    names = read_fields(_unpack_msgpack(packed, "prefix"), 8, "prefix")
    try:
        return known(version, *names)
    except TypeError as wrong:  # a list cannot be looked up
        raise BadFrame("a list stands where the prefix has a number or a text") from wrong


@lru_cache(maxsize=_KEPT)
def _read_names(packed: bytes, are_identities: bool) -> tuple[str, ...]:
    if not packed:
        return ()
    return read_list(read_identity if are_identities else read_text, _unpack_msgpack(packed, "names"), "names")


def _lacks(body: memoryview, size: int) -> BadFrame:
    return BadFrame(f"a flat message lacks {size - len(body)} bytes")


def _unpack_log(body: memoryview, names: tuple[str, ...], limits: Limits) -> Log:
    if len(body) < _LOG.size:
        raise _lacks(body, _LOG.size)
    sequence, first, rows = _LOG.unpack_from(body)
    if min(sequence, first) < 0:
        raise BadFrame("the numbers of a log message are from 0 on")
    end = _LOG.size + rows * LOG_ROW.size
    if len(body) < end:
        raise _lacks(body, end)
    return Log(sequence=sequence, records=unpack_records(first, names, body[_LOG.size : end], body[end:], limits))


def _unpack_part(body: memoryview, names: tuple[str, ...], limits: Limits) -> EpochPart:
    if len(body) < _PART.size:
        raise _lacks(body, _PART.size)
    sequence, epoch, part, has = _PART.unpack_from(body)
    known = _HAS_BATCH | _HAS_END | _HAS_POSITION | _IS_CALM
    if min(sequence, epoch, part) < 0 or has & ~known or not has & (_HAS_BATCH | _HAS_END):
        raise BadFrame("a part of an epoch carries a batch or the end, and its numbers are from 0 on")
    end_at = _PART.size + (_BATCH.size if has & _HAS_BATCH else 0)
    at = end_at + (_END.size if has & _HAS_END else 0)
    if len(body) < at:
        raise _lacks(body, at)
    pages = checkpoint = None
    if has & _HAS_BATCH:
        count, payload_bytes, unpacked_bytes, digest = _BATCH.unpack_from(body, _PART.size)
        lengths_at = at + 4 * count
        payload_at = lengths_at + 2 * count
        pages_end = payload_at + payload_bytes
        if len(body) < pages_end:
            raise _lacks(body, pages_end)
        indices, lengths, payload = body[at:lengths_at], body[lengths_at:payload_at], body[payload_at:pages_end]
        check_batch(count, unpacked_bytes, indices, lengths, payload, limits)
        pages = PageBatch(
            count=count, indices=indices, lengths=lengths, payload=payload, digest=digest, unpacked_bytes=unpacked_bytes
        )
        at = pages_end
    if has & _HAS_END:
        fixed = _END.unpack_from(body, end_at)
        checkpoint = _unpack_end(body[at:], epoch, fixed, names, has, limits)
    elif names or has & (_HAS_POSITION | _IS_CALM):
        raise BadFrame("a part of an epoch without the end names nothing, has no position and is not calm")
    elif at < len(body):
        raise BadFrame(f"{len(body) - at} bytes too many in a part of an epoch")
    return EpochPart(sequence=sequence, epoch=epoch, part=part, batch=pages, checkpoint=checkpoint)


def _unpack_end(
    content: memoryview,
    epoch: int,
    fixed: tuple[int, int, int, bytes, int, int, int, int, int, int],
    names: tuple[str, ...],
    has: int,
    limits: Limits,
) -> Checkpoint:
    base, output_next, log_index, digest, dirty_pages, retired, idled, devices_bytes, pages_bytes, rows = fixed
    if not names or min(base, output_next, log_index, retired, idled) < 0 or dirty_pages > PAGE_COUNT_MAX:
        raise BadFrame("the end of an epoch names its engine, and its numbers are from 0 on")
    if not has & _HAS_POSITION and (retired or idled):
        raise BadFrame("the end of an epoch has no position, and says one")
    table_at = devices_bytes + pages_bytes
    payloads_at = table_at + rows * OUTPUT_ROW.size
    if len(content) < payloads_at:
        raise _lacks(content, payloads_at)
    devices, page_digests, payloads = content[:devices_bytes], content[devices_bytes:table_at], content[payloads_at:]
    check_end(devices, page_digests, payloads, limits)
    return Checkpoint(
        epoch=epoch,
        base=base,
        engine=names[0],
        batches=(),
        devices=bytes(devices),
        outputs=unpack_outputs(names[1:], output_next, content[table_at:payloads_at], payloads, limits),
        output_next=output_next,
        log_index=log_index,
        memory_digest=int.from_bytes(digest, "little"),
        dirty_pages=dirty_pages,
        page_digests=bytes(page_digests),
        position=GuestPosition(retired, idled) if has & _HAS_POSITION else None,
        has_flush=not has & _IS_CALM,
    )
