"""A disk image is always one of the states it was given, whatever moment its host dies at."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.guests.disk import blocks
from ftvm.guests.disk import journal as journal_module
from ftvm.guests.disk.blocks import runs_of
from ftvm.guests.disk.image import Image

PAGE = 4096
PAGES = 8


class PowerCut(OSError):
    """The host dies here: nothing is written from now on."""


def disk_of(fills: dict[int, int]) -> memoryview:
    disk = bytearray(PAGES * PAGE)
    for page, fill in fills.items():
        disk[page * PAGE : (page + 1) * PAGE] = bytes([fill]) * PAGE
    return memoryview(disk)


def content_of(path: Path) -> bytes:
    """What whoever opens the image next finds."""
    Image(path).close()
    return path.read_bytes()


def make_image(path: Path) -> Image:
    """An image of zeros."""
    path.write_bytes(bytes(PAGES * PAGE))
    return Image(path)


def test_what_was_put_is_found_by_who_opens_the_image_next(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")
    disk = disk_of({2: 7, 5: 9})

    image.put([2, 5], disk)
    image.sync()
    image.close()

    assert content_of(tmp_path / "disk") == disk


def test_a_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    image = make_image(tmp_path / "folder" / "disk")
    shutil.rmtree(tmp_path / "folder")

    image.put([2], disk_of({2: 7}))
    with pytest.raises(OSError, match=f"its folder {tmp_path}/folder is gone"):
        image.sync()

    image.close()


def copy_again(path: Path) -> None:
    """Have an image replaced by a whole new copy, as a standby's is."""
    image = Image(path)
    image.restart()
    image.put([3], disk_of({3: 4}))
    image.complete()
    image.sync()
    image.close()


def test_a_new_copy_is_written_where_a_symbolic_link_leads_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    target, link = tmp_path / "volume" / "real", tmp_path / "disk"
    target.write_bytes(bytes(PAGES * PAGE))
    link.symlink_to("volume/real")

    copy_again(link)
    image = Image(link)
    image.put([5], disk_of({5: 6}))
    image.close()

    assert link.is_symlink()
    assert target.read_bytes() == disk_of({3: 4, 5: 6})
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "volume"}


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o600])
def test_a_new_copy_has_the_mode_of_the_old_one(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(PAGES * PAGE))
    path.chmod(mode)

    copy_again(path)

    assert path.stat().st_mode & 0o7777 == mode


def test_a_new_copy_has_the_owner_of_the_old_one(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    path = tmp_path / "disk"
    path.write_bytes(bytes(PAGES * PAGE))
    os.chown(path, 65534, 12345)

    copy_again(path)

    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 12345)


def test_a_new_copy_whose_group_cannot_be_given_is_open_to_no_other_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(PAGES * PAGE))
    path.chmod(0o664)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    copy_again(path)

    assert path.stat().st_mode & 0o7777 == 0o604


def test_a_disk_that_is_copied_anew_takes_the_place_of_the_old_one_when_it_is_complete(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")
    image.put([0, 1], disk_of({0: 1, 1: 2}))
    image.sync()

    image.restart()
    image.put([3], disk_of({3: 4}))
    image.sync()
    before = (tmp_path / "disk").read_bytes()
    image.put([6], disk_of({3: 4, 6: 1}))
    image.complete()
    image.put([3], disk_of({3: 5, 6: 1}))
    image.close()

    assert before == disk_of({0: 1, 1: 2})
    assert content_of(tmp_path / "disk") == disk_of({3: 5, 6: 1})


def test_a_disk_whose_copy_was_never_complete_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")
    image.put([0], disk_of({0: 1}))
    image.sync()

    image.restart()
    image.put([3], disk_of({3: 4}))
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({0: 1})
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "disk.label"}


def test_a_copy_that_starts_over_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")

    image.restart()
    image.put([1], disk_of({1: 1}))
    image.sync()
    with image._changed:  # the thread takes none of this before all of it is there
        image.put([3], disk_of({1: 1, 3: 3}))
        image.restart()
        image.put([2], disk_of({2: 2}))
    image.complete()
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({2: 2})


