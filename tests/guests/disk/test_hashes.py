"""What a host knows of its image without reading it, and that it never knows what is not so."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.checkpoint import Footing
from ftvm.guests.disk import hashes as hashes_module
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.hashes import REGION_PAGES, HashFile
from ftvm.guests.disk.image import Image
from ftvm.units import PAGE_BYTES

from .learning import (
    ALL,
    FIRST,
    PAGES,
    REGION_BYTES,
    SIZE,
    known_pages,
    knows_all,
    learn,
    opened,
    put,
    region,
    require_true,
    rest,
    side,
)
from .test_disk import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "REST_SECONDS", 0.001)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image rests for long enough to learn."""
    monkeypatch.setattr(image_module, "REST_SECONDS", 3600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk.img"
    made.write_bytes(os.urandom(SIZE))
    return made


@pytest.fixture
def learned(path: Path) -> Path:
    return learn(path)


@pytest.fixture
def image(learned: Path) -> Iterator[Image]:
    made = opened(learned)
    assert knows_all(made)
    yield made
    made.close()


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's time does not tell of a change: the rest has to do without."""
    monkeypatch.setattr(hashes_module, "_stamp", lambda _: "always the same")


class Reads:
    """Bytes of the image that are read, by calls that Python makes."""

    def __init__(self, image: Path, patched: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._read, self._inode = os.pread, image.stat().st_ino
        patched.setattr(os, "pread", self._pread)

    def _pread(self, descriptor: int, count: int, offset: int) -> bytes:
        found = self._read(descriptor, count, offset)
        if os.fstat(descriptor).st_ino == self._inode:
            self.count += len(found)
        return found


# --- what is known ---


def test_a_host_that_starts_again_knows_its_image_without_reading_it(
    learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reads(learned, monkeypatch)
    image = opened(learned)

    known = known_pages(image)

    assert known.keys() == ALL
    assert read.count < PAGE_BYTES  # its first bytes tell of what format it is
    require_true(image)
    image.close()


def test_what_was_written_is_known_again_once_the_image_rests(image: Image) -> None:
    put(image, 5, 7)

    wait_until(lambda: knows_all(image))

    require_true(image)


@pytest.mark.usefixtures("restless")
def test_an_image_that_is_never_at_rest_learns_a_region_behind_some_steps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes_module, "_STEPS", 3)
    image = opened(path)
    known: list[int] = []
    for step in range(7):
        put(image, PAGES - 1, step)
        known.append(len(require_true(image)))

    assert known == [0] * 2 + [REGION_PAGES] * 3 + [2 * REGION_PAGES] * 2
    image.close()


@pytest.mark.usefixtures("restless")
def test_a_thread_that_has_work_learns_no_more_than_the_region_that_it_is_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = HashFile(path, path, descriptor := os.open(path, os.O_RDWR), PAGES, is_given=False)
    made.place_at(FIRST)
    read = Reads(path, monkeypatch)

    made.learn(descriptor, is_resting=True, is_wanted=lambda: True)

    assert read.count == REGION_BYTES
    made.close(descriptor, is_good=True)
    os.close(descriptor)


def test_a_region_that_is_written_all_the_time_is_learned_behind_the_others(path: Path) -> None:
    made = HashFile(path, path, descriptor := os.open(path, os.O_RDWR), PAGES, is_given=False)
    made.place_at(FIRST)
    made.learn(descriptor, is_resting=True, is_wanted=lambda: True)
    made.forget(descriptor, [0])
    made.note_written(descriptor)

    known = []
    for _ in range(4):
        made.learn(descriptor, is_resting=True, is_wanted=lambda: True)
        known.append(list(made._states))

    assert known == [[2, 1, 0], [2, 1, 1], [0, 1, 1], [1, 1, 1]]
    made.close(descriptor, is_good=True)
    os.close(descriptor)


# --- what is not known ---


def test_a_host_that_died_knows_nothing(image: Image, learned: Path) -> None:
    """Who mends its image by hand need not know of what lies beside it."""
    put(image, REGION_PAGES + 3, 7)
    wait_until(lambda: knows_all(image))

    after_death = HashFile(learned, learned, image.descriptor, image.page_count, is_given=False)

    assert not any(after_death._states)


@pytest.mark.usefixtures("restless")
def test_what_is_written_is_not_known_before_it_is_written(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    write = image_module.write_pages

    def look(descriptor: int, step: dict[int, bytes]) -> None:
        seen.append(set(known_pages(image)))
        write(descriptor, step)

    monkeypatch.setattr(image_module, "write_pages", look)
    put(image, 5, 7)

    assert seen == [region(1) | region(2)]


@pytest.mark.usefixtures("timeless")
@pytest.mark.parametrize("how", ["boots", "is given"])
def test_of_an_image_that_a_guest_writes_to_nothing_is_known(learned: Path, how: str) -> None:
    image = opened(learned, boots=how == "boots")
    if how == "is given":
        told: list[OSError | None] = []
        image.give(told.append)
        image.sync()
        assert told == [None]

    assert known_pages(image) == {}
    image.close()

    assert not side(learned).exists()
    again = Image(learned)
    assert known_pages(again) == {}
    again.close()


@pytest.mark.usefixtures("timeless")
@pytest.mark.parametrize("is_given_again", [False, True])
def test_a_guest_that_left_is_waited_for_before_anything_is_learned(learned: Path, is_given_again: bool) -> None:
    image = opened(learned)
    image.give(lambda _: None)
    image.sync()
    image.stand(Footing(lineage="a" * 16, generation=2, epoch=3, runs=False))
    before = image._is_still()
    known: list[int] = []

    def leave() -> None:
        known.append(len(known_pages(image)))
        os.pwrite(image.descriptor, b"its last write", 5)

    image.take_back(leave)
    if is_given_again:
        image.give(lambda _: None)
    image.stand(Footing(lineage="a" * 16, generation=2, epoch=4, runs=False))
    put(image, 5, 7)
    if not is_given_again:
        wait_until(lambda: knows_all(image))

    assert not before
    assert known == [0]
    assert image._is_still() is not is_given_again
    require_true(image)
    image.close()


def to_another_file(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.with_name("old"))
    path.write_bytes(content)


def write_and_set_back(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def restore_a_copy(path: Path) -> None:
    kept = path.with_name("kept")
    shutil.copy2(path, kept)
    with path.open("r+b") as file:
        file.write(b"x")
    shutil.copyfile(kept, path)
    shutil.copystat(kept, path)


def grow(path: Path) -> None:
    os.truncate(path, SIZE + PAGE_BYTES)


def take_those_of_another_host(path: Path) -> None:
    other = path.with_name("other.img")
    shutil.copy2(path, other)
    learn(other)
    side(other).replace(side(path))


def put_back_old_hashes(path: Path) -> None:
    old = side(path).read_bytes()
    image = opened(path)
    put(image, 3, 9)
    image.close()
    side(path).write_bytes(old)


CHANGES: dict[str, Callable[[Path], None]] = {
    "it is another file of that name": to_another_file,
    "it was written to, and its time set back": write_and_set_back,
    "an old copy was put back, with its time": restore_a_copy,
    "it has grown": grow,
    "the hashes are another host's": take_those_of_another_host,
    "the hashes are older": put_back_old_hashes,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.usefixtures("restless")
def test_hashes_of_what_is_no_longer_there_count_for_nothing(learned: Path, change: str) -> None:
    CHANGES[change](learned)

    image = opened(learned)

    assert known_pages(image) == {}
    image.close()


@pytest.mark.usefixtures("restless")
def test_hashes_seeded_with_other_numbers_count_for_nothing(learned: Path) -> None:
    image = opened(learned, first=FIRST + 1)

    assert known_pages(image) == {}
    image.close()


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("now", ["00000000-1111-4222-8333-444444444444\n", None])
def test_hashes_do_not_outlive_the_system_that_ran_nor_count_where_that_is_not_known(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str | None
) -> None:
    """Behind a power cut a file may have what was written last, and its time before that."""
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(hashes_module, "_BOOT", boot)
    if now is not None:
        boot.write_text(now.replace("1", "2"))
    learn(path)
    if now is not None:
        boot.write_text(now)

    image = opened(path)

    assert known_pages(image) == {}
    image.close()


@pytest.mark.usefixtures("timeless", "restless")
@pytest.mark.parametrize(
    "change",
    ["it is another file of that name", "it has grown", "the hashes are another host's"],
)
def test_a_file_is_told_from_others_not_by_its_time_alone(learned: Path, change: str) -> None:
    CHANGES[change](learned)

    image = opened(learned)

    assert known_pages(image) == {}
    image.close()


@pytest.mark.parametrize(
    "how", ["its time does not go on", "nor does it tell its birth", "its device fails", "it failed before"]
)
def test_what_is_not_surely_on_the_device_or_told_apart_is_not_written_down(
    image: Image, learned: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "its time does not go on":
        monkeypatch.setattr(hashes_module, "_is_later", lambda *_: False)
    elif how == "nor does it tell its birth":
        monkeypatch.setattr(hashes_module, "file_identity", lambda *_: "17-0")
    elif how == "its device fails":
        sync, descriptor = os.fdatasync, image.descriptor

        def fail(each: int) -> None:
            if each == descriptor:
                raise OSError(errno.EIO, "broken")
            sync(each)

        monkeypatch.setattr(os, "fdatasync", fail)
    else:
        image.error = OSError(errno.EIO, "broken")

    image.close()

    assert not side(learned).exists()


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("then", ["nothing", "a step", "its end"])
def test_a_change_by_others_while_a_host_has_the_image_makes_all_unknown(learned: Path, then: str) -> None:
    image = opened(learned)
    before = known_pages(image).keys()
    with learned.open("r+b") as file:
        file.write(b"by hand")

    if then == "a step":
        put(image, REGION_PAGES, 7)
    elif then == "its end":
        image.close()
        image = opened(learned)

    assert before == ALL
    assert known_pages(image) == {}
    image.close()


@pytest.mark.usefixtures("restless")
def test_a_change_by_others_while_a_region_is_read_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = HashFile(path, path, descriptor := os.open(path, os.O_RDWR), PAGES, is_given=False)
    made.place_at(FIRST)
    read = os.pread

    def change(each: int, count: int, offset: int) -> bytes:
        found = read(each, count, offset)
        os.pwrite(descriptor, b"by hand", 0)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", change)
        made.learn(descriptor, is_resting=True, is_wanted=lambda: True)

    assert not any(made._states)
    made.close(descriptor, is_good=True)
    os.close(descriptor)


@pytest.mark.usefixtures("timeless")
def test_a_copy_that_took_the_images_place_is_learned_anew(image: Image) -> None:
    image.restart()
    assert image.outlived() != []
    image.put_copies({3: b"n" * PAGE_BYTES})
    image.complete()
    image.sync()

    wait_until(lambda: 3 in known_pages(image))

    require_true(image)


@pytest.mark.usefixtures("timeless")
@settings(max_examples=25, deadline=None)
@given(
    story=st.lists(
        st.tuples(
            st.sampled_from(["step", "guest", "copy", "end", "death", "rest"]), st.sampled_from([0, 5, 300, PAGES - 1])
        ),
        max_size=8,
    )
)
def test_whatever_a_host_goes_through_what_is_known_is_so(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(bytes(range(1, 256)) * 16 + bytes(SIZE - 255 * 16))
    image = opened(path)
    for number, (step, page) in enumerate(story):
        if step == "step":
            put(image, page, number)
        elif step == "guest":
            image.give(lambda _: None)
            image.sync()
            os.pwrite(image.descriptor, b"%d" % number, page * PAGE_BYTES)
            image.take_back(lambda: None)
            image.stand(Footing(lineage="a" * 16, generation=number, epoch=1, runs=False))
        elif step == "copy":
            image.restart()
            offered = image.outlived()
            image.keep([each for first, count in offered for each in range(first, first + count) if each != page])
            image.put_copies({page: bytes([number]) * PAGE_BYTES})
            image.complete()
            image.sync()
        elif step == "rest":
            rest(image)
        else:
            if step == "death":
                image._hashes._remove = image._hashes.close = lambda *_, **__: None  # type: ignore[method-assign]
            image.close()
            if step == "death":
                with path.open("r+b") as file:
                    file.write(b"mended")
            image = opened(path)
        require_true(image)
    image.close()
