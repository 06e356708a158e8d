"""A label says what its image is: never more than the device has, of no other file, and whole or not at all."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Footing
from ftvm.guests.disk import fresh as fresh_module
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk import label as label_module
from ftvm.guests.disk.image import Image
from ftvm.guests.disk.label import Label, LabelFile, label_path, newer, read_label

IDENTITIES = st.text("0123456789abcdef", min_size=16, max_size=16)
NUMBERS = st.integers(0, 2**63)
LABELS = st.builds(
    Label,
    image=IDENTITIES,
    lineage=IDENTITIES,
    parents=st.lists(st.tuples(IDENTITIES, NUMBERS), max_size=8).map(tuple),
    generation=NUMBERS,
    epoch=NUMBERS,
    runs=st.booleans(),
    is_clean=st.booleans(),
)


def image_at(path: Path) -> Path:
    path.write_bytes(bytes(4096))
    return path


def write(image: Path, *labels: Label) -> Label:
    descriptor = os.open(image, os.O_RDWR)
    file = LabelFile(image, descriptor)
    for label in labels:
        file.write(label)
    file.close()
    os.close(descriptor)
    return file.label


def of(lineage: str, generation: int = 0, *, epoch: int = 0, runs: bool = False, parents: object = ()) -> Label:
    return Label(
        image="1" * 16, lineage=lineage, generation=generation, epoch=epoch, runs=runs, parents=parents, is_clean=True
    )


# --- its file ---


@given(label=LABELS)
def test_what_is_written_is_read(label: Label) -> None:
    place = label_module._Written("7-12", 3, label)

    assert label_module._unpack(label_module._pack(place)) == place


def test_an_image_without_a_label_gets_a_name_and_keeps_it(tmp_path: Path) -> None:
    image = image_at(tmp_path / "disk.img")

    before = read_label(image)
    named = write(image)

    assert before is None
    assert read_label(image) == write(image) == named == Label(image=named.image, runs=True)


def test_the_last_label_is_read_and_one_that_is_torn_leaves_the_one_before(tmp_path: Path) -> None:
    image = image_at(tmp_path / "disk.img")
    labels = [of("a" * 16, generation) for generation in range(4)]
    write(image, *labels)
    whole = read_label(image)

    content = bytearray(label_path(image).read_bytes())
    place = content.index(b'"generation": 3')
    content[place + 14 : place + 15] = b"8"
    label_path(image).write_bytes(content)

    assert whole == labels[3]
    assert read_label(image) == labels[2]


def test_a_label_says_nothing_of_a_copy_or_of_another_file_of_that_name(tmp_path: Path) -> None:
    image, copy = image_at(tmp_path / "disk.img"), image_at(tmp_path / "copy.img")
    write(image, of("a" * 16, 7))

    label_path(copy).write_bytes(label_path(image).read_bytes())
    os.replace(image_at(tmp_path / "other.img"), image)

    assert read_label(copy) is None
    assert read_label(image) is None
    assert write(copy).image != "1" * 16


def test_a_label_follows_a_link_to_the_image(tmp_path: Path) -> None:
    image = image_at(tmp_path / "disk.img")
    write(image, of("a" * 16, 7))
    (tmp_path / "link").symlink_to(image)

    assert read_label(tmp_path / "link") == of("a" * 16, 7)


# --- which of two is the newer ---


@pytest.mark.parametrize(
    ("older", "later"),
    [
        (of("a", 4, runs=True), of("a", 5, epoch=1)),
        (of("a", 5, epoch=9), of("a", 5, runs=True)),
        (of("a", 5, epoch=9), of("a", 5, epoch=10)),
        (replace(of("a", 5, runs=True), is_clean=False), of("a", 5, runs=True)),
        (replace(of("a", 5, runs=True), is_clean=False), of("a", 5, epoch=1)),
        (of("a", 4, epoch=9), replace(of("a", 5, runs=True), is_clean=False)),
        (replace(of("a", 5, epoch=9), is_clean=False), replace(of("a", 5, runs=True), is_clean=False)),
        (replace(of("a", 5, epoch=9), is_clean=False), of("a", 5, epoch=8)),
        (of("a", 4), of("c", 7, parents=(("a", 5), ("b", 3), ("a", 2)))),
        (of("a", 5, runs=True), of("b", 6, runs=True, parents=(("a", 5),))),
        (of("a", 4, epoch=9), of("b", 6, runs=True, parents=(("a", 5),))),
        (of("a", 5, epoch=9), of("c", 7, runs=True, parents=(("b", 6), ("a", 5)))),
        (of("a").blank(), replace(of("b", 5, runs=True), is_clean=False)),
    ],
)
def test_the_newer_of_two_images_is_known(older: Label, later: Label) -> None:
    assert newer(older, later) == 1
    assert newer(later, older) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (of("a", 4), of("b", 5)),
        (of("", 0), of("b", 5)),
        (of("b", 6, runs=True, parents=(("a", 5),)), of("c", 6, runs=True, parents=(("a", 5),))),
        (of("a", 6, epoch=1), of("b", 6, runs=True, parents=(("a", 5),))),
        (of("a", 5, epoch=1), of("a", 5, epoch=1)),
    ],
)
def test_what_cannot_be_compared_is_not(one: Label, other: Label) -> None:
    assert newer(one, other) is None
    assert newer(other, one) is None


def test_a_lineage_that_goes_on_from_an_image_is_newer_than_it() -> None:
    before = of("a", 5, epoch=3, parents=tuple((f"{n}", n) for n in range(9, 1, -1)))

    after = of("b", 6, runs=True, parents=before.lineages())

    assert newer(before, after) == 1
    assert len(after.parents) == 8


def test_a_guest_that_boots_from_an_image_begins_a_lineage_and_what_it_had_before_is_its_parent(tmp_path: Path) -> None:
    path = image_at(tmp_path / "disk.img")
    first = Image(path, boots=True)
    first.stand(Footing(lineage="a" * 16, generation=2, epoch=0, runs=True))
    first.close(is_clean=True)
    ended = read_label(path)

    second = Image(path, boots=True)
    opened = read_label(path)
    second.stand(Footing(lineage="b" * 16, generation=4, epoch=0, runs=True))
    second.close()
    died = read_label(path)

    assert ended is not None
    assert opened is not None
    assert died is not None
    assert (ended.lineage, ended.generation, ended.runs, ended.is_clean) == ("a" * 16, 2, True, True)
    assert opened == replace(ended, is_clean=False)
    assert died == replace(opened, lineage="b" * 16, generation=4, parents=(("a" * 16, 2),))
    assert newer(ended, died) == 1


CLEAN = Label(image="1" * 16, lineage="a" * 16, generation=2, epoch=3, is_clean=True)


def test_an_image_is_clean_no_longer_before_a_guest_that_boots_from_it_can_write(tmp_path: Path) -> None:
    """Mutant: the thread of the image says so, whenever it comes to it."""
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)

    with mock.patch.object(Image, "_work"):
        image = Image(path, boots=True)
        label = read_label(path)
        image.close()

    assert label == replace(CLEAN, epoch=0, runs=True, is_clean=False)


@pytest.mark.parametrize(("told", "lineage"), [("b" * 16, "b" * 16), ("", "a" * 16)])
def test_what_a_standby_takes_in_has_its_actives_lineage_alone_if_that_is_known(
    tmp_path: Path, told: str, lineage: str
) -> None:
    """Mutants: its own earlier content counts as what the guest went on from; an unknown lineage hides a known one."""
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)
    image = Image(path)

    image.stand(Footing(lineage=told, generation=6, epoch=9, runs=False))
    image.sync()
    image.close()

    label = read_label(path)
    assert label is not None
    assert (label.lineage, label.parents) == (lineage, ())


def boot(path: Path) -> Image:
    image = Image(path, boots=True)
    image.stand(Footing(lineage="b" * 16, generation=4, epoch=0, runs=True))
    return image


def take_over(path: Path) -> Image:
    image = Image(path)
    image.stand(Footing(lineage="a" * 16, generation=3, epoch=4, runs=False))
    image.sync()
    image.give(lambda _: None)
    return image


def take_over_unknown(path: Path) -> Image:
    image = Image(path)
    image.give(lambda _: None)
    return image


@pytest.mark.parametrize("begin", [boot, take_over, take_over_unknown])
def test_an_image_is_not_clean_while_a_guest_runs_on_it(begin: Callable[[Path], Image], tmp_path: Path) -> None:
    """Mutants: what the label says once the footing is known, and before."""
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)

    image = begin(path)
    image.sync()
    label = read_label(path)
    image.close()

    assert label is not None
    assert (label.runs, label.epoch, label.is_clean) == (True, 0, False)


def test_an_image_is_clean_after_its_end_only_once_the_device_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: what the guest wrote is not synced before its image is called clean."""
    image = Image(image_at(tmp_path / "disk.img"), boots=True)
    image.sync()
    descriptor, happened = image.descriptor, []
    monkeypatch.setattr(os, "fdatasync", lambda synced: happened.append(("synced", synced)))
    monkeypatch.setattr(LabelFile, "write", lambda _, label: happened.append(("said", label.is_clean)))

    image.close(is_clean=True)

    assert happened == [("synced", descriptor), ("said", True)]


