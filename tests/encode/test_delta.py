import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftvm.errors import BadFrame
from ftvm.units import PAGE_BYTES

from ..native.pages import ZERO_PAGE, overwritten, page_of_seed, page_pairs, pages
from .delta import DELTA_BYTES_MAX, codec_names, delta_decode, delta_encode

codecs = pytest.mark.parametrize("codec", codec_names())
behinds = pytest.mark.parametrize("behind", [b"", b"\x01" * 200], ids=["alone", "in a batch"])


@codecs
@given(page_pairs())
def test_decoding_on_the_base_gives_the_page_back(codec: str, pair: tuple[bytes, bytes]) -> None:
    base, page = pair

    delta = delta_encode(page, base, codec=codec)

    if base == page:
        assert delta == b""
    else:
        assert 1 <= len(delta) <= DELTA_BYTES_MAX
        assert delta_decode(delta, base, codec=codec) == page


@codecs
@given(page_pairs())
def test_applying_a_delta_twice_does_no_harm(codec: str, pair: tuple[bytes, bytes]) -> None:
    base, page = pair

    delta = delta_encode(page, base, codec=codec)

    if delta:
        assert delta_decode(delta, page, codec=codec) == page


@codecs
@given(page_pairs())
def test_every_codec_gives_the_bytes_of_the_reference(codec: str, pair: tuple[bytes, bytes]) -> None:
    base, page = pair

    assert delta_encode(page, base, codec=codec) == delta_encode(page, base, codec="scalar")


def decoded(delta: bytes, base: bytes, codec: str, behind: bytes = b"") -> bytes | None:
    try:
        return delta_decode(delta, base, codec=codec, behind=behind)
    except BadFrame:
        return None


@codecs
@given(st.binary(max_size=200), pages)
@example(b"", ZERO_PAGE)
def test_arbitrary_bytes_are_refused_or_decoded_as_the_reference_does(codec: str, delta: bytes, base: bytes) -> None:
    assert decoded(delta, base, codec) == decoded(delta, base, "scalar")


@codecs
@given(page_pairs(), st.data())
def test_mutated_deltas_are_refused_or_decoded_as_the_reference_does(
    codec: str, pair: tuple[bytes, bytes], data: st.DataObject
) -> None:
    base, page = pair
    delta = bytearray(delta_encode(page, base, codec="scalar"))
    for _ in range(data.draw(st.integers(1, 3)) if delta else 0):
        delta[data.draw(st.integers(0, min(len(delta) - 1, 90)))] = data.draw(st.integers(0, 255))

    expected = decoded(bytes(delta), base, "scalar")
    assert decoded(bytes(delta), base, codec) == expected
    assert decoded(bytes(delta), base, codec, behind=b"\x01" * 200) == expected


@codecs
@given(page_pairs())
def test_every_truncated_or_lengthened_delta_is_refused(codec: str, pair: tuple[bytes, bytes]) -> None:
    base, page = pair
    delta = delta_encode(page, base, codec="scalar")

    cuts = {*range(min(len(delta), 100)), max(len(delta) - 1, 0)} - {len(delta)}

    for cut in cuts:
        with pytest.raises(BadFrame):
            delta_decode(delta[:cut], base, codec=codec)
    if delta:
        with pytest.raises(BadFrame):
            delta_decode(delta + b"\0", base, codec=codec)


def word(index: int, first: int, length: int) -> bytes:
    return (index << 6 | first << 3 | (length - 1)).to_bytes(2, "little")


def run(first: int, length: int) -> bytes:
    return (0x8000 | first).to_bytes(2, "little") + bytes([length - 1])


MALFORMED = {
    "no tag": b"",
    "unknown tag": b"\x18",
    "list of no lines": b"\x10",
    "list of eight lines": b"\x18",
    "zero with a rest": b"\x00\x00",
    "sparse word past the page": b"\x01" + word(512, 0, 1) + b"x",
    "sparse bytes past their word": b"\x01" + word(0, 7, 2) + b"xy",
    "sparse words that fall": b"\x02" + word(5, 0, 1) + b"x" + word(4, 0, 1) + b"y",
    "sparse entries that overlap": b"\x02" + word(5, 0, 2) + b"xy" + word(5, 1, 1) + b"z",
    "run past the page": b"\x01" + run(4095, 2) + b"xy",
    "run that begins past the page": b"\x01" + run(4096, 1) + b"x",
    "run that overlaps": b"\x02" + run(8, 20) + bytes(20) + run(27, 9) + bytes(9),
    "run without its bytes": b"\x01" + run(0, 5) + b"xyzw",
    "run without its length": b"\x01" + run(0, 5)[:2],
    "sparse without its bytes": b"\x01" + word(0, 0, 8) + b"x",
    "line past the page": b"\x11\x40\x00" + bytes(64),
    "lines that fall": b"\x12\x05\x04" + 2 * (b"\x00" + bytes(64)),
    "lines that repeat": b"\x12\x05\x05" + 2 * (b"\x00" + bytes(64)),
    "line without a body": b"\x11\x05",
    "whole line cut short": b"\x11\x05\x00" + bytes(63),
    "byte mask of nothing": b"\x11\x05\x03\x01\x00x",
    "parts without their bytes": b"\x11\x05\x01\x03x",
    "mask of no lines": b"\x20" + bytes(8),
    "mask cut short": b"\x20" + bytes(7),
    "raw cut short": b"\x30" + bytes(4095),
    "raw with a rest": b"\x30" + bytes(4097),
}


