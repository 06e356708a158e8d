"""Strategies for pages and page pairs: the shapes that a delta codec meets, and those that are meant to break it."""

import random

from hypothesis import strategies as st

from ftvm.units import PAGE_BYTES

ZERO_PAGE = bytes(PAGE_BYTES)


def page_of_seed(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_BYTES)


pages = st.one_of(
    st.just(ZERO_PAGE),
    st.integers(0, 255).map(lambda value: bytes([value]) * PAGE_BYTES),
    st.integers(0, 1 << 32).map(page_of_seed),
)

# (offset, bytes) written over a page: from a single flag to a run across many lines
writes = st.lists(
    st.tuples(st.integers(0, PAGE_BYTES - 1), st.one_of(st.binary(min_size=1, max_size=24), st.binary(max_size=400))),
    max_size=40,
)


def overwritten(page: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(page)
    for offset, data in changes:
        part = data[: PAGE_BYTES - offset]
        changed[offset : offset + len(part)] = part
    return bytes(changed)


def sprinkled(page: bytes, seed: int, count: int) -> bytes:
    """`count` single bytes changed at random places: many lines, few bytes each."""
    rng = random.Random(seed)
    changed = bytearray(page)
    for offset in rng.sample(range(PAGE_BYTES), count):
        changed[offset] ^= rng.randrange(1, 256)
    return bytes(changed)


@st.composite
def page_pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An older and a newer version of a page."""
    base = draw(pages)
    newer = draw(
        st.one_of(
            pages,
            writes.map(lambda changes: overwritten(base, changes)),
            st.builds(sprinkled, st.just(base), st.integers(0, 1 << 32), st.integers(0, PAGE_BYTES)),
        )
    )
    return base, newer
