"""What a guest may write between two cuts: how much, who is asked for a cut, who waits, and who does not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvm.guests.disk import disk as disk_module
from ftvm.guests.disk.disk import Disk
from ftvm.units import PAGE_BYTES

from .conftest import own_bytes
from .nbd import SLICE, WRITE, Client


@contextmanager
def flooded_disk(folder: Path) -> Iterator[tuple[Disk, Client]]:
    """A disk of whose pages as many were written since the last cut as may be."""
    path = folder / "large.img"
    path.touch()
    os.truncate(path, 128 << 20)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()
    disk.collect()
    for offset in range(0, 64 << 20, SLICE):
        assert client.write(offset, b"f" * SLICE) == 0
    yield disk, client
    client.close()
    disk.close()


@pytest.fixture
def flooded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Disk, Client]]:
    """One whose guest has all the patience that a test needs."""
    monkeypatch.setattr(disk_module, "_PATIENCE_MS", 600_000)
    with flooded_disk(tmp_path) as made:
        yield made


def test_a_guest_that_writes_faster_than_epochs_are_cut_waits_for_the_next(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded
    client.send(WRITE, 64 << 20, 4, b"more")
    assert client.is_silent()

    written = disk.collect()

    assert client.answer() == (77, 0)
    assert written.count() == (64 << 20) // PAGE_BYTES
    assert disk.collect().count() == 1


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Disk, Client]]:
    """A disk that takes 4 MiB between two cuts."""
    monkeypatch.setattr(disk_module, "_HIGH_WATER_PAGES", 1_024)
    path = tmp_path / "small.img"
    path.touch()
    os.truncate(path, 8 << 20)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()
    yield disk, client
    client.close()
    disk.close()


def write_range(client: Client, begin: int, end: int) -> None:
    for offset in range(begin, end, SLICE):
        assert client.write(offset, b"a" * min(SLICE, end - offset)) == 0


def test_a_disk_asks_for_a_cut_once_when_half_of_what_it_may_take_is_written(small: tuple[Disk, Client]) -> None:
    disk, client = small
    told: list[bool] = []

    for _ in range(2):
        disk.collect()
        for begin, end in ((0, (2 << 20) - PAGE_BYTES), ((2 << 20) - PAGE_BYTES, 2 << 20), (2 << 20, 3 << 20)):
            write_range(client, begin, end)
            told += [disk.is_asking(), disk.is_asking()]

    assert told == [False, False, True, False, False, False] * 2


def test_a_cut_that_came_unasked_takes_the_wish_for_it_back(small: tuple[Disk, Client]) -> None:
    disk, client = small
    disk.collect()
    write_range(client, 0, 3 << 20)

    disk.collect()

    assert not disk.is_asking()


def test_a_disk_that_nobody_cuts_asks_for_nothing(small: tuple[Disk, Client]) -> None:
    disk, client = small

    write_range(client, 0, 4 << 20)

    assert not disk.is_asking()


def test_a_guest_that_is_being_stopped_waits_for_no_cut(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded
    client.send(WRITE, 64 << 20, 4, b"more")

    disk.hurry()

    assert client.answer() == (77, 0)
    assert disk.collect().count() == (64 << 20) // PAGE_BYTES + 1


def test_a_guest_that_nobody_cuts_goes_on_after_a_while_and_waits_no_more(tmp_path: Path) -> None:
    with flooded_disk(tmp_path) as (_, client):
        for offset in range(64 << 20, 96 << 20, SLICE):
            assert client.write(offset, b"f" * SLICE) == 0


def test_a_disk_takes_no_memory_for_what_its_image_has(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded

    assert client.read(0, 4) == b"ffff"
    assert bytes(disk.buffer[:4]) == b"ffff"

    assert own_bytes(disk) == 0
