"""What of a file is offered, and copied from file to file: all that is no hole, and nothing else."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.guests.disk import blocks

PAGE = 4096
PAGES = 64
SIZE = PAGES * PAGE


def content_of(pages: set[int]) -> bytes:
    return b"".join((bytes([page + 1]) if page in pages else b"\0") * PAGE for page in range(PAGES))


class Files:
    """A sparse file with data in some pages, and an empty one as large."""

    def __init__(self, folder: Path, pages: set[int]) -> None:
        self.source, self.target = (
            os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in ("from", "to")
        )
        for descriptor in (self.source, self.target):
            os.ftruncate(descriptor, SIZE)
        for page in pages:
            os.pwrite(self.source, bytes([page + 1]) * PAGE, page * PAGE)

    def copied(self) -> bytes:
        return os.pread(self.target, SIZE, 0)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path, {1, 2, 40})
    yield made
    made.close()


pages_of_file = st.sets(st.integers(0, PAGES - 1))


@given(data=pages_of_file, wanted=pages_of_file)
def test_the_pages_that_are_to_be_copied_are_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, data: set[int], wanted: set[int]
) -> None:
    files = Files(tmp_path_factory.mktemp("files"), data)

    blocks.copy_pages(files.source, files.target, sorted(wanted))

    assert files.copied() == content_of(data & wanted)
    assert set(pages_in(blocks.data_runs(files.target))) <= wanted & set(pages_in(blocks.data_runs(files.source)))
    files.close()


def pages_in(runs: Iterator[tuple[int, int]]) -> list[int]:
    return [page for first, end in runs for page in range(first, end)]


@given(data=pages_of_file)
def test_what_is_offered_rises_and_has_all_data_and_no_large_hole(
    tmp_path_factory: pytest.TempPathFactory, data: set[int]
) -> None:
    files = Files(tmp_path_factory.mktemp("files"), data)

    runs = blocks.offered_runs(files.source, PAGES)

    offered = [page for first, count in runs for page in range(first, first + count)]
    assert offered == sorted(set(offered))
    assert data <= set(offered)
    assert all(set(range(page, page + blocks._GAP_PAGES + 1)) & data for page in offered)
    files.close()


def test_of_a_large_file_the_number_of_runs_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_GAP_PAGES", 0)
    monkeypatch.setattr(blocks, "_OFFERS_MAX", 4)
    files = Files(tmp_path, set(range(0, PAGES, 4)))

    runs = blocks.offered_runs(files.source, PAGES)

    assert len(runs) == 1
    files.close()


@pytest.mark.parametrize("way", ["all at once", "refused", "one page, then refused", "in odd pieces"])
def test_it_is_copied_however_much_of_it_the_system_does_at_once(
    files: Files, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    calls: list[int] = []

    def copy(source: int, target: int, count: int, at: int, offset: int) -> int:
        calls.append(offset)
        if way == "refused" or (way.startswith("one page") and len(calls) > 1):
            raise OSError(errno.EXDEV, "refused")
        count = {"in odd pieces": min(count, 1000), "one page, then refused": PAGE}.get(way, count)
        return os.pwrite(target, os.pread(source, count, at), offset)

    monkeypatch.setattr(os, "copy_file_range", copy)

    blocks.copy_pages(files.source, files.target, [0, 1, 2, 3, 40])

    assert files.copied() == content_of({1, 2, 40})


def test_a_page_that_cannot_be_read_is_left_out(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "copy_file_range", fail)
    read = os.pread
    monkeypatch.setattr(
        os, "pread", lambda file, count, offset: fail() if offset == PAGE else read(file, count, offset)
    )

    blocks.copy_pages(files.source, files.target, [1, 2, 40])

    monkeypatch.undo()
    assert files.copied() == content_of({2, 40})


def test_a_file_that_cannot_be_written_is_told(files: Files) -> None:
    with open("/dev/full", "r+b", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        blocks.copy_pages(files.source, full.fileno(), [1])
