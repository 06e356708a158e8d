"""A disk image is always one of the states it was given, whatever moment its host dies at."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError, GuestError
from ftvm.guests.qemu import image as image_module
from ftvm.guests.qemu.image import Image

PAGE = 4096
PAGES = 8


class PowerCut(BaseException):
    """The host dies here."""


def disk_of(fills: dict[int, int]) -> memoryview:
    disk = bytearray(PAGES * PAGE)
    for page, fill in fills.items():
        disk[page * PAGE : (page + 1) * PAGE] = bytes([fill]) * PAGE
    return memoryview(disk)


def content_of(path: Path) -> bytes:
    """What whoever opens the image next finds."""
    image = Image(path, PAGES)
    found = memoryview(bytearray(PAGES * PAGE))
    image.load(found)
    image.close()
    return bytes(found)


def test_what_was_put_is_found_by_who_opens_the_image_next(tmp_path: Path) -> None:
    image = Image(tmp_path / "disk", PAGES, is_new=True)
    disk = disk_of({2: 7, 5: 9})

    image.put([2, 5], disk)
    image.sync()
    image.close()

    assert content_of(tmp_path / "disk") == disk


def test_a_whole_replacement_leaves_nothing_of_what_was_there_before(tmp_path: Path) -> None:
    image = Image(tmp_path / "disk", PAGES, is_new=True)
    image.put([0, 1], disk_of({0: 1, 1: 2}))
    image.sync()
    disk = disk_of({3: 4})

    image.put_whole(disk)
    image.put([6], disk_of({3: 4, 6: 1}))
    image.close()

    assert content_of(tmp_path / "disk") == disk_of({3: 4, 6: 1})


@settings(max_examples=60, deadline=None)
@given(
    first=st.dictionaries(st.integers(0, PAGES - 1), st.integers(1, 255), min_size=1),
    second=st.dictionaries(st.integers(0, PAGES - 1), st.integers(1, 255), min_size=1),
    writes_left=st.integers(0, 24),
    whole=st.booleans(),
)
def test_a_crash_at_any_write_leaves_the_old_state_or_the_new(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[int, int],
    second: dict[int, int],
    writes_left: int,
    whole: bool,
) -> None:
    path = tmp_path_factory.mktemp("image") / "disk"
    image = Image(path, PAGES, is_new=True)
    old, new = disk_of(first), disk_of({**first, **second})
    image.put(list(first), old)
    image.sync()
    image.close()

    image = Image(path, PAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_module, "_write_at", dying_after(writes_left))
        step = {page: bytes(new[page * PAGE : (page + 1) * PAGE]) for page in {**first, **second}}
        try:
            image._replace(step) if whole else image._apply(step)
            has_died = False
        except PowerCut:
            has_died = True
    image.close()

    found = content_of(path)
    assert found in (old, new)
    assert has_died or found == new


def dying_after(writes: int):  # type: ignore[no-untyped-def]
    """Write so many times, then half a time, then never again."""
    real, left = image_module._write_at, [writes]

    def write_at(fd: int, content: bytes, offset: int) -> None:
        if left[0] == 0:
            real(fd, content[: len(content) // 2], offset)
            raise PowerCut
        left[0] -= 1
        real(fd, content, offset)

    return write_at


def test_a_full_device_is_told_and_ends_the_image_with_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image(tmp_path / "disk", PAGES, is_new=True)
    image.put([1], disk_of({1: 1}))
    image.sync()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(image_module, "_write_at", full)
    image.put([2], disk_of({1: 1, 2: 2}))

    with pytest.raises(GuestError, match="No space left"):
        image.sync()
    assert image.error is not None
    image.close()
    monkeypatch.undo()
    assert content_of(tmp_path / "disk") == disk_of({1: 1})


def test_an_image_in_use_is_refused(tmp_path: Path) -> None:
    image = Image(tmp_path / "disk", PAGES, is_new=True)

    with pytest.raises(ConfigError, match="in use by another process"):
        Image(tmp_path / "disk", PAGES)

    image.close()


def test_an_image_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(PAGE))

    with pytest.raises(ConfigError, match=f"has {PAGE} bytes, but the disk has {PAGES * PAGE}"):
        Image(tmp_path / "disk", PAGES, is_new=True)


def test_a_missing_image_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Image(tmp_path / "nowhere", PAGES)
