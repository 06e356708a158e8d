"""What a joiner still has is compared page by page: the shadow knows what is kept there, all else is zero on both
sides."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import DigestTable, take_flags
from ftvm.capture.pages import Scrub
from ftvm.units import PAGE_BYTES

from ..native.pages import page_of_seed
from ..native.test_digest import from_scratch
from ..strategies import memories
from .world import World

COUNTS = (5, 3)
PAGES = sum(COUNTS)


def filled(content: bytes, cached: bytes) -> World:
    """Return a primary of this content, beside a backup that has that in its memory still."""
    world = World(COUNTS)
    for regions, memory in ((world.regions, content), (world.backup_regions, cached)):
        at = 0
        for region in regions:
            region[:] = memory[at : at + len(region)]
            at += len(region)
    return world


def pages_of(content: bytes) -> list[bytes]:
    return [content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)]


def match(world: World, piece: int = PAGES) -> list[int]:
    """Offer all that the backup has, in pieces, and keep what is the same; return a flag for each page."""
    world.committed.hold()
    flags: list[int] = []
    for first in range(0, PAGES, piece):
        count = min(piece, PAGES - first)
        kept = world.shadow.match(world.memory, first, world.committed.offer(first, count))
        flags += kept
        world.committed.keep(first, count, take_flags(kept))
    return flags


@given(memories(PAGES), memories(PAGES), st.lists(st.integers(0, PAGES - 1)), st.integers(1, PAGES))
def test_what_is_kept_and_what_is_copied_make_the_same_memory(
    content: bytes, cached: bytes, alike: list[int], piece: int
) -> None:
    here, there = pages_of(content), pages_of(cached)
    for page in alike:
        there[page] = here[page]
    world = filled(content, b"".join(there))

    flags = match(world, piece)
    same_base = (world.committed.memory_digest, b"".join(world.backup_regions))
    batches = world.capture(array("I", [page for page in range(PAGES) if not flags[page]]))
    world.committed.verify(batches, world.shadow.memory_digest)
    world.committed.commit(batches)

    assert flags == [one == other for one, other in zip(here, there, strict=True)]
    assert same_base[1] == b"".join(page if kept else bytes(PAGE_BYTES) for page, kept in zip(here, flags, strict=True))
    assert b"".join(world.backup_regions) == content
    assert world.committed.memory_digest == world.shadow.memory_digest
    world.free(batches)


def test_before_the_copy_shadow_and_backup_have_the_same_digest() -> None:
    one, other = page_of_seed(1), page_of_seed(2)
    world = filled(one + other + one + bytes(5 * PAGE_BYTES), one + one + bytes(PAGE_BYTES) + other * 5)

    flags = match(world)

    assert flags == [1, 0, 0, 0, 0, 0, 0, 0]
    assert b"".join(world.backup_regions) == one + bytes(7 * PAGE_BYTES)
    assert world.shadow.memory_digest == world.committed.memory_digest


@pytest.mark.parametrize("staged", [False, True])
def test_a_page_written_after_it_matched_is_sent_whole_once_and_then_by_its_difference(staged: bool) -> None:
    page = page_of_seed(1)
    world = filled(page * PAGES, page * PAGES)
    match(world)
    sizes = []

    for content in (b"later", b"still later"):
        world.write(3, 10, content)
        batches = world.capture(array("I", [2, 3]), staged=staged)
        world.committed.verify(batches, world.shadow.memory_digest)
        world.committed.commit(batches)
        sizes.append(sum(batch.size_bytes for batch in batches))
        world.free(batches)

    assert world.backup_regions == world.regions
    assert sizes[0] > PAGE_BYTES > 10 * sizes[1]


def test_a_page_of_zeros_again_after_it_matched_is_sent() -> None:
    page = page_of_seed(1)
    world = filled(page * PAGES, page * PAGES)
    match(world)
    world.write(3, 0, bytes(PAGE_BYTES))

    batches = world.capture(array("I", [3]))
    world.committed.verify(batches, world.shadow.memory_digest)
    world.committed.commit(batches)

    assert world.backup_regions == world.regions
    world.free(batches)


def test_a_scrub_finds_a_page_written_after_it_matched_and_none_that_was_not() -> None:
    page = page_of_seed(1)
    world = filled(page * PAGES, page * PAGES)
    match(world)
    scrub = Scrub(world.memory, world.shadow, pages_per_look=PAGES)

    before = scrub.look()
    world.write(3, 10, b"unseen")
    after = scrub.look()

    assert (before, after, list(scrub.suspects)) == (0, 1, [3])


def test_a_shadow_that_matched_is_brought_up_to_date_by_adopting() -> None:
    page = page_of_seed(1)
    world = filled(page * PAGES, page * PAGES)
    match(world)
    world.write(3, 10, b"while it stood by")
    digests = DigestTable(PAGES)
    digests.measure(world.memory)

    world.shadow.adopt(world.memory, digests, 0, PAGES)
    world.write(3, 10, b"and now")
    batches = world.capture(array("I", [3]))

    assert sum(batch.size_bytes for batch in batches) < 100
    assert world.shadow.memory_digest == from_scratch(b"".join(world.regions))
    world.free(batches)


@pytest.mark.parametrize(("first", "pages"), [(7, 2), (-1, 1), (9, 0)])
def test_pages_that_are_not_there_are_refused_untouched(first: int, pages: int) -> None:
    world = filled(bytes(PAGES * PAGE_BYTES), bytes(PAGES * PAGE_BYTES))

    with pytest.raises(IndexError):
        world.shadow.match(world.memory, first, bytes(16 * pages))
