"""What becomes of a pair whose arbiter's folder fills up, or is replaced by an old copy, in the middle of its life."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftvm.arbiters import file as file_arbiter
from ftvm.arbiters.file import FileRecordStore
from ftvm.events import ArbiterTrouble
from ftvm.interfaces import Record
from ftvm.protocol.view import Role
from ftvm.testing.pair import HASTY, MS, Pair, SteppedHost

FULL = "the disk is full"
FORGOT = "the arbiter has forgotten"
LOOKS_AGAIN_MS = HASTY.arbiter_poll_ns // MS


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Both hosts know the record by their own store, as two processes do."""
    (tmp_path / "shared").mkdir()
    pair = Pair(store=FileRecordStore(tmp_path / "shared"), timing=HASTY).protected()
    for machine in pair.alive:
        store = FileRecordStore(tmp_path / "shared")
        store.read("vm")
        machine.arbiter.store = store
    return pair


@contextmanager
def full() -> Iterator[None]:
    """Have no byte more fit into the folder."""

    def write_aside(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_arbiter, "_write_aside", write_aside)
        yield


@contextmanager
def looking(**found: int) -> Iterator[None]:
    """Have statvfs tell of a file system, other than it is, what is given."""
    real = os.statvfs

    def statvfs(path: Path) -> SimpleNamespace:
        seen = real(path)
        return SimpleNamespace(**{name: getattr(seen, name) for name in dir(seen) if name.startswith("f_")} | found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        yield


class Folder:
    """The arbiter's folder, and copies of it."""

    def __init__(self, path: Path) -> None:
        self._path = path / "shared"
        self._copies = path / "copies"

    def copy(self, name: str) -> None:
        shutil.copytree(self._path, self._copies / name)

    def restore(self, name: str) -> None:
        shutil.rmtree(self._path)
        shutil.copytree(self._copies / name, self._path)

    def go_on(self, count: int) -> None:
        """Have somebody who knows this folder alone change the record so often."""
        for _ in range(count):
            store = FileRecordStore(self._path)
            store.compare_and_set("vm", Record(store.read("vm").generation + 1, "stranger", None))


def reasons(machine: SteppedHost) -> str:
    return "\n".join(event.error for event in machine.told(ArbiterTrouble))


def releases(pair: Pair, machine: SteppedHost) -> bool:
    """Let them live for a while; tell whether the guest's outputs leave a host."""
    before = len(machine.released)
    pair.run(300)
    return len(machine.released) > before


def test_a_pair_goes_on_while_the_folder_is_full(pair: Pair) -> None:
    with full():
        assert releases(pair, pair.a)

    assert pair.a.role is Role.ACTIVE


def stand(machine: SteppedHost) -> tuple[str, str]:
    status = machine.driver.status(machine.clock.now())
    return status.state, status.reason


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"f_blocks": 9, "f_bfree": 0, "f_bavail": 0}, FULL),
        ({"f_files": 9, "f_ffree": 0, "f_favail": 0}, FULL),
        ({"f_flag": os.ST_RDONLY}, "the file system is read-only"),
    ],
)
def test_a_pair_whose_folder_could_not_be_written_says_that_no_takeover_is_possible_before_one_is_tried(
    pair: Pair, tmp_path: Path, found: dict[str, int], told: str
) -> None:
    """Regression: reads still succeeded, so status said `protected` until a write failed."""
    with looking(**found):
        pair.run(LOOKS_AGAIN_MS)
        seen = [stand(machine) for machine in (pair.a, pair.b)]
        is_released = releases(pair, pair.a)
    pair.run(LOOKS_AGAIN_MS)

    assert [state for state, _ in seen] == ["no takeover", "standby unable"]
    for _, reason in seen:
        assert f"the arbiter cannot be used: arbiter directory {tmp_path / 'shared'} cannot be written" in reason
        assert told in reason
    assert is_released
    assert (stand(pair.a), stand(pair.b)) == (("protected", ""), ("standby", ""))


def test_a_pair_takes_over_whatever_a_look_at_the_folder_says(pair: Pair) -> None:
    """What a look says decides nothing: only a write that fails does."""
    with looking(f_blocks=9, f_bfree=0, f_bavail=0):
        pair.run(LOOKS_AGAIN_MS)
        pair.kill(pair.a)
        pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert releases(pair, pair.b)


def test_a_standby_takes_over_as_soon_as_the_folder_has_room(pair: Pair) -> None:
    with full():
        pair.kill(pair.a)
        pair.run(1_000)
        role_while_full = pair.b.role
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert role_while_full is Role.STANDBY
    assert FULL in reasons(pair.b)
    assert releases(pair, pair.b)


def test_an_active_that_loses_its_standby_holds_its_outputs_until_the_folder_has_room(pair: Pair) -> None:
    with full():
        pair.kill(pair.b)
        pair.run(1_000)
        is_released_while_full = releases(pair, pair.a)

    assert not is_released_while_full
    assert FULL in reasons(pair.a)
    assert releases(pair, pair.a)
    assert pair.record().standby is None


def lose_the_newest_record(pair: Pair, tmp_path: Path, *, generations: int) -> Folder:
    """Restore the folder of before the standby joined, and have the record go on from there."""
    folder = Folder(tmp_path)
    folder.copy("right")
    (tmp_path / "copies" / "old").mkdir()
    first = "vm.00000000000000000001"
    shutil.copy(tmp_path / "copies" / "right" / first, tmp_path / "copies" / "old" / first)
    folder.restore("old")
    folder.go_on(generations)
    pair.run(LOOKS_AGAIN_MS)
    return folder


@pytest.mark.parametrize("generations", [0, 1, 2, 9])
def test_an_old_copy_of_the_folder_deposes_nobody_wherever_it_went_on_to(
    pair: Pair, tmp_path: Path, generations: int
) -> None:
    lose_the_newest_record(pair, tmp_path, generations=generations)

    assert releases(pair, pair.a)
    assert (pair.a.role, pair.b.role) == (Role.ACTIVE, Role.STANDBY)
    assert FORGOT in reasons(pair.a)
    assert FORGOT in reasons(pair.b)


@pytest.mark.parametrize("generations", [0, 1, 2, 9])
def test_nobody_takes_over_by_an_old_copy_of_the_folder_but_by_the_right_one(
    pair: Pair, tmp_path: Path, generations: int
) -> None:
    folder = lose_the_newest_record(pair, tmp_path, generations=generations)
    pair.run(100)
    pair.kill(pair.a)
    pair.run(1_000)
    role_before = pair.b.role

    folder.restore("right")
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert role_before is Role.STANDBY
    assert releases(pair, pair.b)


@pytest.mark.parametrize("generations", [0, 1, 2, 9])
def test_nobody_goes_solo_by_an_old_copy_of_the_folder_but_by_the_right_one(
    pair: Pair, tmp_path: Path, generations: int
) -> None:
    folder = lose_the_newest_record(pair, tmp_path, generations=generations)
    pair.run(100)
    pair.kill(pair.b)
    pair.run(1_000)
    is_released_before = releases(pair, pair.a)

    folder.restore("right")

    assert not is_released_before
    assert releases(pair, pair.a)
    assert pair.a.role is Role.ACTIVE
