"""The disk of a machine that has it as memory: what its image is when, and what memory it takes."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Footing
from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.disk.label import read_label
from ftvm.units import PAGE_BYTES

PAGES = 16
SIZE = PAGES * PAGE_BYTES
RUNS = Footing(lineage="a" * 16, generation=1, epoch=0, runs=True)


def footing(epoch: int) -> Footing:
    return Footing(lineage="a" * 16, generation=1, epoch=epoch, runs=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def disk(image: Path) -> Iterator[KeptDisk]:
    made = KeptDisk(str(image), boots=True)
    made.take()
    yield made
    made.close()


@pytest.fixture
def standby(image: Path) -> Iterator[KeptDisk]:
    """One whose first copy, of zeros, is complete."""
    made = KeptDisk(str(image), boots=False)
    made.discarded()
    made.completed()
    made.stands(footing(1))
    made.image.sync()
    yield made
    made.close()


def pages_of(words: bytearray) -> set[int]:
    number = int.from_bytes(words, "little")
    return {page for page in range(PAGES) if number >> page & 1}


def resident(disk: KeptDisk) -> int:
    """Return how many pages of a disk are this process's own."""
    with open("/proc/self/smaps", encoding="ascii") as maps:
        lines = iter(maps)
        found = [own_of(lines) for line in lines if line.rstrip().endswith(str(disk.image.path))]
    assert found, "the disk is mapped"
    return sum(found)


def own_of(lines: Iterator[str]) -> int:
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) * 1024 // PAGE_BYTES


# --- where the guest runs ---


def test_what_a_machine_wrote_is_in_the_image_once_its_flags_were_taken(disk: KeptDisk, image: Path) -> None:
    disk.memory.write(PAGE_BYTES - 3, b"across")
    disk.image.sync()
    before = image.read_bytes()

    words = disk.take()

    disk.image.sync()
    assert before == bytes(SIZE)
    assert pages_of(words) == {0, 1}
    assert image.read_bytes() == bytes(disk.memory.buffer)
    assert pages_of(disk.take()) == set()


def test_memory_is_given_back_once_the_image_has_what_it_held(disk: KeptDisk) -> None:
    disk.memory.write(0, b"x" * SIZE)
    disk.take()
    disk.image.sync()
    before = resident(disk)

    disk.take()

    assert (before, resident(disk)) == (PAGES, 0)
    assert bytes(disk.memory.buffer) == b"x" * SIZE


def test_what_was_written_again_meanwhile_stays(disk: KeptDisk) -> None:
    disk.memory.write(0, b"x" * SIZE)
    disk.take()
    disk.image.sync()
    disk.memory.write(0, b"again")

    disk.take()

    assert resident(disk) == 1
    assert bytes(disk.memory.buffer[:6]) == b"againx"


def test_the_first_time_all_that_is_not_a_hole_counts_as_written(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(5 * PAGE_BYTES)
        file.write(b"data")
    disk = KeptDisk(str(image), boots=True)
    disk.memory.write(9 * PAGE_BYTES, b"more")

    words = disk.take()

    assert {5, 9} <= pages_of(words) < set(range(PAGES))
    assert pages_of(disk.present()) == pages_of(words)
    disk.close()


def test_a_failed_image_loses_nothing_of_the_disk_and_is_told_once(disk: KeptDisk) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), disk.image.descriptor)
    disk.memory.write(0, b"kept")
    disk.take()
    with pytest.raises(OSError, match="No space left"):
        disk.image.sync()

    disk.take()

    assert bytes(disk.memory.buffer[:4]) == b"kept"
    assert "cannot be written: No space left on device; the guest goes on" in str(disk.news())
    assert disk.news() is None


def test_what_cannot_be_read_is_told_before_anything_is_taken(disk: KeptDisk, image: Path) -> None:
    disk.memory.write(0, b"written")
    os.truncate(image, PAGE_BYTES)
    assert bytes(disk.memory.buffer[-1:]) == b"\0"

    with pytest.raises(StateUnreadable, match="cannot be read: 1 of its pages failed"):
        disk.take()

    assert disk.memory.is_dirty()