def test_the_journal_of_the_old_disk_is_not_applied_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, real = make_image(tmp_path / "disk"), os.ftruncate
    # The power fails before the device has taken the truncation of a journal that is done with.
    monkeypatch.setattr(os, "ftruncate", lambda descriptor, length: length and real(descriptor, length))
    image.put([1], disk_of({1: 1}))
    image.sync()

    image.restart()
    image.put([2], disk_of({2: 2}))
    image.complete()
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({2: 2})


DISKS = st.dictionaries(st.integers(0, PAGES - 1), st.integers(1, 255), min_size=1)


@settings(max_examples=60, deadline=None)
@given(first=DISKS, second=DISKS, third=DISKS, writes_left=st.integers(0, 40), is_copied=st.booleans())
def test_a_crash_at_any_write_leaves_one_of_the_states_it_was_given(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[int, int],
    second: dict[int, int],
    third: dict[int, int],
    writes_left: int,
    is_copied: bool,
) -> None:
    path = tmp_path_factory.mktemp("image") / "disk"
    image = make_image(path)
    states = [disk_of(first), disk_of(second if is_copied else {**first, **second})]
    states.append(disk_of({**(second if is_copied else {**first, **second}), **third}))
    image.put(first, states[0])
    image.sync()

    with pytest.MonkeyPatch.context() as patch:
        replace_writes(patch, dying_after(writes_left))
        has_died = False
        try:
            if is_copied:
                image.restart()
            image.put(second, states[1])
            if is_copied:
                image.complete()
            image.sync()
            image.put(third, states[2])
            image.sync()
        except PowerCut:
            has_died = True
    image.close()

    assert content_of(path) in states
    assert has_died or content_of(path) == states[2]


def replace_writes(patch: pytest.MonkeyPatch, write_at: Callable[..., None]) -> None:
    """Have all that is written to the image, its journal and its copy be written by this."""
    for module in (journal_module, blocks):
        patch.setattr(module, "write_at", write_at)


def dying_after(writes: int):  # type: ignore[no-untyped-def]
    """Write so many times, then half a time, then never again."""
    real, left = journal_module.write_at, [writes]

    def write_at(fd: int, content: bytes, offset: int) -> None:
        left[0] -= 1
        if left[0] == -1:
            real(fd, content[: len(content) // 2], offset)
        if left[0] < 0:
            raise PowerCut
        real(fd, content, offset)

    return write_at


def test_a_full_device_is_told_and_ends_the_image_with_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path / "disk")
    image.put([1], disk_of({1: 1}))
    image.sync()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace_writes(monkeypatch, full)
    image.put([2], disk_of({1: 1, 2: 2}))

    with pytest.raises(OSError, match="No space left"):
        image.sync()
    assert image.error is not None
    image.close()
    monkeypatch.undo()
    assert content_of(tmp_path / "disk") == disk_of({1: 1})


def test_pages_that_have_become_zeros_are_zeros_in_the_image(tmp_path: Path) -> None:
    """Mutant: a page of zeros is taken for a hole that is there already."""
    image = make_image(tmp_path / "disk")
    image.put([1, 2], disk_of({1: 1, 2: 2}))
    image.sync()

    image.put([1], disk_of({2: 2}))
    image.sync()
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({2: 2})


def test_an_image_in_use_is_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")

    with pytest.raises(ConfigError, match="is in use: each host of a guest needs its own image"):
        Image(tmp_path / "disk")

    image.close()


def test_what_somebody_else_wrote_is_there_whatever_the_journal_before_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, real = make_image(tmp_path / "disk"), os.ftruncate
    # The power fails before the device has taken the truncation of a journal that is done with.
    monkeypatch.setattr(os, "ftruncate", lambda descriptor, length: length and real(descriptor, length))
    image.put([1, 2], disk_of({1: 1, 2: 2}))
    given: Queue[OSError | None] = Queue()

    image.give(given.put)
    assert given.get(timeout=60) is None
    os.pwrite(image.descriptor, bytes([9]) * PAGE, PAGE)
    image.take_back()
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({1: 9, 2: 2})


def test_who_takes_the_image_back_before_it_was_given_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, may_go_on, sync = make_image(tmp_path / "disk"), threading.Event(), os.fdatasync
    given: list[OSError | None] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: may_go_on.wait(60) and sync(descriptor))
    image.put([1], disk_of({1: 1}))

    image.give(given.append)
    image.take_back()
    may_go_on.set()
    image.put([2], disk_of({1: 1, 2: 2}))
    image.sync()
    image.close()

    assert given == []
    assert content_of(tmp_path / "disk") == disk_of({1: 1, 2: 2})


