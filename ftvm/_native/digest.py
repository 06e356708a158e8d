"""XXH3 of pages, of memories and of batches. Wraps the native noun `digest` (digest.h is its manual).

A memory digest is the sum over all pages of XXH3-128(page, seed = page index), modulo 2**128. It finds mistakes of
software and of hardware; it is no signature, and no protection against somebody who chooses the contents.
"""

from array import array
from typing import Any

import xxhash

from ftvm._native import ffi, lib
from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Buffer
from ftvm.errors import LocalProtocolError
from ftvm.units import PAGE_BYTES

__all__ = [
    "DigestTable",
    "batch_digest",
    "bytes_digest",
    "digest_to_int",
    "digest_variants",
    "int_to_digest",
    "page_hash64",
    "page_hash128",
]


def page_hash64(page: Buffer, seed: int) -> int:
    """Return XXH3-64 of one page."""
    return int(lib.ftvm_digest_page64(_page(page), seed))


def digest_variants() -> range:
    """Return the numbers of the variants that this machine can run: 0 is the scalar reference, the last is in use."""
    digest, page = ffi.new("struct ftvm_digest *"), bytes(PAGE_BYTES)
    count = 0
    while lib.ftvm_digest_page_by(count, page, 0, digest) == 0:
        count += 1
    return range(count)


def page_hash128(page: Buffer, seed: int, *, variant: int | None = None) -> int:
    """Return XXH3-128 of one page."""
    digest = ffi.new("struct ftvm_digest *")
    number = digest_variants()[-1] if variant is None else variant
    if lib.ftvm_digest_page_by(number, _page(page), seed, digest) != 0:
        raise ValueError(f"this machine has no digest variant {number}")
    return digest_to_int(digest)


def batch_digest(indices: Buffer, lengths: Buffer, payload: Buffer) -> bytes:
    """Return XXH3-128 of a batch's three parts in order: what PageBatch.digest holds."""
    return bytes_digest(indices, lengths, payload)


def bytes_digest(*parts: Buffer) -> bytes:
    """Return XXH3-128 of bytes that stand in several places."""
    if len(parts) == 1:
        return xxhash.xxh3_128_digest(parts[0])
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.digest()


def digest_to_int(digest: Any) -> int:
    """Return a `struct ftvm_digest` as a number."""
    return int(digest.high) << 64 | int(digest.low)


def int_to_digest(value: int, digest: Any) -> None:
    """Store a number below 2**128 into a `struct ftvm_digest`."""
    digest.low, digest.high = value & ((1 << 64) - 1), value >> 64


class DigestTable:
    """One hash a page (16 bytes), and their sum."""

    __slots__ = ("_cells", "native", "page_count", "sum")

    native: Any
    """`struct ftvm_digest *` to the first of `page_count`."""
    sum: Any
    """`struct ftvm_digest *`: the memory digest."""

    def __init__(self, page_count: int) -> None:
        """Make the table of a memory of zero pages."""
        self.page_count = page_count
        self._cells = array("Q", bytes(16 * page_count))
        self.native = ffi.from_buffer("struct ftvm_digest[]", self._cells)
        self.sum = ffi.new("struct ftvm_digest *")
        self.reset()

    def reset(self) -> None:
        """Become the table of a memory of zero pages."""
        lib.ftvm_digest_zero_memory(self.page_count, self.native, self.sum)

    def measure(self, memory: NativeMemory) -> None:
        """Become the table of `memory` as it is; raises LocalProtocolError if it has not as many pages as the table."""
        self._require_fits(memory)
        lib.ftvm_digest_memory(memory.native, self.native, self.sum)

    def refresh(self, memory: NativeMemory, indices: "array[int]") -> None:
        """Note that the pages of `indices` were written; they must rise strictly and lie in the memory.

        Raises LocalProtocolError if the memory has not as many pages as the table.
        """
        self._require_fits(memory)
        if not memory.holds(indices):
            raise ValueError("page indices must rise strictly and lie in the memory")
        cells = ffi.from_buffer("uint32_t[]", indices)
        lib.ftvm_digest_refresh(memory.native, cells, len(indices), self.native, self.sum)

    def _require_fits(self, memory: NativeMemory) -> None:
        if memory.page_count != self.page_count:
            raise LocalProtocolError(f"a table of {self.page_count} pages, a memory of {memory.page_count}")

    def page(self, index: int) -> bytes:
        """Return the hash of one page, 16 bytes."""
        return self._cells[2 * index : 2 * index + 2].tobytes()


def _page(page: Buffer) -> Any:
    if len(page) != PAGE_BYTES:
        raise ValueError(f"a page has {PAGE_BYTES} bytes, not {len(page)}")
    return ffi.from_buffer("uint8_t[]", page)
