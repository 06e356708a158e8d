"""A power cut at any step leaves a disk image at one state that was put: never a mix, never older than was promised.

Nor does its label ever say more than is so: a clean one names the lineage and an epoch of the state that is found.

Each sync of the store, and the comparison of its journal's digest, is taken away in turn: the model of power cuts
notices each (the mutants of the store).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest

from ftvm.checkpoint import Footing
from ftvm.guests.disk import label as label_module
from ftvm.guests.disk.image import Image
from ftvm.guests.disk.journal import write_journal
from ftvm.guests.disk.label import read_label
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts

PAGE = 4096
PAGES = 4
DRAWS = 400
DRAWS_TO_FIND = 3_000


@pytest.fixture(autouse=True)
def _any_file_is_the_labelled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that a cut leaves is made of new files."""
    monkeypatch.setattr(label_module, "file_identity", lambda *_: "the same")


def disk_of(*fills: int) -> memoryview:
    return memoryview(b"".join(bytes([fill]) * PAGE for fill in fills))


@dataclass(frozen=True)
class Saving:
    """A mark: these pages are being written on the way to a state, and may be torn until that, or a later one, is
    whole."""

    pages: tuple[int, ...]
    state: int


class Story:
    """What is put into an image, and which states it may be found in, by what was promised."""

    def __init__(self, folder: Path, *, sector_bytes: int = 512) -> None:
        self.path = folder / "disk"
        self.path.write_bytes(bytes(PAGES * PAGE))
        self.states = [bytes(PAGES * PAGE)]
        self.lineage = "a" * 16
        self.lineages = {0: self.lineage}
        self._folder, self._sector_bytes = folder, sector_bytes
        self.begin()

    def begin(self) -> None:
        """Take what the folder holds as durable."""
        self.cuts = PowerCuts(self._folder, sector_bytes=self._sector_bytes)

    def put(self, image: Image, disk: memoryview, pages: list[int]) -> None:
        """Put one step; it is promised once it is on the device."""
        self.states.append(bytes(disk))
        image.put(pages, disk)
        self.stand(image)
        image.sync()
        self.cuts.mark(len(self.states) - 1)

    def stand(self, image: Image, *, runs: bool = False) -> None:
        """Have the label say that the image is at the last state."""
        epoch = len(self.states) - 1
        self.lineages[epoch] = self.lineage
        image.stand(Footing(lineage=self.lineage, generation=1, epoch=epoch, runs=runs))

    def save(self, image: Image, disk: memoryview, pages: list[int], *, syncs: bool = True) -> None:
        """Have a guest write pages; they may be torn until it has flushed them, or this host has."""
        self.states.append(bytes(disk))
        given: Queue[OSError | None] = Queue()
        image.give(given.put)
        assert given.get(timeout=60) is None
        self.cuts.mark(Saving(tuple(pages), len(self.states) - 1))
        for page in pages:
            os.pwrite(image.descriptor, disk[page * PAGE : (page + 1) * PAGE], page * PAGE)
        if syncs:
            os.fdatasync(image.descriptor)
            self.cuts.mark(len(self.states) - 1)
        image.take_back()

    def recover(self, folder: Path, marks: tuple[object, ...]) -> None:
        """Open what a cut has left, and see which state it is."""
        promised = max((mark for mark in marks if isinstance(mark, int)), default=0)
        saving = marks[-1] if marks and isinstance(marks[-1], Saving) else Saving((), -1)
        whole = [page for page in range(PAGES) if page not in saving.pages]
        label = read_label(folder / "disk")

        found = content_of(folder / "disk")

        assert found in self.states[promised:] or any(
            is_same(found, state, whole) for state in self.states[promised : saving.state + 1]
        ), f"promised state {promised}, found pages that begin with {list(found[::PAGE])}"
        assert content_of(folder / "disk") == found
        assert label is not None or not marks, "a label that was written is lost"
        if label is not None and label.is_clean:
            assert found in self.states[label.epoch :], f"it is not clean: {label}"
            assert label.lineage == self.lineages[self.states.index(found)], f"it is of another lineage: {label}"