def test_an_image_that_could_not_be_written_is_not_said_to_be_newer_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the label is written at the end whatever became of the image."""
    path = image_at(tmp_path / "disk.img")
    image = Image(path)
    image.stand(Footing(lineage="a" * 16, generation=2, epoch=3, runs=False))
    image.sync()
    before = read_label(path)
    monkeypatch.setattr(image_module, "write_journal", mock.Mock(side_effect=OSError(28, "full")))
    image.put([0], memoryview(b"n" * 4096))
    image.stand(Footing(lineage="a" * 16, generation=2, epoch=4, runs=False))
    with pytest.raises(OSError, match="full"):
        image.sync()

    image.close(is_clean=True)

    assert read_label(path) == before


@pytest.mark.parametrize(
    ("code", "is_clean"), [(errno.EIO, False), (errno.ENOSPC, True), (errno.EDQUOT, True)], ids=["I/O", "full", "quota"]
)
def test_an_image_whose_device_failed_is_not_clean_and_one_that_found_no_room_is(
    code: int, is_clean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device that fails had may be lost; one that is full has what it had."""
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)
    image = Image(path)
    monkeypatch.setattr(image_module, "write_journal", mock.Mock(side_effect=OSError(code, "no")))
    image.put([0], memoryview(b"n" * 4096))
    with pytest.raises(OSError, match="no"):
        image.sync()

    image.close(is_clean=True)

    assert read_label(path) == replace(CLEAN, is_clean=is_clean)


