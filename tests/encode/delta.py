"""One page as its difference from an older version. Wraps the native noun `delta` (delta.h is its manual).

Captures and commits do not come this way: they handle thousands of pages a call (capture/pages.py, encode/apply.py).
"""

from typing import Any

from ftvm._native import ffi, lib
from ftvm.checkpoint import Buffer
from ftvm.errors import BadFrame
from ftvm.units import PAGE_BYTES

__all__ = ["DELTA_BYTES_MAX", "codec_names", "delta_decode", "delta_encode"]

DELTA_BYTES_MAX: int = lib.FTVM_DELTA_BYTES_MAX
"""No delta is longer."""


def codec_names() -> tuple[str, ...]:
    """Return the codecs that this machine can run: the scalar reference first, the one in use last."""
    names: list[str] = []
    while (codec := lib.ftvm_delta_codec(len(names))) != ffi.NULL:
        names.append(ffi.string(codec.name).decode())
    return tuple(names)


def delta_encode(page: Buffer, base: Buffer, *, codec: str | None = None) -> bytes:
    """Return how `page` differs from `base`, b"" if it does not; neither is changed."""
    updated = bytearray(_page_bytes(base))
    out = bytearray(lib.FTVM_DELTA_ROOM_BYTES)
    length = _codec(codec).encode(
        ffi.from_buffer("uint8_t[]", _page_bytes(page)),
        ffi.from_buffer("uint8_t[]", updated),
        ffi.from_buffer("uint8_t[]", out),
    )
    return bytes(out[:length])


def delta_decode(delta: Buffer, base: Buffer, *, codec: str | None = None, behind: bytes = b"") -> bytes:
    """Return the page that `delta` makes of `base`; raises BadFrame if the bytes are no delta.

    `behind` lies behind the delta in the same buffer, as the next one does in a batch; it changes nothing.
    """
    page = bytearray(_page_bytes(base))
    # A buffer of exactly this length: a decoder that reads past it is caught by the address sanitizer.
    source = ffi.from_buffer("uint8_t[]", bytes(delta) + behind)
    if _codec(codec).decode(source, len(delta), len(behind), ffi.from_buffer("uint8_t[]", page)) != 0:
        raise BadFrame(f"{len(delta)} bytes are not the delta of a page")
    return bytes(page)


def _codec(name: str | None) -> Any:
    names = codec_names()
    if name is None:
        return lib.ftvm_delta_codec(len(names) - 1)
    if name not in names:
        raise ValueError(f"this machine has no delta codec {name!r}: it has {', '.join(names)}")
    return lib.ftvm_delta_codec(names.index(name))


def _page_bytes(page: Buffer) -> Buffer:
    if len(page) != PAGE_BYTES:
        raise ValueError(f"a page has {PAGE_BYTES} bytes, not {len(page)}")
    return page
