import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import Shadow, StagedCopy, capture_fused, encode_staged
from ftvm.config import Limits
from ftvm.errors import ConfigError, LimitExceeded, LocalProtocolError
from ftvm.units import PAGE_BYTES

from ..encode.delta import DELTA_BYTES_MAX
from ..native.test_digest import from_scratch
from .world import SMALL, World

ways = pytest.mark.parametrize("staged", [False, True], ids=["fused", "staged"])

epochs = st.lists(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 3900), st.binary(min_size=1, max_size=190)), max_size=12),
    min_size=1,
    max_size=6,
)


@ways
@given(epochs)
def test_any_writes_reach_the_backup_bit_for_bit(staged: bool, epochs: list[list[tuple[int, int, bytes]]]) -> None:
    world = World()

    for writes in epochs:
        for page, offset, data in writes:
            world.write(page, offset, data)
        dirty = array("I", sorted({page for page, _, _ in writes}))
        batches = world.capture(dirty, staged=staged)
        world.committed.verify(batches, world.shadow.memory_digest)
        world.committed.commit(batches)
        world.free(batches)

    assert world.backup_regions == world.regions
    assert world.committed.memory_digest == world.shadow.memory_digest == from_scratch(b"".join(world.regions))
    assert world.buffers.in_use == 0


@ways
def test_unchanged_pages_make_no_entry(staged: bool) -> None:
    world = World()
    world.write(7, 100, b"changed")

    batches = world.capture(world.everything(), staged=staged)

    assert [list(memoryview(batch.indices).cast("I")) for batch in batches] == [[7]]
    assert world.capture(world.everything(), staged=staged) == ()
    assert world.capture(array("I"), staged=staged) == ()


@ways
def test_more_than_one_batch_is_cut_within_its_bounds(staged: bool) -> None:
    world = World((40,))
    world.fill(1)

    batches = world.capture(world.everything(), staged=staged)

    assert len(batches) > 1
    assert all(len(batch.payload) <= SMALL.batch_bytes for batch in batches)
    assert sum(batch.count for batch in batches) == 40
    world.committed.verify(batches, world.shadow.memory_digest)
    world.committed.commit(batches)
    assert world.backup_regions == world.regions


def test_page_that_stays_raw_is_still_right_when_it_calms_down() -> None:
    world = World((1,))

    for epoch in range(30):
        if epoch % 13 < 11:
            world.fill(epoch)
        world.write(0, epoch, b"!")
        batches = world.capture(world.everything())
        world.committed.verify(batches, world.shadow.memory_digest)
        world.committed.commit(batches)
        world.free(batches)

        assert world.backup_regions == world.regions


def test_page_raw_twice_running_skips_the_search_but_not_the_comparison() -> None:
    world = World((1,))
    lengths = []

    for seed in range(2):
        world.fill(seed)
        lengths.append(len(world.capture(world.everything())[0].payload))
    unchanged = world.capture(world.everything())
    world.write(0, 0, b"small")
    skipped = world.capture(world.everything())

    assert lengths == [DELTA_BYTES_MAX, DELTA_BYTES_MAX]
    assert unchanged == ()
    assert len(skipped[0].payload) == DELTA_BYTES_MAX


def test_page_raw_now_and_then_is_searched_every_time() -> None:
    world = World((1,))

    for seed in range(3):
        world.fill(seed)
        world.capture(world.everything())
        world.write(0, 0, b"small")
        lengths = [len(batch.payload) for batch in world.capture(world.everything())]

        assert lengths[0] < 20


@ways
def test_capture_past_the_staging_limit_is_refused_and_tears_the_shadow(staged: bool) -> None:
    world = World((40,), Limits(batch_bytes=1 << 16, staging_bytes=1 << 16))
    world.fill(1)

    with pytest.raises(LimitExceeded, match="one checkpoint"):
        world.capture(world.everything(), staged=staged)

    assert world.buffers.in_use == 0
    with pytest.raises(LocalProtocolError, match="clear the shadow"):
        world.capture(world.everything(), staged=staged)


def test_cleared_shadow_starts_a_new_session_from_zero_pages() -> None:
    world = World()
    fresh = world.shadow.memory_digest
    world.fill(3)
    world.free(world.capture(world.everything()))
    world.shadow.tear()

    world.shadow.clear()

    assert world.shadow.memory_digest == fresh
    batches = world.capture(world.everything())
    world.committed.verify(batches, world.shadow.memory_digest)
    world.committed.commit(batches)
    assert world.backup_regions == world.regions


def test_capture_without_a_free_buffer_is_refused() -> None:
    world = World()
    for _ in range(world.buffers.capacity):
        world.buffers.lend()
    world.write(0, 0, b"x")

    with pytest.raises(LimitExceeded, match="batch buffers"):
        world.capture(world.everything())

    assert world.shadow.memory_digest == World().shadow.memory_digest
    assert not world.shadow.is_torn


@ways
@pytest.mark.parametrize("indices", [[3, 3], [4, 2], [20]])
def test_indices_that_fall_repeat_or_lie_outside_are_refused(staged: bool, indices: list[int]) -> None:
    with pytest.raises(LocalProtocolError, match="rise strictly"):
        World().capture(array("I", indices), staged=staged)


def test_shadow_of_another_size_is_refused() -> None:
    world = World()

    with pytest.raises(ConfigError, match="20 pages and its shadow 21"):
        capture_fused(world.memory, Shadow([21]), array("I", [0]), limits=SMALL, buffers=world.buffers)


def test_staged_copy_holds_what_was_there_when_it_was_gathered() -> None:
    world = World()
    world.fill(5)
    before = [bytes(region) for region in world.regions]
    copy = StagedCopy(20)
    copy.gather(world.memory, world.everything())
    world.fill(6)

    batches = encode_staged(copy, world.shadow, limits=SMALL, buffers=world.buffers)

    world.committed.verify(batches, world.shadow.memory_digest)
    world.committed.commit(batches)
    assert world.backup_regions == before


@pytest.mark.parametrize("count", [1, 127, 128, 300])
def test_gathered_pages_are_copies_in_order(count: int) -> None:
    world = World((100, 250))
    world.fill(8)
    chosen = array("I", sorted(random.Random(count).sample(range(350), count)))
    copy = StagedCopy(count)

    copy.gather(world.memory, chosen)

    content = b"".join(world.regions)
    assert copy.content == b"".join(content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] for page in chosen)


def test_more_pages_than_a_staged_copy_has_room_for_are_refused() -> None:
    memory = NativeMemory([bytearray(3 * PAGE_BYTES)])

    with pytest.raises(LimitExceeded, match="staged copy"):
        StagedCopy(2).gather(memory, array("I", [0, 1, 2]))