def test_a_page_that_a_full_file_system_cannot_give_is_told_with_that_cause(
    disk: KeptDisk, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a full disk was told as pages that failed, as if the device were broken."""
    os.truncate(image, PAGE_BYTES)
    assert bytes(disk.memory.buffer[-1:]) == b"\0"
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=0))

    assert f"; the file system of {image.parent} is full, " in str(disk.why_unreadable())


def test_a_new_trouble_of_an_image_is_told_though_another_was_told_before(disk: KeptDisk, image: Path) -> None:
    image.unlink()
    deleted = disk.news()

    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), disk.image.descriptor)
    disk.memory.write(0, b"kept")
    disk.take()
    with pytest.raises(OSError, match="No space left"):
        disk.image.sync()

    assert "was deleted" in str(deleted)
    assert "cannot be written" in str(disk.news())
    assert disk.news() is None


@given(st.lists(st.one_of(st.integers(0, PAGES - 1), st.sampled_from(["take", "sync"])), max_size=40))
def test_the_image_is_the_disk_of_the_last_moment_and_at_the_end_all(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | str]
) -> None:
    image = tmp_path_factory.mktemp("kept") / "disk.img"
    image.write_bytes(bytes(SIZE))
    disk = KeptDisk(str(image), boots=True)
    model, taken = bytearray(SIZE), bytes(SIZE)

    for number, step in enumerate(steps):
        if isinstance(step, int):
            content = bytes([number + 1]) * 100
            disk.memory.write(step * PAGE_BYTES, content)
            model[step * PAGE_BYTES : step * PAGE_BYTES + 100] = content
        elif step == "take":
            disk.take()
            taken = bytes(model)
        else:
            disk.image.sync()
            assert image.read_bytes() == taken
        assert bytes(disk.memory.buffer) == model
    disk.close()

    assert image.read_bytes() == model


def test_an_orderly_end_leaves_a_clean_image_and_a_killed_host_does_not(image: Path) -> None:
    disk = KeptDisk(str(image), boots=True)
    disk.stands(RUNS)
    disk.image.sync()
    killed = read_label(image)

    disk.close()

    ended = read_label(image)
    assert killed is not None
    assert ended is not None
    assert (killed.runs, killed.is_clean) == (True, False)
    assert (ended.runs, ended.is_clean) == (True, True)


# --- where it stands by ---


def test_a_standbys_image_has_what_was_committed(standby: KeptDisk, image: Path) -> None:
    standby.memory.buffer[:4] = b"next"

    standby.committed([0])

    standby.image.sync()
    assert image.read_bytes() == b"next" + bytes(SIZE - 4)


def test_what_a_standby_executed_is_kept_once_the_other_host_agreed(standby: KeptDisk, image: Path) -> None:
    standby.memory.write(0, b"executed")
    standby.take()
    standby.memory.write(PAGE_BYTES, b"beyond the mark")
    standby.image.sync()
    before = image.read_bytes()

    standby.stands(footing(2))

    standby.image.sync()
    assert before == bytes(SIZE)
    assert image.read_bytes() == b"executed" + bytes(SIZE - 8)


def test_what_a_standby_executed_and_the_other_host_did_not_is_never_kept(standby: KeptDisk, image: Path) -> None:
    standby.memory.write(0, b"diverged")
    standby.take()
    standby.memory.write(PAGE_BYTES, b"further")

    standby.close()

    assert image.read_bytes() == bytes(SIZE)


def test_what_a_standby_executed_stays_in_memory_though_the_image_got_an_older_page_only_now(
    standby: KeptDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(standby.image, "take_written", set)
        standby.memory.buffer[:3] = b"old"
        standby.committed([0])
        standby.memory.write(0, b"new")
        standby.take()
    standby.image.sync()

    standby.take()

    assert bytes(standby.memory.buffer[:3]) == b"new"


def test_a_guest_that_left_is_in_the_image_with_all_that_it_wrote(disk: KeptDisk, image: Path) -> None:
    disk.memory.write(0, b"last")

    disk.committed(())

    disk.image.sync()
    assert image.read_bytes()[:4] == b"last"


def test_a_first_copy_takes_the_images_place_when_it_is_complete(disk: KeptDisk, image: Path) -> None:
    disk.memory.write(0, b"old")
    disk.take()
    disk.image.sync()
    disk.discarded()
    disk.memory.buffer[PAGE_BYTES : PAGE_BYTES + 3] = b"new"
    disk.committed([1])
    before = image.read_bytes()[:3]

    disk.completed()

    disk.image.sync()
    assert before == b"old"
    assert image.read_bytes() == bytes(PAGE_BYTES) + b"new" + bytes(SIZE - PAGE_BYTES - 3)


def test_a_disk_that_is_closed_while_it_is_copied_again_leaves_the_image_as_it_was(image: Path) -> None:
    """Its guest was taken over while it lived, and the host that it is copied from dies on the way."""
    before = image.read_bytes()
    disk = KeptDisk(str(image), boots=True)
    disk.discarded()
    disk.memory.buffer[:3] = b"new"
    disk.committed([0])

    disk.close()

    assert image.read_bytes() == before


def test_a_standby_whose_image_cannot_be_written_ends(standby: KeptDisk) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), standby.image.descriptor)
    standby.committed([0])
    with pytest.raises(OSError, match="No space left"):
        standby.image.sync()

    with pytest.raises(GuestError, match="cannot be written: No space left"):
        standby.committed([1])


def test_a_flush_that_the_running_machine_makes_behind_the_look_is_told_by_the_next(disk: KeptDisk) -> None:
    """Regression: it was cleared with the look that had found nothing."""

    class FlushesBehindTheLook(bytearray):
        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            self[0] = 1
            return found

    disk.memory.flush = FlushesBehindTheLook(1)

    assert [disk.take_flush(), disk.take_flush()] == [False, True]


def test_a_flush_is_told_once(disk: KeptDisk) -> None:
    before = disk.take_flush()
    disk.note_flush()

    told = [disk.take_flush() for _ in range(2)]

    assert (before, told) == (False, [True, False])
