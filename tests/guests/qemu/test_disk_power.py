"""What a guest was told to have flushed survives a power cut from the moment on when anything can follow from it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.guests.qemu.disk import Disk
from ftvm.guests.qemu.image import Image
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts

PAGE = 4096
PAGES = 4
DRAWS = 200
PATIENCE_SECONDS = 60.0


def write(disk: Disk, page: int) -> None:
    """Write a page that nobody writes a second time."""
    disk.write(page * PAGE, bytes([page + 1]) * PAGE)


def a_guest_that_flushes(disk: Disk, cuts: PowerCuts) -> None:
    for page in range(3):
        write(disk, page)
        disk.flush()
        cuts.mark(page)


def a_guest_that_is_stopped_in_a_flush(disk: Disk, cuts: PowerCuts) -> None:
    """It is told at once, and goes on once the device has it."""
    write(disk, 0)
    disk.flush()
    cuts.mark(0)
    save, may_go_on = disk.flusher._save, threading.Event()
    disk.flusher._save = lambda pages: save(pages) if may_go_on.wait(PATIENCE_SECONDS) else None
    write(disk, 1)
    disk.flusher.hurry()
    disk.flush()
    disk.when_settled(lambda wrong: cuts.mark(1 if wrong is None else wrong))
    may_go_on.set()
    disk.flusher.settle()
    write(disk, 2)
    disk.flush()
    cuts.mark(2)


STORIES = [a_guest_that_flushes, a_guest_that_is_stopped_in_a_flush]


def record(play: Callable[[Disk, PowerCuts], None], folder: Path) -> PowerCuts:
    (folder / "disk").write_bytes(bytes(PAGES * PAGE))
    cuts = PowerCuts(folder)
    with cuts.recorded():
        disk = Disk(str(folder / "disk"), boots=True)
        play(disk, cuts)
        disk.close()
    return cuts


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    image, found = Image(folder / "disk"), memoryview(bytearray(PAGES * PAGE))
    image.load(found)
    image.close()
    for page in marks:
        assert isinstance(page, int)
        assert found[page * PAGE : (page + 1) * PAGE] == bytes([page + 1]) * PAGE, f"page {page} was flushed"


@pytest.mark.parametrize("play", STORIES)
def test_a_flush_that_the_guest_goes_on_from_survives_every_cut(
    tmp_path: Path, play: Callable[[Disk, PowerCuts], None]
) -> None:
    assert record(play, tmp_path).check(recover, draws=DRAWS) == DRAWS


MUTANTS = {
    "a flush waits for nothing": (
        a_guest_that_flushes,
        Edit("ftvm.guests.qemu.disk:Disk.flush", "self.flusher.flush(self._take_unsaved())", "self.flusher"),
    ),
    "a flush is not synced": (
        a_guest_that_flushes,
        Edit("ftvm.guests.qemu.image:Image.save", "os.fdatasync(self.descriptor)", "pass"),
    ),
    "what is owed is not waited for": (
        a_guest_that_is_stopped_in_a_flush,
        Edit("ftvm.guests.qemu.flushing:Flusher._is_settled", "self._done == self._asked", "True"),
    ),
    "a guest that runs on is told at once": (
        a_guest_that_flushes,
        Edit("ftvm.guests.qemu.flushing:Flusher.flush", "self._done >= mine", "True"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_flush_is_found(tmp_path: Path, name: str) -> None:
    play, edit = MUTANTS[name]
    with broken(Mutant(name=name, breaks=name, edits=(edit,))):
        cuts = record(play, tmp_path)

    with pytest.raises(ContractBroken, match=r"page \d was flushed"):
        cuts.check(recover, draws=10 * DRAWS)
