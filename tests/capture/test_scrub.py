from array import array

import pytest

from ftvm.capture.pages import Scrub, Shadow
from ftvm.checkpoint import Bitmap
from ftvm.errors import ConfigError

from .world import World


def settled_world() -> World:
    world = World()
    world.fill(1)
    world.free(world.capture(world.everything()))
    return world


def nothing(world: World) -> Bitmap:
    return Bitmap.empty(world.memory.page_counts)


def test_page_that_tracking_missed_is_found_within_one_round() -> None:
    world = settled_world()
    scrub = Scrub(world.memory, world.shadow, pages_per_look=6)
    world.write(13, 50, b"nobody noticed")
    missed: list[int] = []

    while scrub.rounds == 0:
        scrub.look()
        missed += scrub.judge(nothing(world))

    assert missed == [13]


def test_page_that_was_reported_is_not_suspected() -> None:
    world = settled_world()
    scrub = Scrub(world.memory, world.shadow, pages_per_look=20)
    world.write(13, 50, b"reported")
    dirty = nothing(world)
    dirty.words[1][1] = 1 << 0  # page 13 = page 8 of the second region

    suspects = scrub.look()

    assert suspects == 1
    assert scrub.judge(dirty) == array("I")


def test_page_written_back_before_the_cut_is_not_suspected() -> None:
    world = settled_world()
    scrub = Scrub(world.memory, world.shadow, pages_per_look=20)
    world.write(0, 0, b"\0" * 64)
    scrub.look()
    world.fill(1)

    assert scrub.judge(nothing(world)) == array("I")


def test_clean_memory_raises_no_suspicion() -> None:
    world = settled_world()
    scrub = Scrub(world.memory, world.shadow, pages_per_look=7)

    assert [scrub.look() for _ in range(3)] == [0, 0, 0]
    assert scrub.rounds == 1


def test_scrub_of_nothing_or_of_another_memory_is_refused() -> None:
    world = World()

    with pytest.raises(ConfigError, match="one page or more"):
        Scrub(world.memory, world.shadow, pages_per_look=0)
    with pytest.raises(ConfigError, match="its shadow 3"):
        Scrub(world.memory, Shadow([3]), pages_per_look=1)
