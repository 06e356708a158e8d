"""A file as memory: changes stay here, and a page that cannot be read ends nobody."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm._native import lib
from ftvm._native.mapping import FileMapping
from ftvm._native.memory import NativeMemory
from ftvm.errors import GuestError

PAGE = 4096
PAGES = 4
SIZE = PAGES * PAGE


@pytest.fixture
def mapping() -> Iterator[FileMapping]:
    made = FileMapping(SIZE)
    yield made
    made.close()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "image").write_bytes(b"".join(bytes([page + 1]) * PAGE for page in range(PAGES)))
    descriptor = os.open(tmp_path / "image", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_it_is_zeros_until_a_file_is_shown_and_then_what_the_file_holds_now(mapping: FileMapping, image: int) -> None:
    before = bytes(mapping.buffer)

    mapping.show(image)
    os.pwrite(image, b"later", PAGE)

    assert before == bytes(SIZE)
    assert bytes(mapping.buffer) == os.pread(image, SIZE, 0)


def test_what_is_written_to_it_is_not_in_the_file_and_gone_when_it_is_dropped(mapping: FileMapping, image: int) -> None:
    mapping.show(image)
    mapping.buffer[PAGE : 3 * PAGE] = b"x" * 2 * PAGE

    mapping.drop([(1, 1)])

    assert bytes(mapping.buffer[PAGE : 3 * PAGE]) == b"\2" * PAGE + b"x" * PAGE
    assert os.pread(image, 2 * PAGE, PAGE) == b"\2" * PAGE + b"\3" * PAGE


def test_pages_of_its_own_are_zeros_that_may_be_written_and_show_the_file_again_when_they_are_dropped(
    mapping: FileMapping, image: int
) -> None:
    mapping.show(image)
    assert lib.ftvm_mapping_own(mapping.number, 1, 2) == 0
    before = bytes(mapping.buffer[: 3 * PAGE])
    mapping.buffer[PAGE : 3 * PAGE] = b"x" * 2 * PAGE
    written = bytes(mapping.buffer[PAGE : 3 * PAGE])

    mapping.drop([(1, 1), (3, 1)])

    assert before == b"\1" * PAGE + bytes(2 * PAGE)
    assert written == b"x" * 2 * PAGE
    assert bytes(mapping.buffer[PAGE:]) == b"\2" * PAGE + b"x" * PAGE + b"\4" * PAGE
    mapping.show(image)
    assert bytes(mapping.buffer) == os.pread(image, SIZE, 0)


def test_pages_that_cannot_be_read_are_zeros_and_counted_until_a_file_is_shown(
    mapping: FileMapping, image: int
) -> None:
    mapping.show(image)
    os.ftruncate(image, 2 * PAGE)

    assert bytes(mapping.buffer) == b"\1" * PAGE + b"\2" * PAGE + bytes(2 * PAGE)
    assert mapping.lost_pages == 2

    os.ftruncate(image, SIZE)
    os.pwrite(image, b"back", 3 * PAGE)
    mapping.show(image)
    assert mapping.lost_pages == 0
    assert bytes(mapping.buffer[3 * PAGE : 3 * PAGE + 4]) == b"back"


def test_writing_part_of_a_page_that_cannot_be_read_is_counted(mapping: FileMapping, image: int) -> None:
    mapping.show(image)
    os.ftruncate(image, PAGE)

    mapping.buffer[2 * PAGE : 2 * PAGE + 4] = b"part"

    assert mapping.lost_pages == 1


def test_a_part_of_it_shows_another_file_and_the_rest_what_it_did(
    mapping: FileMapping, image: int, tmp_path: Path
) -> None:
    """Mutant: the part shows the other file from its first byte on."""
    (tmp_path / "other").write_bytes(b"".join(bytes([page + 7]) * PAGE for page in range(PAGES)))
    mapping.show(image)
    mapping.buffer[PAGE] = 0

    with (tmp_path / "other").open("rb") as other:
        mapping.show_part(other.fileno(), 1, 2)

    assert [mapping.buffer[page * PAGE] for page in range(PAGES)] == [1, 8, 9, 4]


@pytest.mark.parametrize(("first", "count"), [(0, 5), (4, 1), (1, 0), (2, 1 << 62)])
def test_a_part_that_is_not_there_is_refused(mapping: FileMapping, image: int, first: int, count: int) -> None:
    with pytest.raises(GuestError, match="Invalid argument"):
        mapping.show_part(image, first, count)


def test_memory_that_is_cleared_takes_no_room_for_what_the_file_holds(mapping: FileMapping, image: int) -> None:
    """A host that is to get a first copy clears its memory, a disk that may be larger than memory among it."""
    mapping.show(image)
    mapping.buffer[:5] = b"dirty"
    os.ftruncate(image, 0)  # whoever read it now would lose pages

    NativeMemory([bytearray(b"x" * PAGE), mapping.buffer]).clear()

    assert mapping.lost_pages == 0
    assert bytes(mapping.buffer) == bytes(SIZE)


def test_more_than_are_guarded_are_refused_and_a_closed_one_makes_room() -> None:
    made: list[FileMapping] = []
    try:
        with pytest.raises(GuestError, match="Too many open files in system"):
            made.extend(FileMapping(PAGE) for _ in range(65))
        made.pop().close()
        made.append(FileMapping(PAGE))
    finally:
        for mapping in made:
            mapping.close()


_ELSEWHERE = """
import mmap, os, sys
from ftvm._native.mapping import FileMapping

guarded = FileMapping(4096)
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8192)
    file.truncate(4096)
    print("reads", flush=True)
    memory[5000]
"""


def test_a_page_elsewhere_that_cannot_be_read_ends_the_process_as_ever(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(8192))

    ended = subprocess.run(
        [sys.executable, "-P", "-c", _ELSEWHERE, tmp_path / "other"], stdout=subprocess.PIPE, timeout=60, check=False
    )

    assert ended.stdout == b"reads\n"
    assert ended.returncode != 0


def test_the_handler_of_somebody_else_is_still_called(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(8192))

    ended = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", _ELSEWHERE, tmp_path / "other"],
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert b"Fatal Python error: Bus error" in ended.stderr
    assert ended.returncode != 0