def test_an_image_is_as_clean_as_it_was_if_the_device_failed_at_a_new_copy_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)
    image = Image(path)
    image.restart()
    image.sync()
    monkeypatch.setattr(fresh_module, "write_pages", mock.Mock(side_effect=OSError(errno.EIO, "no")))
    image.put([0], memoryview(b"n" * 4096))
    with pytest.raises(OSError, match="no"):
        image.sync()

    image.close(is_clean=True)

    assert read_label(path) == CLEAN


def test_a_label_speaks_of_a_new_copy_once_that_has_taken_the_place_of_the_old_image(tmp_path: Path) -> None:
    """Mutants: the old image is said to be what the copy is going to be; the label stays with the old file."""
    path = image_at(tmp_path / "disk.img")
    write(path, CLEAN)
    image = Image(path)
    image.restart()
    image.stand(Footing(lineage="b" * 16, generation=5, epoch=9, runs=False))
    image.put([0], memoryview(b"n" * 4096))
    image.sync()
    halfway = read_label(path)

    image.complete()
    image.sync()
    after = read_label(path)
    image.close()

    assert halfway == CLEAN
    assert after is not None
    assert (after.lineage, after.generation, after.runs, after.is_clean) == ("b" * 16, 5, False, True)


@pytest.mark.parametrize(
    "fields", [[], {}, {"count": "a"}, {"count": 1, "file": "1-1", "later": 1, "parents": []}], ids=str
)
def test_a_label_that_this_version_does_not_know_says_nothing(fields: object, tmp_path: Path) -> None:
    image = image_at(tmp_path / "disk.img")
    text = json.dumps(fields).encode()
    label_path(image).write_bytes(text.ljust(1024) + xxhash.xxh3_128(text).hexdigest().encode() + b"\n")

    found = read_label(image)

    assert found is None
    assert write(image).lineage == ""


def test_a_label_of_which_a_part_was_written_is_written_on(tmp_path: Path) -> None:
    image = image_at(tmp_path / "disk.img")
    whole = os.pwrite

    with mock.patch("os.pwrite", side_effect=lambda to, what, at: whole(to, bytes(what)[:100], at)):
        written = write(image, of("a" * 16, 3))

    assert read_label(image) == written