@codecs
@behinds
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_delta_is_refused(codec: str, behind: bytes, name: str) -> None:
    with pytest.raises(BadFrame, match="delta of a page"):
        delta_decode(MALFORMED[name], ZERO_PAGE, codec=codec, behind=behind)


BASE = page_of_seed(1)
FLIPPED = bytes(byte ^ 0xFF for byte in BASE)


def flipped(*offsets: int) -> bytes:
    return overwritten(BASE, [(offset, FLIPPED[offset : offset + 1]) for offset in offsets])


def new(*offsets: int) -> bytes:
    return bytes(FLIPPED[offset] for offset in offsets)


# The drawing in delta.h, case by case.
DRAWN = {
    "zero page": (ZERO_PAGE, b"\x00"),
    "one byte": (flipped(4095), b"\x01" + word(511, 7, 1) + new(4095)),
    "span within a word": (
        flipped(8, 10),
        b"\x01" + word(1, 0, 3) + new(8) + BASE[9:10] + new(10),
    ),
    "two words that touch": (flipped(*range(5, 12)), b"\x01" + run(5, 7) + new(*range(5, 12))),
    "a run goes on over one byte, and over lines": (
        flipped(*range(50, 67), *range(68, 70)),
        b"\x01" + run(50, 20) + new(*range(50, 67)) + BASE[67:68] + new(68, 69),
    ),
    "a word does not": (
        flipped(6, 8),
        b"\x02" + word(0, 6, 1) + new(6) + word(1, 0, 1) + new(8),
    ),
    "sixteen words of two lines": (
        flipped(*range(0, 128, 8)),
        b"\x12\x00\x01" + b"".join(b"\xff" + b"\x01" * 8 + new(*range(at, at + 64, 8)) for at in (0, 64)),
    ),
    "a whole line": (
        flipped(*range(64), *range(72, 184, 8)),
        b"\x13\x00\x01\x02"
        b"\x00"
        + FLIPPED[:64]
        + b"\xfe"
        + b"\x01" * 7
        + new(*range(72, 128, 8))
        + b"\x7f"
        + b"\x01" * 7
        + new(*range(128, 184, 8)),
    ),
    "fifteen lines": (
        flipped(*range(0, 960, 64)),
        b"\x0f" + b"".join(word(at // 8, 0, 1) + new(at) for at in range(0, 960, 64)),
    ),
    "sixteen lines": (
        flipped(*range(0, 1024, 64)),
        b"\x20" + (0xFFFF).to_bytes(8, "little") + b"".join(b"\x01\x01" + new(at) for at in range(0, 1024, 64)),
    ),
    "everything": (FLIPPED, b"\x30" + FLIPPED),
}


@codecs
@behinds
@pytest.mark.parametrize("name", DRAWN)
def test_form_is_as_drawn(codec: str, behind: bytes, name: str) -> None:
    page, delta = DRAWN[name]

    assert delta_encode(page, BASE, codec=codec) == delta
    assert delta_decode(delta, BASE, codec=codec, behind=behind) == page


@codecs
@pytest.mark.parametrize("changed_bytes", [*range(0, PAGE_BYTES, 331), 3500, 3600, PAGE_BYTES - 1])
def test_delta_is_never_longer_than_raw(codec: str, changed_bytes: int) -> None:
    rng = random.Random(changed_bytes)
    page = flipped(*rng.sample(range(PAGE_BYTES), changed_bytes))

    assert len(delta_encode(page, BASE, codec=codec)) <= min(DELTA_BYTES_MAX, 9 + 192 + 9 * 64 + changed_bytes)


def test_unknown_codec_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="scalar"):
        delta_encode(BASE, BASE, codec="abacus")
