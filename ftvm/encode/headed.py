"""Messages in a header and frames: all that are rare, or too large for one frame (wire.py).

The header is a msgpack array, and behind it the 16 bytes of its digest; then come the binary frames that the kind of
message calls for:

    [version, kind, guest id, sender, session or nil, record, released, [the kind's own fields ...]]

The digest and the first two places hold for every version to come, so that a peer of another version is told apart from
noise; versions.py says what else is frozen, how a version is agreed on, and how the wire is changed.

Page data, device state and outputs never pass through msgpack (that would be 8 to 13 copies with the GIL held); their
lengths and digests stand in the header and are compared with the frames before anything is kept (docs/wire.md, "The
header"): a bit that flips anywhere on the way is noticed, whatever carries the message. The kinds are in plain.py,
stream.py and cache.py.

Reading raises BadFrame for anything that `encode_headed` would not have made, and VersionMismatch for another version;
both are the peer's fault. It allocates nothing that the peer's lengths ask for before they were checked.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from ftvm._native.memory import frame_digest
from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.encode.cache import CACHE_MESSAGES
from ftvm.encode.codec import Codec, Frames, Header
from ftvm.encode.envelope import known
from ftvm.encode.fields import (
    DIGEST_BYTES,
    NAMES_MAX,
    TEXT_CHARS_MAX,
    read_fields,
    read_number,
    read_padded,
)
from ftvm.encode.messages import Envelope, Greeting, Message
from ftvm.encode.plain import PLAIN_MESSAGES, as_refuse
from ftvm.encode.stream import STREAM_MESSAGES
from ftvm.encode.versions import FROZEN_FORM, OPTIONAL_SINCE, SPOKEN, Versions
from ftvm.errors import BadFrame, VersionMismatch

__all__ = ["CODECS", "Sealed", "codecs_of", "encode_headed", "read_headed", "seal"]

FRAMES_MAX: Final = 8

CODECS: Final = (*PLAIN_MESSAGES, *STREAM_MESSAGES, *CACHE_MESSAGES)
_BUILD_STATE: Final = frozenset(codec.kind for codec in (*STREAM_MESSAGES, *CACHE_MESSAGES))


def codecs_of(rows: Sequence[Codec], versions: Versions) -> dict[tuple[int, int], Codec]:
    """Return the row for each version and kind: the newest of the kind that the version has; frozen ones in one form.

    A kind that is not frozen has no row for a version that is not spoken.
    """
    table: dict[tuple[int, int], Codec] = {}
    for row in sorted(rows, key=lambda row: row.since):
        spoken = range(max(row.since, versions.lowest), versions.highest + 1)
        table |= {(version, row.kind): row for version in ([FROZEN_FORM] if row.is_frozen else spoken)}
    return table


_READERS: Final = codecs_of(CODECS, SPOKEN)
_WRITERS: Final = {(version, row.type): row for (version, _), row in _READERS.items()}
_FROZEN: Final = frozenset(row.type for row in CODECS if row.is_frozen)
_FROZEN_KINDS: Final = frozenset(row.kind for row in CODECS if row.is_frozen)


def encode_headed(envelope: Envelope, message: Message) -> list[Buffer]:
    """Return the frames of a message, the header first. The page frames are the batch's own buffers, not copies.

    They are in the version of the session that the envelope names. Raises KeyError for one that SPOKEN does not name.
    """
    if isinstance(message, Greeting):
        message = as_refuse(message)
    session = envelope.session
    version = FROZEN_FORM if type(message) in _FROZEN or session is None else session.version
    codec, record = _WRITERS[version, type(message)], envelope.record
    fields, frames = codec.pack(message)
    if version < OPTIONAL_SINCE:
        del fields[codec.count :]
    header = [
        version,
        codec.kind,
        envelope.guest_id,
        envelope.sender,
        None if session is None else [session.counter, session.active, session.generation],
        [record.generation, record.active, record.standby],
        envelope.released,
        fields,
    ]
    packed = msgpack.packb(header)
    return [packed + frame_digest(packed), *frames]


def seal(packed: bytes) -> bytes:
    """Return the header frame of a packed header: with its digest behind it."""
    return packed + frame_digest(packed)


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
        codec, frames = self._codec, self._frames
        if len(frames) not in codec.frames:
            raise BadFrame(
                f"{codec.type.__name__} has {_either(codec.frames)} frames behind the header, not {len(frames)}"
            )
        fields = self._fields
        if type(fields) is not list or len(fields) != codec.count or codec.optional:
            fields = read_padded(fields, codec.count, codec.optional, codec.type.__name__)
        return codec.unpack(fields, frames, limits)


def read_headed(frames: Sequence[Buffer], limits: Limits) -> Sealed:
    """Return the message that the frames carry, sealed. Raises BadFrame or VersionMismatch, both the peer's fault."""
    if not frames or len(frames) > FRAMES_MAX:
        raise BadFrame(f"a message has 1 to {FRAMES_MAX} frames, not {len(frames)}")
    header = _unpack_header(frames[0], limits)
    kind = header[1] if len(header) > 1 else None
    codec = _READERS.get((header[0], kind)) if type(kind) is int else None
    if codec is None:
        raise _unknown(header[0], kind)
    version, _, guest_id, sender, session, record, released, fields = read_fields(header, 8, "header")
    names = record if type(record) is list and len(record) == 3 else read_fields(record, 3, "record")
    if session is not None:
        names = [*names, *read_fields(session, 3, "session")]
    try:
        guest_id, sender, session, record = known(version, guest_id, sender, *names)
    except TypeError as wrong:  # a list cannot be looked up
        raise BadFrame("a list stands where the header has a number or a text") from wrong
    released = read_number(released, "released")
    envelope = Envelope(guest_id=guest_id, sender=sender, session=session, record=record, released=released)
    return Sealed(envelope, kind in _BUILD_STATE, codec, fields, tuple(frames[1:]))


def _unknown(version: int, kind: object) -> BadFrame | VersionMismatch:
    """Say what a message is that nobody here can read."""
    is_frozen = version == FROZEN_FORM and type(kind) is int and kind in _FROZEN_KINDS
    if version not in SPOKEN and not is_frozen:
        return VersionMismatch("wire version", ours=SPOKEN, theirs=version)
    return BadFrame(f"no message is of kind {reprlib.repr(kind)}")


def _either(counts: tuple[int, ...]) -> str:
    return " or ".join(map(str, counts)) if any(counts) else "no"


def _unpack_header(frame: Buffer, limits: Limits) -> Header:
    if len(frame) > limits.header_bytes:
        raise BadFrame(f"a header of {len(frame)} bytes is more than the limit of {limits.header_bytes}")
    packed, digest = memoryview(frame)[:-DIGEST_BYTES], bytes(frame[-DIGEST_BYTES:])
    if not packed or frame_digest(packed) != digest:
        raise BadFrame("header digest mismatch: corrupted, or not an ftvm message")
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
    return header
