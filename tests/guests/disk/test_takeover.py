"""A guest that takes over does not wait until its disk's image has all that was committed: until then what it writes is
held, and neither overtakes what was committed before nor is lost."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.disk import Disk

from .conftest import dirty
from .nbd import FLUSH, Client
from .witness import SYNC, ZERO, Witness
from .witness import WRITE as WROTE

PAGE = 4096
PAGES = 8
SIZE = PAGES * PAGE


class SlowImage:
    """The image's own thread, which may write a step, once it is held, only when a test says so."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self._sync, self._may_go_on = os.fdatasync, threading.Event()
        self._may_go_on.set()
        patched.setattr(os, "fdatasync", self._wait)

    def _wait(self, descriptor: int) -> None:
        self._may_go_on.wait(20)
        self._sync(descriptor)

    def hold(self) -> None:
        self._may_go_on.clear()

    def go_on(self) -> None:
        self._may_go_on.set()


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness()
    yield made
    made.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowImage]:
    made = SlowImage(monkeypatch)
    yield made
    made.go_on()


@pytest.fixture
def standby(tmp_path: Path, witness: Witness, slow: SlowImage) -> Iterator[Disk]:
    """A standby's disk with an epoch committed that is not in the image yet: page 1 is full of ones, page 2 of twos."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False, witnesses=witness.descriptors)
    disk.discarded()
    disk.completed()
    disk.image.sync()
    slow.hold()
    commit(disk, 1, 2)
    yield disk
    slow.go_on()
    disk.close()


@pytest.fixture
def client(standby: Disk) -> Iterator[Client]:
    made = Client(standby).agree()
    yield made
    made.close()


def commit(disk: Disk, *pages: int) -> None:
    for page in pages:
        disk.buffer[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
    disk.committed(pages)


def image_of(disk: Disk) -> bytes:
    return disk.image.path.read_bytes()


def take_over(disk: Disk) -> None:
    told: list[str | None] = []
    disk.when_settled(told.append)
    assert told == [None], "the guest goes on at once"


def test_a_guest_that_takes_over_reads_what_was_committed_though_the_image_has_not_got_it(
    standby: Disk, client: Client
) -> None:
    take_over(standby)

    assert client.read(PAGE - 1, 2 * PAGE + 2) == b"\0" + b"\1" * PAGE + b"\2" * PAGE + b"\0"
    assert image_of(standby) == bytes(SIZE)


def test_of_what_was_committed_only_what_the_guest_has_written_since_is_collected(
    standby: Disk, client: Client
) -> None:
    take_over(standby)
    assert client.write(2 * PAGE, b"new") == 0

    assert dirty(standby) == {2}


def test_what_it_writes_is_kept_from_the_image_until_that_has_what_was_committed(
    standby: Disk, client: Client, witness: Witness, slow: SlowImage
) -> None:
    take_over(standby)
    assert client.write(2 * PAGE - 2, b"over") == 0
    assert client.write(5 * PAGE, b"new") == 0
    assert client.read(2 * PAGE - 3, 6) == b"\1over\2"
    assert (image_of(standby), witness.seen) == (bytes(SIZE), [])

    slow.go_on()
    assert client.ask(FLUSH) == 0

    found = image_of(standby)
    assert found[2 * PAGE - 3 : 2 * PAGE + 3] == b"\1over\2"
    assert found[5 * PAGE : 5 * PAGE + 3] == b"new"
    assert found == bytes(standby.buffer)
    assert set(witness.kinds()[:-1]) == {WROTE}
    assert witness.kinds()[-1] == SYNC
    assert not (standby.image.path.parent / "disk.img.journal").exists()


def test_zeros_that_it_writes_are_kept_as_well(
    standby: Disk, client: Client, witness: Witness, slow: SlowImage
) -> None:
    take_over(standby)

    assert client.ask(6, PAGE, 10) == 0
    assert client.read(PAGE, 11) == bytes(10) + b"\1"
    slow.go_on()
    assert client.ask(FLUSH) == 0

    assert image_of(standby)[PAGE : PAGE + 11] == bytes(10) + b"\1"
    assert ZERO not in witness.kinds()


def test_a_flush_waits_until_the_image_has_what_was_committed(standby: Disk, client: Client, slow: SlowImage) -> None:
    take_over(standby)

    client.send(FLUSH)
    assert client.read(0, 1) == b"\0" if client.is_silent() else False
    slow.go_on()

    assert client.answer() == (77, 0)


def test_flushes_of_a_guest_whose_image_never_gets_what_was_committed_fail(
    standby: Disk, client: Client, slow: SlowImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(standby)
    assert client.write(5 * PAGE, b"new") == 0
    client.send(FLUSH)

    monkeypatch.setattr(image_module, "write_pages", fail)
    slow.go_on()

    assert client.answer() == (77, errno.EIO)
    assert client.ask(FLUSH) == errno.EIO


def fail(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_guest_that_is_stopped_before_the_image_was_its_own_goes_on_when_it_has_what_was_flushed(
    standby: Disk, client: Client, slow: SlowImage
) -> None:
    take_over(standby)
    client.write(6 * PAGE, b"flushed")
    standby.hurry()
    assert client.ask(FLUSH) == 0
    told: list[bytes] = []
    is_told = threading.Event()

    def note(trouble: str | None) -> None:
        assert trouble is None
        told.append(image_of(standby)[6 * PAGE : 6 * PAGE + 7])
        is_told.set()

    standby.when_settled(note)
    assert not told
    slow.go_on()

    assert is_told.wait(60)
    assert told == [b"flushed"]


def test_who_was_to_be_told_is_not_once_the_guest_is_stopped_again(
    standby: Disk, client: Client, slow: SlowImage
) -> None:
    told: list[str | None] = []
    take_over(standby)
    standby.hurry()
    assert client.ask(FLUSH) == 0
    standby.when_settled(told.append)
    standby.hurry()
    slow.go_on()
    is_settled = threading.Event()

    standby.when_settled(lambda _: is_settled.set())

    assert is_settled.wait(60)
    assert told == []


def test_part_of_a_block_whose_rest_cannot_be_read_does_not_reach_the_image(
    standby: Disk, client: Client, slow: SlowImage
) -> None:
    """The rest reads as zeros: moved to the image, they would take the place of what is there."""
    take_over(standby)
    os.ftruncate(standby.image.descriptor, 3 * PAGE)
    assert client.write(5 * PAGE + 1, b"part") == 0
    slow.go_on()

    assert client.ask(FLUSH) == errno.EIO

    assert len(image_of(standby)) == 3 * PAGE


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_guest_that_leaves_again_leaves_all_that_it_wrote_to_the_next_commit(
    standby: Disk, client: Client, slow: SlowImage, when: str
) -> None:
    """Whether it left before the image was its own or after."""
    take_over(standby)
    client.write(4 * PAGE, b"written here")
    if when == "after":
        slow.go_on()
        client.ask(FLUSH)
        client.write(5 * PAGE, b"and not flushed")
    expected = bytes(standby.buffer)
    client.close()

    standby.committed(())
    commit(standby, 7)
    slow.go_on()
    standby.image.sync()

    assert image_of(standby) == expected[: 7 * PAGE] + b"\7" * PAGE == bytes(standby.buffer)


def test_what_was_written_before_the_image_was_the_guests_is_in_it_when_the_host_ends(
    standby: Disk, client: Client, slow: SlowImage
) -> None:
    take_over(standby)
    client.write(4 * PAGE, b"the last words")
    client.close()
    slow.go_on()

    standby.close()

    found = image_of(standby)
    assert found[PAGE : 3 * PAGE] == b"\1" * PAGE + b"\2" * PAGE
    assert found[4 * PAGE : 4 * PAGE + 14] == b"the last words"


def test_a_standby_keeps_no_page_in_memory_that_its_image_has(standby: Disk, slow: SlowImage) -> None:
    slow.go_on()
    for page in (3, 4, 3, 1):
        commit(standby, page)
    standby.image.sync()

    standby.committed(())

    assert list(standby._held.runs()) == []
    assert bytes(standby.buffer) == image_of(standby)


def test_a_guest_does_not_go_on_from_a_disk_that_was_not_copied_completely(tmp_path: Path) -> None:
    path, told = tmp_path / "part.img", []
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False)
    disk.discarded()
    commit(disk, 1)

    disk.when_settled(told.append)

    assert "was not copied completely: no guest can run from it" in told[0]
    disk.close()
    assert path.read_bytes() == bytes(SIZE)


def test_a_disk_that_was_whole_is_not_while_it_is_copied_again(tmp_path: Path) -> None:
    """Its guest was taken over while it lived, and the host that it is copied from dies on the way."""
    path, told = tmp_path / "again.img", []
    path.write_bytes(b"o" * SIZE)
    disk = Disk(str(path), boots=True)
    disk.discarded()
    commit(disk, 1)

    disk.when_settled(told.append)

    assert "was not copied completely: no guest can run from it" in told[0]
    disk.close()
    assert path.read_bytes() == b"o" * SIZE
