"""The journal beside a disk's image: the pages that make up one step, whole or not there.

magic (8 bytes), page count (u64), page indices (u64 each), pages (4096 bytes each), XXH3-128 of all that
"""

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import xxhash

from ftvm.guests.disk.blocks import write_pages
from ftvm.guests.disk.label import sync_directory, write_at
from ftvm.units import PAGE_BYTES

__all__ = ["finish_journal", "read_journal", "write_journal"]

_MAGIC: Final = b"ftvmdsk1"
_HEAD: Final = struct.Struct("<8sQ")
_DIGEST_BYTES: Final = 16
_PAGES_AT_ONCE: Final = 256


def finish_journal(journal_path: Path, descriptor: int, page_count: int) -> None:
    """Apply the journal that a crash has left, if it is whole."""
    with suppress(FileNotFoundError):
        write_pages(descriptor, read_journal(journal_path.read_bytes(), page_count))
        os.fdatasync(descriptor)
        journal_path.unlink()
    # Found or not: whoever removed it may have died before its own fsync, and a journal that a power cut brings back
    # would undo what is written from now on.
    sync_directory(journal_path.parent)


def write_journal(descriptor: int, step: Mapping[int, bytes]) -> None:
    """Write the pages of a step, and what tells that all are there. Raises OSError."""
    head = _HEAD.pack(_MAGIC, len(step)) + struct.pack(f"<{len(step)}Q", *step)
    digest = xxhash.xxh3_128(head)
    write_at(descriptor, head, 0)
    offset, pages = len(head), list(step)
    for first in range(0, len(pages), _PAGES_AT_ONCE):
        content = b"".join(step[page] for page in pages[first : first + _PAGES_AT_ONCE])
        digest.update(content)
        write_at(descriptor, content, offset)
        offset += len(content)
    write_at(descriptor, digest.digest(), offset)


def read_journal(found: bytes, page_count: int) -> dict[int, bytes]:
    """Return the pages of a whole journal; nothing of one that is torn."""
    if len(found) < _HEAD.size + _DIGEST_BYTES:
        return {}
    magic, count = _HEAD.unpack_from(found)
    first = _HEAD.size + 8 * count
    end = first + count * PAGE_BYTES
    if magic != _MAGIC or len(found) < end + _DIGEST_BYTES:
        return {}
    if xxhash.xxh3_128(found[:end]).digest() != found[end : end + _DIGEST_BYTES]:
        return {}
    pages = struct.unpack_from(f"<{count}Q", found, _HEAD.size)
    if any(page >= page_count for page in pages):
        return {}
    return {page: found[first + n * PAGE_BYTES : first + (n + 1) * PAGE_BYTES] for n, page in enumerate(pages)}
