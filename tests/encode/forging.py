"""What somebody does who changes a message on purpose: every digest in it is made right again."""

from collections.abc import Sequence

import msgpack

from ftvm._native.memory import bytes_digest
from ftvm.checkpoint import Buffer
from ftvm.encode.headed import seal
from ftvm.encode.wire import MARK

DIGEST_BYTES = 16
EPOCH_PART, LOG, CACHE_DIGESTS, KEEP = 5, 10, 13, 14


def forged(frames: Sequence[Buffer]) -> list[bytes]:
    """Return the frames with the digests of the header, and of the frames behind it, as they would have to be."""
    if not frames:
        return []
    packed, *rest = map(bytes, frames)
    return [forged_header(packed[:-DIGEST_BYTES], rest), *rest]


def forged_header(packed: bytes, rest: Sequence[Buffer]) -> bytes:
    """Seal a packed header, or a flat message; one that names the digest of its frames names the right one."""
    if packed[:1] == bytes([MARK]):
        return seal(packed)
    try:
        fields = msgpack.unpackb(packed)
        kind, own = fields[1], fields[7]
        if kind in (LOG, CACHE_DIGESTS, KEEP):
            own[3] = bytes_digest(*rest)
        elif kind == EPOCH_PART and own[4] is not None:
            own[4][8] = bytes_digest(*rest[-4:])
        return seal(msgpack.packb(fields))
    except (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException):
        return seal(packed)