def is_same(found: bytes, state: bytes, pages: list[int]) -> bool:
    return all(found[page * PAGE : (page + 1) * PAGE] == state[page * PAGE : (page + 1) * PAGE] for page in pages)


def content_of(path: Path) -> bytes:
    """What whoever opens the image next loads."""
    Image(path).close()
    return path.read_bytes()


def steps(story: Story) -> None:
    """Three states, one after the other."""
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 0, 0), [0, 1])
    story.put(image, disk_of(2, 2, 2, 2), [0, 1, 2, 3])
    story.put(image, disk_of(2, 2, 3, 2), [2])
    image.close()


def one_step(story: Story) -> None:
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 0, 0), [0, 1])
    image.close()


def a_copy(story: Story) -> None:
    """A disk that is copied once more takes the place of the one before."""
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 0, 0), [0, 1])
    image.restart()
    story.lineage = "b" * 16
    image.put([2], disk_of(0, 0, 5, 0))
    image.sync()
    disk = disk_of(0, 0, 5, 6)
    story.states.append(bytes(disk))
    image.put([3], disk)
    story.lineages[len(story.states) - 1] = story.lineage
    image.complete()
    image.sync()
    story.cuts.mark(len(story.states) - 1)
    story.put(image, disk_of(7, 0, 5, 6), [0])
    image.close()


def a_copy_that_keeps_pages(story: Story) -> None:
    """A disk that is copied once more has pages of the one before, which is whole until then."""
    image = Image(story.path)
    story.put(image, disk_of(1, 2, 3, 0), [0, 1, 2])
    image.restart()
    story.lineage = "b" * 16
    assert image.outlived() == [(0, PAGES)]
    image.keep([1])
    disk = disk_of(0, 2, 5, 6)
    story.states.append(bytes(disk))
    image.put([2, 3], disk)
    story.lineages[len(story.states) - 1] = story.lineage
    image.complete()
    image.sync()
    story.cuts.mark(len(story.states) - 1)
    image.close()


def a_takeover(story: Story) -> None:
    """The guest writes to an image that was put to until then."""
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 1, 0), [0, 1, 2])
    story.save(image, disk_of(1, 8, 1, 8), [1, 3])
    story.put(image, disk_of(9, 8, 1, 9), [0, 3])
    image.close()


def a_guest_that_leaves(story: Story) -> None:
    """What it wrote, and did not flush, is part of what is put next."""
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 1, 0), [0, 1, 2])
    story.save(image, disk_of(1, 8, 1, 8), [1, 3], syncs=False)
    story.put(image, disk_of(9, 8, 1, 8), [0])
    image.close()


def a_restart_over_a_journal(story: Story) -> None:
    """The host died with a whole journal; the next one opens the image, and the guest writes."""
    Image(story.path).close()
    step = {0: bytes([4]) * PAGE, 2: bytes([4]) * PAGE}
    with (story.path.parent / "disk.journal").open("wb") as journal:
        write_journal(journal.fileno(), step)
    story.states = [bytes(disk_of(4, 0, 4, 0))]
    story.begin()
    with story.cuts.recorded():
        image = Image(story.path)
        story.save(image, disk_of(8, 0, 4, 8), [0, 3])
        image.close()


def a_death_over_the_removal_of_a_journal(story: Story) -> None:
    """The host that was to finish a journal died, too: after it had removed it, before that was durable."""
    with story.cuts.recorded():
        one_step(story)
        (story.path.parent / "disk.journal").unlink()
        image = Image(story.path)
        story.save(image, disk_of(8, 1, 0, 8), [0, 3])
        image.close()


RECORDED = [steps, a_copy, a_copy_that_keeps_pages, a_takeover, a_guest_that_leaves]
RESTARTS = [a_restart_over_a_journal, a_death_over_the_removal_of_a_journal]


def record(play: Callable[[Story], None], folder: Path, *, sector_bytes: int = 512) -> Story:
    story = Story(folder, sector_bytes=sector_bytes)
    if play in RESTARTS:
        play(story)
        return story
    with story.cuts.recorded():
        play(story)
    return story


