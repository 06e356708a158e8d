"""The values that everything is made of: sets of pages, geometries, watermarks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import _UNLIKE_PROCESSORS, PAGE_COUNT_MAX, Bitmap, Geometry, RegionShape, Watermarks, bitmap_bytes
from ftvm.errors import ConfigError
from ftvm.units import PAGE_BYTES, PageCount, bytes_to_pages, nanos_to_seconds, pages_to_bytes, seconds_to_nanos

from .strategies import watermarks

page_counts = st.lists(st.integers(1, 200), min_size=1, max_size=3).map(tuple)


@st.composite
def bitmaps(draw: st.DrawFn, counts: tuple[int, ...]) -> Bitmap:
    words = (draw(st.integers(0, (1 << count) - 1)).to_bytes(bitmap_bytes(count), "little") for count in counts)
    return Bitmap(counts, tuple(map(bytearray, words)))


@given(page_counts, st.data())
def test_a_union_has_what_either_has(counts: tuple[int, ...], data: st.DataObject) -> None:
    one, other = data.draw(bitmaps(counts)), data.draw(bitmaps(counts))

    both = one | other

    for here, left, right in zip(both.words, one.words, other.words, strict=True):
        assert all(byte == a | b for byte, a, b in zip(here, left, right, strict=True))
    assert max(one.count(), other.count()) <= both.count() <= one.count() + other.count()
    assert both == other | one


@given(page_counts)
def test_the_empty_and_the_full_set_count_none_and_all(counts: tuple[int, ...]) -> None:
    empty, full = Bitmap.empty(counts), Bitmap.full(counts)

    assert (empty.count(), full.count()) == (0, sum(counts))
    assert empty | full == full


def test_bitmaps_of_different_geometry_are_not_joined() -> None:
    with pytest.raises(ConfigError, match="different geometry"):
        Bitmap.empty((64,)) | Bitmap.empty((65,))


@pytest.mark.parametrize("length", [0, 7, 16])
def test_a_bitmap_has_exactly_the_words_it_needs(length: int) -> None:
    with pytest.raises(ConfigError):
        Bitmap((64,), (bytearray(length),))


@given(watermarks(), watermarks())
def test_marks_cover_each_other_only_in_both(have: Watermarks, need: Watermarks) -> None:
    assert have.cover(need) == (have.epoch >= need.epoch and have.log_index >= need.log_index)
    assert have.cover(have)


@pytest.mark.parametrize("counts", [[], [0], [-1], [PAGE_COUNT_MAX + 1], [PAGE_COUNT_MAX, 1]])
def test_an_impossible_geometry_is_refused(counts: list[int]) -> None:
    regions = tuple(RegionShape(name="ram", page_count=PageCount(count)) for count in counts)

    with pytest.raises(ConfigError):
        Geometry(machine="m", regions=regions)


def test_a_geometry_counts_all_regions() -> None:
    regions = tuple(RegionShape(name="ram", page_count=PageCount(count)) for count in (3, 4))

    assert Geometry(machine="m", regions=regions).page_count == 7


def shape(machine: str, **pages: int) -> Geometry:
    regions = tuple(RegionShape(name=name, page_count=PageCount(count)) for name, count in pages.items())
    return Geometry(machine=machine, regions=regions)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (shape("m", ram=65536, disk=3), shape("m", ram=32768, disk=3), "ram 256 MiB / 128 MiB"),
        (shape("m", ram=1, disk=3), shape("m", ram=1), "disk 12 KiB / none"),
        (shape("q 7.2 -cpu max", ram=1), shape("q 7.2 -cpu qemu64", ram=1), "machine max / qemu64"),
        (
            shape("k cpu=A-1/x tsc=1MHz", ram=1),
            shape("k cpu=B-2/y tsc=1MHz", ram=1),
            f"machine cpu=A-1/x / cpu=B-2/y; {_UNLIKE_PROCESSORS}",
        ),
        (shape("q -vga none", ram=1), shape("q", ram=2), "ram 4 KiB / 8 KiB; machine -vga none / (no more)"),
        (
            shape("m", a=1, b=2),
            shape("m", b=2, a=1),
            "m with a of 1 pages, b of 2 pages / m with b of 2 pages, a of 1 pages",
        ),
    ],
)
def test_a_difference_names_only_what_differs(ours: Geometry, theirs: Geometry, said: str) -> None:
    """Regression: two descriptions of 300 characters each were to be compared by eye."""
    assert ours.difference(theirs) == said


@given(st.integers(0, 1 << 40))
def test_pages_and_bytes_cross_by_their_helpers(pages: int) -> None:
    assert bytes_to_pages(pages_to_bytes(pages)) == pages
    with pytest.raises(ValueError, match="not a whole number"):
        bytes_to_pages(pages * PAGE_BYTES + 1)


@given(st.integers(0, 10**15))
def test_seconds_and_nanoseconds_agree(nanos: int) -> None:
    assert abs(seconds_to_nanos(nanos_to_seconds(nanos)) - nanos) <= 1
