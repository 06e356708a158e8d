"""The hash of one page, by each variant of the C core."""

from ftvm._native import ffi, lib
from ftvm._native.memory import digest_to_int
from ftvm.checkpoint import Buffer
from ftvm.units import PAGE_BYTES


def page_hash64(page: Buffer, seed: int) -> int:
    """Return XXH3-64 of one page."""
    return int(lib.ftvm_digest_page64(ffi.from_buffer("uint8_t[]", page), seed))


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
    assert lib.ftvm_digest_page_by(number, ffi.from_buffer("uint8_t[]", page), seed, digest) == 0
    return digest_to_int(digest)
