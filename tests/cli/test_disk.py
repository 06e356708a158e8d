"""`ftvm disk`: what an image says of itself, and which of several is the newest; who asks is told where it matters."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.label import Label, LabelFile
from ftvm.interfaces import Record

from .conftest import Run

LINEAGE = "0123456789abcdef"
RAN = Label(image="1" * 16, lineage=LINEAGE, generation=7, runs=True)
STOOD_BY = Label(image="2" * 16, lineage=LINEAGE, generation=7, epoch=41, is_clean=True)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return image_with(tmp_path / "a.img", RAN)


@pytest.fixture
def stood_by(tmp_path: Path) -> Path:
    return image_with(tmp_path / "b.img", STOOD_BY)


def image_with(path: Path, label: Label) -> Path:
    path.write_bytes(bytes(4096))
    descriptor = os.open(path, os.O_RDWR)
    file = LabelFile(path, descriptor)
    file.write(label)
    file.close()
    os.close(descriptor)
    return path


def put_record(folder: Path, generation: int) -> str:
    folder.mkdir()
    store = FileRecordStore(folder)
    for number in range(1, generation + 1):
        store.compare_and_set("guest", Record(number, "a", "b"))
    store.close()
    return f"file://{folder}"


# --- ftvm disk show ---


def test_an_image_says_its_generation_and_whether_the_guest_ran_on_it(ftvm: Run, ran: Path, stood_by: Path) -> None:
    outcome = ftvm("disk", "show", ran, stood_by)

    assert outcome.status == 0
    assert f"{ran}: generation 7: the guest ran on it, not stopped in order; lineage {LINEAGE}\n" in outcome.out
    assert f"{stood_by}: generation 7: a standby's, whole, of epoch 41 or later" in outcome.out
    assert outcome.out.endswith(f"newest: {stood_by}\n")


def test_what_was_saved_on_the_other_host_stands_for_its_image(ftvm: Run, ran: Path, stood_by: Path) -> None:
    saved = ran.parent / "other.json"
    saved.write_text(ftvm("disk", "show", stood_by, "--json").out)

    outcome = ftvm("disk", "show", ran, saved)

    assert json.loads(saved.read_text())["generation"] == 7
    assert outcome.out.endswith(f"newest: {saved}\n")


def test_an_image_that_was_never_used_says_nothing_and_is_compared_with_nothing(
    ftvm: Run, ran: Path, tmp_path: Path
) -> None:
    blank = tmp_path / "new.img"
    blank.write_bytes(bytes(4096))

    outcome = ftvm("disk", "show", blank, ran)

    assert f"{blank}: says nothing of itself" in outcome.out
    assert "newest: not known" in outcome.out
    assert not Path(f"{blank}.label").exists()


def test_an_image_that_never_was_a_whole_copy_is_older_than_one_that_says_what_it_is(
    ftvm: Run, ran: Path, tmp_path: Path
) -> None:
    """Both hosts died while the first copy was made: no client was told anything that rests on it."""
    copied = tmp_path / "new.img"
    copied.touch()
    os.truncate(copied, 4096)
    Disk(str(copied), boots=False).close()

    outcome = ftvm("disk", "show", copied, ran)

    assert f"{copied}: ftvm has made no whole copy on it, and run no guest" in outcome.out
    assert outcome.out.endswith(f"newest: {ran}\n")


def test_an_image_that_was_moved_and_opened_since_is_not_said_to_be_older(ftvm: Run, ran: Path, tmp_path: Path) -> None:
    """What it has nobody knows: a guest may have run on it, and be newer than what the other one says."""
    moved = tmp_path / "moved.img"
    moved.write_bytes(b"a guest's".ljust(4096))
    Disk(str(moved), boots=False).close()

    outcome = ftvm("disk", "show", moved, ran)

    assert f"{moved}: says nothing of its content" in outcome.out
    assert "newest: not known" in outcome.out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"path": "x", "parents": [1]}'])
def test_a_file_that_is_no_saved_label_is_named(ftvm: Run, tmp_path: Path, content: str) -> None:
    saved = tmp_path / "a.json"
    saved.write_text(content)

    outcome = ftvm("disk", "show", saved)

    assert outcome.status == 2
    assert f"{saved} is not what `ftvm disk show IMAGE --json` prints" in outcome.err


def test_an_image_that_is_not_there_is_named(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("disk", "show", tmp_path / "no.img")

    assert outcome.status == 2
    assert f"the image {tmp_path / 'no.img'} cannot be read: No such file" in outcome.err


# --- ftvm init --force ---


def test_force_names_the_standbys_image_of_two_hosts_that_died_at_once(
    ftvm: Run, ran: Path, stood_by: Path, tmp_path: Path
) -> None:
    arbiter = put_record(tmp_path / "arbiter", 7)

    outcome = ftvm("init", "--arbiter", arbiter, "--force", "--yes", "--disk", stood_by, "--disk", ran)

    assert outcome.status == 0
    assert outcome.out.endswith(f"newest: {stood_by}\n")


def test_the_image_of_a_guest_that_ended_in_order_is_newer_than_its_standbys(
    ftvm: Run, stood_by: Path, tmp_path: Path
) -> None:
    ran = image_with(tmp_path / "a.img", replace(RAN, is_clean=True))
    arbiter = put_record(tmp_path / "arbiter", 7)
    ftvm("init", "--arbiter", arbiter, "--force", "--yes")

    outcome = ftvm("init", "--arbiter", arbiter, "--force", "--yes", "--disk", stood_by, "--disk", ran)

    assert outcome.out.endswith(f"newest: {ran}\n")


def test_force_without_images_says_which_to_look_for(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("init", "--arbiter", put_record(tmp_path / "arbiter", 7), "--force", "--yes")

    assert "of generation 7 that of a guest that was stopped in order, else the standby's" in outcome.out


# --- ftvm check ---


@pytest.mark.parametrize(
    ("generation", "image", "told"),
    [
        (7, "a.img", "ok      disk: "),
        (7, "b.img", "warning disk: "),
        (8, "a.img", "older: the record has come to generation 8 since"),
    ],
)
@pytest.mark.usefixtures("ran", "stood_by")
def test_check_compares_an_image_with_the_record(
    ftvm: Run, tmp_path: Path, generation: int, image: str, told: str
) -> None:
    file = tmp_path / "guest.toml"
    arbiter = put_record(tmp_path / "arbiter", generation)
    file.write_text(f'kind = "qemu"\narbiter = "{arbiter}"\ndisk = "{tmp_path / image}"\n')

    assert told in ftvm("check", file).out
