"""A power cut over a block device, and what is in its folder: as over an image in a file (test_image_power.py).

The device is a file that is taken for one: what differs is that no other can take its place.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.guests.disk import files as files_module
from ftvm.guests.disk import fresh as fresh_module
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk import label as label_module
from ftvm.guests.disk.image import Image
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken

from .test_image_power import (
    DRAWS,
    DRAWS_TO_FIND,
    Story,
    a_copy,
    a_copy_that_keeps_pages,
    a_guest_that_leaves,
    a_takeover,
    disk_of,
    record,
    steps,
)


@pytest.fixture(autouse=True)
def _a_file_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image_module, files_module):
        monkeypatch.setattr(module, "is_device", lambda _: True)
    monkeypatch.setattr(
        files_module, "require_raw", lambda descriptor, _: Path(f"/proc/self/fd/{descriptor}").stat().st_size
    )
    monkeypatch.setattr(label_module, "file_identity", lambda *_: "the same")
    monkeypatch.setattr(fresh_module, "_KEPT_PAGES_MIN", 1)
    monkeypatch.setattr(fresh_module, "_SLICE_PAGES", 1)
    monkeypatch.setattr(fresh_module, "_PIECE_PAGES", 1)


def steps_over_a_stage(story: Story) -> None:
    """What is committed while a copy is moved to the device is newer than the copy."""
    image = Image(story.path)
    story.put(image, disk_of(1, 2, 3, 0), [0, 1, 2])
    image.restart()
    story.lineage = "b" * 16
    assert image.outlived() == [(0, 4)]
    image.keep([1, 2])
    disk = disk_of(4, 2, 5, 6)
    story.states.append(bytes(disk))
    image.put([0, 2, 3], disk)
    story.lineages[len(story.states) - 1] = story.lineage
    meanwhile = [disk_of(4, 2, 7, 7), disk_of(4, 2, 8, 7)]
    move = fresh_module.DeviceCopy.move

    def move_behind_a_step(stage: fresh_module.DeviceCopy, device: int) -> bool:
        if meanwhile:
            disk = meanwhile.pop(0)
            story.states.append(bytes(disk))
            image.put([2, 3], disk)
            story.stand(image)
        return move(stage, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_module.DeviceCopy, "move", move_behind_a_step)
        image.complete()
        image.sync()
    assert meanwhile == []
    story.cuts.mark(len(story.states) - 1)
    story.put(image, disk_of(9, 2, 8, 7), [0])
    image.close()


def a_takeover_behind_a_stage(story: Story) -> None:
    """The guest writes to a device that was copied to."""
    image = Image(story.path)
    image.restart()
    story.lineage = "b" * 16
    disk = disk_of(4, 2, 5, 6)
    story.states.append(bytes(disk))
    image.put([0, 1, 2, 3], disk)
    story.lineages[len(story.states) - 1] = story.lineage
    image.complete()
    image.sync()
    story.cuts.mark(len(story.states) - 1)
    story.save(image, disk_of(4, 8, 5, 8), [1, 3])
    image.close()


def a_guest_that_leaves_what_is_kept(story: Story) -> None:
    """Its last writes are on no device yet when a copy has them stay where they are."""
    image = Image(story.path)
    story.put(image, disk_of(1, 1, 1, 0), [0, 1, 2])
    story.save(image, disk_of(1, 8, 1, 8), [1, 3], syncs=False)
    image.restart()
    story.lineage = "b" * 16
    assert image.outlived() == [(0, 4)]
    image.keep([1, 3])
    disk = disk_of(0, 8, 0, 8)
    story.states.append(bytes(disk))
    story.lineages[len(story.states) - 1] = story.lineage
    image.complete()
    image.sync()
    story.cuts.mark(len(story.states) - 1)
    image.close()


PLAYS = [
    steps,
    a_copy,
    a_copy_that_keeps_pages,
    a_takeover,
    a_guest_that_leaves,
    steps_over_a_stage,
    a_takeover_behind_a_stage,
    a_guest_that_leaves_what_is_kept,
]


@pytest.mark.parametrize("play", PLAYS)
def test_a_cut_over_a_device_leaves_one_state_whole_and_none_older_than_promised(
    tmp_path: Path, play: Callable[[Story], None]
) -> None:
    story = record(play, tmp_path)

    assert story.cuts.check(story.recover, draws=DRAWS) == DRAWS


def edit(place: str, old: str, new: str = "pass") -> Edit:
    return Edit(f"ftvm.guests.disk.{place}", old, new)


MUTANTS: dict[str, tuple[Callable[[Story], None], Edit]] = {
    "the stage is not synced": (steps_over_a_stage, edit("image:Image._publish", "fresh.seal()")),
    "which pages the device has is not written": (
        steps_over_a_stage,
        edit("fresh:DeviceCopy.seal", "write_at(self.descriptor, flags, begin + first)"),
    ),
    "a page that is put over a kept one stays the device's": (
        steps_over_a_stage,
        edit("fresh:DeviceCopy.write", "self._has[page] = 0"),
    ),
    "what was kept is not synced": (
        a_guest_that_leaves_what_is_kept,
        edit("image:Image._publish", "os.fdatasync(self.descriptor)"),
    ),
    "the stage goes over what was committed since": (
        steps_over_a_stage,
        edit("image:Image._apply", "self._moving.passed_by(step)"),
    ),
    "that newer pages are there is not synced": (
        steps_over_a_stage,
        edit("fresh:DeviceCopy.passed_by", "os.fdatasync(self.descriptor)"),
    ),
    "the stage is removed before the device has it": (
        a_copy,
        edit("fresh:DeviceCopy.move", "os.fdatasync(device)"),
    ),
    "the removal of the stage is not synced": (
        a_takeover_behind_a_stage,
        edit("image:Image._move", "sync_directory(self._folder)"),
    ),
    "a stage that a crash left is not moved": (
        a_copy,
        edit("fresh:finish_stage", "while stage.move(device)", "while False"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_stage_is_found(tmp_path: Path, name: str) -> None:
    play, change = MUTANTS[name]

    with broken(Mutant(name=name, breaks=name, edits=(change,))):
        story = record(play, tmp_path)

        with pytest.raises(ContractBroken, match="a power cut at any step"):
            story.cuts.check(story.recover, draws=DRAWS_TO_FIND)
