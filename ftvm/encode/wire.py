"""Messages to frames and back.

A message is one header, then the binary frames that its kind calls for. The header is a flat msgpack array, and behind
it the 16 bytes of its digest:

    [version, kind, guest id, sender, session or nil, record, released, the kind's own fields ...]

The digest and the first two places hold for every version to come, so that a peer of another version is told apart from
noise. Page data, device state and outputs never pass through msgpack (PERFORMANCE.md: 8-13 copies with the GIL held);
their lengths and digests stand in the header and are compared with the frames before anything is kept (SECURITY.md): a
bit that flips anywhere on the way is noticed, whatever carries the message. The kinds are in plain.py and stream.py.

`decode` raises BadFrame for anything that `encode` would not have made, and VersionMismatch for another version; both
are the peer's fault. It allocates nothing that the peer's lengths ask for before they were checked.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from ftvm._native.digest import bytes_digest
from ftvm.checkpoint import Buffer
from ftvm.config import PROTOCOL_VERSION, Limits
from ftvm.encode.codec import Codec, Frames, Header
from ftvm.encode.fields import (
    DIGEST_BYTES,
    NAMES_MAX,
    TEXT_CHARS_MAX,
    read_fields,
    read_identity,
    read_number,
    read_optional,
)
from ftvm.encode.messages import Envelope, Message, SessionId
from ftvm.encode.plain import PLAIN_MESSAGES
from ftvm.encode.stream import STREAM_MESSAGES
from ftvm.errors import BadFrame, VersionMismatch
from ftvm.interfaces import Record

__all__ = ["Sealed", "decode", "encode", "read_header", "seal"]

FRAMES_MAX: Final = 5

_BY_TYPE: Final[dict[type, Codec]] = {codec.type: codec for codec in (*PLAIN_MESSAGES, *STREAM_MESSAGES)}
_BY_KIND: Final[dict[int, Codec]] = {codec.kind: codec for codec in _BY_TYPE.values()}
_BUILD_STATE: Final = frozenset(codec.kind for codec in STREAM_MESSAGES)


def encode(envelope: Envelope, message: Message) -> list[Buffer]:
    """Return the frames of a message, the header first. The page frames are the batch's own buffers, not copies."""
    codec = _BY_TYPE[type(message)]
    fields, frames = codec.pack(message)
    session = envelope.session
    header = [
        PROTOCOL_VERSION,
        codec.kind,
        envelope.guest_id,
        envelope.sender,
        None if session is None else [session.counter, session.active, session.generation],
        _pack_record(envelope.record),
        envelope.released,
        fields,
    ]
    return [seal(msgpack.packb(header)), *frames]


def seal(packed: bytes) -> bytes:
    """Return the header frame of a packed header: with its digest behind it."""
    return packed + bytes_digest(packed)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message of which only the header was read: what is in its frames costs time to read, so first see whose it is.

    builds_state  whether it is one of those that only count within a session (messages.Sequenced)
    """

    envelope: Envelope
    builds_state: bool
    _codec: Codec
    _fields: Header
    _frames: Frames

    def open(self, limits: Limits) -> Message:
        """Return the message. Raises BadFrame, the peer's fault; nothing of the message is kept then."""
        return self._codec.unpack(self._fields, self._frames, limits)


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
    codec = _BY_KIND.get(kind) if type(kind) is int else None
    if codec is None:
        raise BadFrame(f"no message is of kind {reprlib.repr(kind)}")
    envelope = Envelope(
        guest_id=read_identity(guest_id, "guest id"),
        sender=read_identity(sender, "sender"),
        session=read_optional(_unpack_session, session, "session"),
        record=_unpack_record(record),
        released=read_number(released, "released"),
    )
    return Sealed(envelope, kind in _BUILD_STATE, codec, fields, tuple(frames[1:]))


def _unpack_header(frame: Buffer, limits: Limits) -> Header:
    if len(frame) > limits.header_bytes:
        raise BadFrame(f"a header of {len(frame)} bytes is more than the limit of {limits.header_bytes}")
    packed, digest = memoryview(frame)[:-DIGEST_BYTES], bytes(frame[-DIGEST_BYTES:])
    if not packed or bytes_digest(packed) != digest:
        raise BadFrame("the header is noise, or was changed on the way: its digest is not its own")
    try:
        header = msgpack.unpackb(
            packed,
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


# --- the envelope ----------------------------------------------------------------------------------------------------


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