@pytest.mark.parametrize("play", [*RECORDED, *RESTARTS])
def test_a_cut_leaves_one_state_whole_and_none_older_than_promised(
    tmp_path: Path, play: Callable[[Story], None]
) -> None:
    story = record(play, tmp_path)

    assert story.cuts.check(story.recover, draws=DRAWS) == DRAWS


def test_each_of_the_cuts_of_one_step_leaves_one_state_whole(tmp_path: Path) -> None:
    story = record(one_step, tmp_path, sector_bytes=PAGE)

    assert story.cuts.check(story.recover) > 200


def without(function: str, call: str) -> Edit:
    return Edit(f"ftvm.guests.disk.image:{function}", call, "pass")


def finishes_without(call: str) -> Edit:
    return Edit("ftvm.guests.disk.journal:finish_journal", call, "pass")


MUTANTS: dict[str, tuple[Callable[[Story], None], Edit]] = {
    "the journal is not synced": (steps, without("Image._apply", "os.fdatasync(journal)")),
    "the journal's name is not synced": (steps, without("Image._apply", "sync_directory(self._folder)")),
    "the image is not synced": (steps, without("Image._apply", "os.fdatasync(self.descriptor)")),
    "a torn journal is applied": (
        steps,
        Edit(
            "ftvm.guests.disk.journal:read_journal",
            "xxhash.xxh3_128(found[:end]).digest() != found[end : end + _DIGEST_BYTES]",
            "False",
        ),
    ),
    "the copy is not synced": (a_copy, without("Image._publish", "fresh.seal()")),
    "the copy's new name is not synced": (a_copy, without("Image._publish", "sync_directory(self._folder)")),
    "the old disk's journal is kept": (a_copy, without("Image._publish", "self._drop_journal()")),
    "the removal of the old disk's journal is not synced": (
        a_copy,
        without("Image._drop_journal", "sync_directory(self._folder)"),
    ),
    "what the guest wrote is not synced when it leaves": (
        a_guest_that_leaves,
        without("Image._work", "os.fdatasync(self.descriptor)"),
    ),
    "the journal is kept when the guest writes": (a_takeover, without("Image._work", "self._drop_journal()")),
    "the label goes ahead of the image": (
        steps,
        Edit(
            "ftvm.guests.disk.image:Image._work",
            "self._take(step, begun=begun, is_complete=is_complete)",
            "self._labels._unsaid_steps = 99; self._labels.say(footing, runs=self._runs, has_stepped=True); "
            "self._take(step, begun=begun, is_complete=is_complete)",
        ),
    ),
    "the label is not changed before the guest writes": (
        a_takeover,
        Edit("ftvm.guests.disk.image:Image.give", "self._given, self._runs = then, True", "self._given = then"),
    ),
    "the label is not synced": (
        a_takeover,
        Edit("ftvm.guests.disk.label:LabelFile.write", "os.fdatasync(self._descriptor)", "pass"),
    ),
    "a label has one place": (
        steps,
        Edit("ftvm.guests.disk.label:LabelFile.write", "self._count % 2 * _PLACE_BYTES", "0"),
    ),
    "the old disk's label is kept for the new one": (
        a_copy,
        without("Image._publish", "self._labels.write(self.label.blank())"),
    ),
    "the removal of the journal is not synced": (
        a_takeover,
        without("Image._drop_journal", "sync_directory(self._folder)"),
    ),
    "what is recovered is not synced": (a_restart_over_a_journal, finishes_without("os.fdatasync(descriptor)")),
    "the journal comes back after a restart": (
        a_restart_over_a_journal,
        finishes_without("sync_directory(journal_path.parent)"),
    ),
    "the journal comes back after two restarts": (
        a_death_over_the_removal_of_a_journal,
        finishes_without("sync_directory(journal_path.parent)"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_store_is_found(tmp_path: Path, name: str) -> None:
    play, edit = MUTANTS[name]

    with broken(Mutant(name=name, breaks=name, edits=(edit,))):
        story = record(play, tmp_path)

        with pytest.raises(ContractBroken, match="a power cut at any step"):
            story.cuts.check(story.recover, draws=DRAWS_TO_FIND)
