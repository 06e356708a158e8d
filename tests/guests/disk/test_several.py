"""Several disks are one to the guest that is stopped and goes on."""

import os
from pathlib import Path

import pytest

from ftvm.errors import ConfigError, StateUnreadable
from ftvm.guests.disk.disk import Settled
from ftvm.guests.disk.several import Disks


class Told:
    """A disk that is settled when a test says so."""

    trouble = None

    def __init__(self) -> None:
        self.told: list[Settled] = []

    def when_settled(self, then: Settled) -> None:
        self.told.append(then)


def test_a_guest_goes_on_once_all_its_disks_are_settled_and_hears_of_the_first_trouble() -> None:
    disks, heard = [Told(), Told(), Told()], []
    Disks(disks).when_settled(heard.append)  # type: ignore[arg-type]

    for disk, trouble in zip(disks, (None, "the second is broken", "the third, too"), strict=True):
        assert heard == []
        disk.told[0](trouble)

    assert heard == ["the second is broken"]


def test_a_guest_without_a_disk_goes_on_at_once() -> None:
    heard: list[str | None] = []

    Disks(()).when_settled(heard.append)

    assert heard == [None]


def test_if_one_image_cannot_be_opened_none_stays_open(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(4096))
    paths = [str(tmp_path / name) for name in "abc"]

    with pytest.raises(ConfigError, match="cannot be opened"):
        Disks.open(paths, [4096] * 3, ["disk", "disk1", "disk2"], boots=True)

    for disk in Disks.open(paths[:2], [4096] * 2, ["disk", "disk1"], boots=True):
        disk.close()


def test_a_guest_has_an_image_for_each_of_its_disks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))

    with pytest.raises(ConfigError, match="the machine has 2 disks, and 1 images were given"):
        Disks.open([str(tmp_path / "a")], [4096] * 2, ["disk", "disk1"], boots=True)


def test_a_guest_goes_on_only_from_disks_that_can_all_be_read(tmp_path: Path) -> None:
    """Mutant: only the first one is looked at."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(bytes(8192))
    disks = Disks.open([str(path) for path in paths], [8192] * 2, ["disk", "disk1"], boots=True)
    os.truncate(paths[1], 4096)

    with pytest.raises(StateUnreadable, match="b cannot be read"):
        disks.require_readable()

    for disk in disks:
        disk.close()


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))

    with pytest.raises(ConfigError, match="has 4096 bytes, the machine's disk 8192"):
        Disks.open([str(tmp_path / "a")], [8192], ["disk"], boots=True)


class Flushed:
    """A disk that was flushed while its guest was being stopped."""

    def __init__(self) -> None:
        self.is_guests = False

    def was_flushed_in_haste(self) -> bool:
        return True

    def note_flush(self) -> None:
        self.is_guests = True


def test_a_flush_of_the_machine_that_stops_a_guest_is_told_from_the_guests_own() -> None:
    """Mutants: all count as the guest's; another machine's count goes on from the one before."""
    disk, found = Flushed(), []
    disks = Disks([disk])  # type: ignore[list-item]

    for machine, count in ((1, 0), (1, 1), (1, 1), (1, 2), (2, 0), (2, 2), (2, 2)):
        disk.is_guests = False
        disks.note_flushes(machine, lambda count=count: count)
        found.append(disk.is_guests)

    assert found == [False, True, False, True, False, True, False]


def test_a_flush_is_the_guests_though_another_machine_has_made_as_many_as_the_one_before() -> None:
    """Mutant: only the counts are compared."""
    disk = Flushed()
    disks = Disks([disk])  # type: ignore[list-item]
    disks.note_flushes(1, lambda: 2)
    disk.is_guests = False

    disks.note_flushes(2, lambda: 2)

    assert disk.is_guests


def test_flushes_in_doubt_are_the_guests_on_each_disk_that_had_one() -> None:
    """The count is of all disks together: it does not say on which one the guest's were."""
    one, other = Flushed(), Flushed()

    Disks([one, other]).note_flushes(1, lambda: 1)  # type: ignore[list-item]

    assert (one.is_guests, other.is_guests) == (True, True)


def test_a_machine_is_not_asked_whose_flush_it_was_if_there_was_none() -> None:
    disk = Flushed()
    disk.was_flushed_in_haste = lambda: False  # type: ignore[method-assign]

    Disks([disk]).note_flushes(1, lambda: pytest.fail("asked"))  # type: ignore[list-item]

    assert not disk.is_guests
