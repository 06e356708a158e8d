"""The messages by which a host that still has memory of the guest is sent only what differs (docs/wire.md, "What
builds up the state").

    CacheDigests   digests, 16 bytes a page    from the joiner
    CacheKept      a bitmap, one bit a page    from the active

Both stand in a frame behind the header; the pages of one message are bounded, and those of all by the guest's size.
"""

from typing import Final

from ftvm._native.memory import bytes_digest
from ftvm.checkpoint import PAGE_COUNT_MAX, bitmap_bytes
from ftvm.config import Limits
from ftvm.encode.codec import Codec, Frames, Header, Packed
from ftvm.encode.fields import DIGEST_BYTES, read_flag, read_number, read_numbers
from ftvm.encode.messages import CacheDigests, CacheKept
from ftvm.encode.stream import check_seal
from ftvm.encode.versions import CACHE_SINCE
from ftvm.errors import BadFrame

__all__ = ["CACHE_MESSAGES"]


def _pack_digests(message: CacheDigests) -> Packed:
    seal = bytes_digest(message.digests)
    return [message.sequence, message.first, message.is_last, seal], [message.digests]


def _unpack_digests(fields: Header, frames: Frames, limits: Limits) -> CacheDigests:
    sequence, first, is_last, seal = fields
    (digests,) = frames
    _check_pages(first, *divmod(len(digests), DIGEST_BYTES), limits)
    check_seal(seal, frames)
    read_numbers((sequence,), "sequence")
    return CacheDigests(sequence=sequence, first=first, digests=digests, is_last=read_flag(is_last, "last"))


def _pack_keep(message: CacheKept) -> Packed:
    return [message.sequence, message.first, message.pages, bytes_digest(message.kept)], [message.kept]


def _unpack_keep(fields: Header, frames: Frames, limits: Limits) -> CacheKept:
    sequence, first, pages, seal = fields
    (kept,) = frames
    pages = read_number(pages, "pages offered", PAGE_COUNT_MAX)
    _check_pages(first, pages, len(kept) - bitmap_bytes(pages), limits)
    check_seal(seal, frames)
    read_numbers((sequence,), "sequence")
    return CacheKept(sequence=sequence, first=first, pages=pages, kept=bytes(kept))


def _check_pages(first: object, pages: int, rest: int, limits: Limits) -> None:
    """Compare the pages of a message with the limits. `rest` are the bytes of its frame that are of no page."""
    read_number(first, "first page offered", PAGE_COUNT_MAX)
    if rest or pages > limits.digests_per_message:
        raise BadFrame(f"{pages} pages and {rest} bytes beside, where at most {limits.digests_per_message} are offered")


CACHE_MESSAGES: Final = (
    Codec(13, CacheDigests, 4, _pack_digests, _unpack_digests, frames=(1,), since=CACHE_SINCE),
    Codec(14, CacheKept, 4, _pack_keep, _unpack_keep, frames=(1,), since=CACHE_SINCE),
)
"""Each counts only within a session."""