def test_an_image_that_failed_is_given_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, given = make_image(tmp_path / "disk"), []
    error = OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(*_: object) -> None:
        raise error

    replace_writes(monkeypatch, fail)
    image.put([1], disk_of({1: 1}))
    with pytest.raises(OSError, match="Input/output"):
        image.sync()

    image.give(given.append)

    assert given == [error]
    image.close()


def test_pages_that_have_reached_the_file_are_told_once_and_not_while_newer_ones_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever drops them from memory would lose the newer ones."""
    image, sync = make_image(tmp_path / "disk"), os.fdatasync
    asked, permits = threading.Semaphore(0), threading.Semaphore(0)

    def sync_when_allowed(descriptor: int) -> None:
        asked.release()
        permits.acquire(timeout=60)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync_when_allowed)
    image.put([1, 2], disk_of({1: 1, 2: 2}))
    assert asked.acquire(timeout=60)
    image.put([2], disk_of({1: 1, 2: 3}))
    before = image.take_written()
    permits.release(2)
    assert asked.acquire(timeout=60)  # of the first step's second sync
    assert asked.acquire(timeout=60)  # of the second step's first
    between = image.take_written()
    permits.release(100)
    image.sync()

    assert (before, between, image.take_written(), image.take_written()) == (set(), {1}, {2}, set())
    image.close()


@pytest.mark.parametrize("is_last", [False, True])
def test_a_copy_that_starts_over_while_the_one_before_takes_its_place_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_last: bool
) -> None:
    image, asked, may_go_on, sync = make_image(tmp_path / "disk"), threading.Event(), threading.Event(), os.fsync
    image.restart()
    image.put([1], disk_of({1: 1}))

    def sync_late(descriptor: int) -> None:
        asked.set()
        may_go_on.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_late)
    image.complete()
    assert asked.wait(60)

    image.restart()
    image.put([2], disk_of({2: 2}))
    may_go_on.set()
    if is_last:
        image.complete()
    image.close()

    assert content_of(tmp_path / "disk") == (disk_of({2: 2}) if is_last else disk_of({}))
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "disk.label"}


@given(pages=st.sets(st.integers(0, 2_000)))
def test_runs_hold_every_page_once_in_order_and_side_by_side(pages: set[int]) -> None:
    runs = list(runs_of(sorted(pages)))

    assert [first + n for first, count in runs for n in range(count)] == sorted(pages)
    assert all(0 < count <= blocks._PAGES_AT_ONCE for _, count in runs)


def test_many_pages_side_by_side_are_written_in_portions(tmp_path: Path) -> None:
    count = 3 * journal_module._PAGES_AT_ONCE + 1
    (tmp_path / "disk").write_bytes(bytes(count * PAGE))
    image, disk = Image(tmp_path / "disk"), memoryview(os.urandom(count * PAGE))

    image.put(range(count), disk)
    image.close()

    assert content_of(tmp_path / "disk") == disk


@pytest.mark.parametrize("size_bytes", [0, 1, PAGE + 1])
def test_images_of_odd_size_are_refused(size_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(size_bytes))

    with pytest.raises(ConfigError, match=f"has {size_bytes} bytes"):
        Image(tmp_path / "disk")


def test_a_missing_image_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*truncate -s 1G"):
        Image(tmp_path / "nowhere")


def test_a_journal_of_something_else_changes_nothing(tmp_path: Path) -> None:
    make_image(tmp_path / "disk").close()
    (tmp_path / "disk.journal").write_bytes(b"ftvmdsk1" + bytes(5000))

    assert content_of(tmp_path / "disk") == bytes(PAGES * PAGE)
