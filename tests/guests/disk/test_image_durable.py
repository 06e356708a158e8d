"""Who waits until an image is durable hears that once the device has all that was put, or that it never will."""

import errno
import os
from pathlib import Path
from queue import Queue

import pytest

from ftvm.checkpoint import Footing
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.image import Image
from ftvm.guests.disk.label import Label, read_label

PAGE = 4096
PAGES = 4
DISK = memoryview(b"x" * (PAGES * PAGE))
PATIENCE_S = 60


class Watched:
    """An image of which each sync is noted, by the file's name, with what is told to who waits."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "disk").write_bytes(bytes(PAGES * PAGE))
        self.image = Image(folder / "disk")
        self.image.sync()
        self.happened: list[str] = []
        self.told: Queue[OSError | None] = Queue()
        self.meanwhile = list[str]()
        monkeypatch.setattr(os, "fdatasync", self.sync)
        monkeypatch.setattr(image_module, "sync_directory", lambda _: self.happened.append("directory"))

    def sync(self, descriptor: int) -> None:
        """Note a sync, and do during the first what a test wants to come then."""
        self.happened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        meanwhile, self.meanwhile = self.meanwhile, []
        self.do(*meanwhile)

    def do(self, *calls: str) -> None:
        """Call these in a row, of which the image's thread sees all or none."""
        with self.image._changed:
            for call in calls:
                getattr(self, call)()

    def put(self) -> None:
        self.image.put([1], DISK)

    def restart(self) -> None:
        self.image.restart()

    def take_back(self) -> None:
        self.image.take_back()

    def persist(self) -> None:
        self.image.persist(self.tell)

    def tell(self, error: OSError | None) -> None:
        self.happened.append("told")
        self.told.put(error)

    def until_told(self) -> list[str]:
        """Wait for the word; return what was synced before it."""
        assert self.told.get(timeout=PATIENCE_S) is None
        before = self.happened[: self.happened.index("told")]
        self.image.close()
        return before


def test_a_step_is_durable_once_its_journal_is_synced_and_the_journals_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants: it is told before the one, or before the other."""
    watched = Watched(tmp_path, monkeypatch)

    watched.do("put", "persist")

    journal, *rest = watched.until_told()
    assert "journal" in journal
    assert rest == ["directory"]


def test_who_hears_that_an_image_is_durable_can_read_in_its_label_where_it_stands(tmp_path: Path) -> None:
    """Mutant: it hears that with the journal. What was promised then is in an image that looks older than the other."""
    (tmp_path / "disk").write_bytes(bytes(PAGES * PAGE))
    image = Image(tmp_path / "disk")
    found: Queue[Label | None] = Queue()
    with image._changed:
        image.put([1], DISK)
        image.stand(Footing(lineage="a" * 16, generation=7, epoch=3, runs=False))
        image.persist(lambda _: found.put(read_label(image.path)))

    label = found.get(timeout=PATIENCE_S)

    assert label is not None
    assert (label.generation, label.lineage) == (7, "a" * 16)
    image.close()


def test_a_step_that_comes_while_another_is_written_is_durable_with_its_own_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: who waits for the second step is told with the first."""
    watched = Watched(tmp_path, monkeypatch)
    watched.meanwhile = ["put", "persist"]

    watched.do("put")

    assert len([name for name in watched.until_told() if "journal" in name]) == 2


def test_what_a_guest_wrote_is_durable_once_the_image_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: without a step there is nothing to sync."""
    watched = Watched(tmp_path, monkeypatch)

    watched.do("take_back", "persist")

    assert watched.until_told() == ["disk"]


def test_what_a_guest_wrote_is_not_durable_with_a_step_that_was_put_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: who waits for what the guest wrote is told with the step's journal."""
    watched = Watched(tmp_path, monkeypatch)
    watched.meanwhile = ["take_back", "persist"]

    watched.do("put")

    assert watched.until_told().count("disk") == 2


def test_a_part_of_a_new_copy_is_durable_once_its_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, monkeypatch)

    watched.do("restart", "put", "persist")

    (name,) = watched.until_told()
    assert name not in ("disk", "directory")


def test_who_waits_for_an_image_that_fails_is_told_why_and_so_is_who_asks_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, monkeypatch)
    wrong = OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(*_: object) -> None:
        raise wrong

    monkeypatch.setattr(image_module, "write_journal", fail)
    watched.do("put", "persist")
    first = watched.told.get(timeout=PATIENCE_S)

    watched.do("persist")

    assert (first, watched.told.get(timeout=PATIENCE_S)) == (wrong, wrong)
    watched.image.close()
