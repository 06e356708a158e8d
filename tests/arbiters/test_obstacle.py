"""A look at a folder tells why no record could be written there, and leaves nothing behind."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.known import KnownRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.arbiters.obstacle import check_writable, obstacle_of

USER, ROOT = 1000, 0
ROOM = {"f_flag": 0, "f_blocks": 9, "f_bfree": 5, "f_bavail": 3, "f_files": 9, "f_ffree": 5, "f_favail": 3}


def look(monkeypatch: pytest.MonkeyPatch, *, user: int = USER, may_write: bool = True, **found: int) -> int | None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(**ROOM | found))
        patch.setattr(os, "access", lambda *_, **__: may_write)
        patch.setattr(os, "geteuid", lambda: user)
        try:
            check_writable(Path("/folder"))
        except OSError as wrong:
            return wrong.errno
    return None


def test_a_folder_with_room_and_rights_has_no_obstacle_and_stays_as_it_is(tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)

    assert obstacle_of(store) is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("found", "number"), [({"f_bavail": 0}, errno.ENOSPC), ({"f_favail": 0}, errno.ENOSPC)])
def test_what_is_reserved_is_room_for_root_alone(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, int], number: int
) -> None:
    assert look(monkeypatch, user=USER, **found) == number
    assert look(monkeypatch, user=ROOT, **found) is None


@pytest.mark.parametrize("found", [{"f_bavail": 0, "f_bfree": 0}, {"f_favail": 0, "f_ffree": 0}])
def test_a_disk_without_a_block_or_a_file_is_full_for_everyone(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, int]
) -> None:
    assert [look(monkeypatch, user=user, **found) for user in (USER, ROOT)] == [errno.ENOSPC] * 2


def test_a_file_system_that_does_not_count_is_not_taken_for_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, f_blocks=0, f_bavail=0, f_files=0, f_favail=0) is None


def test_a_read_only_file_system_and_missing_rights_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, f_flag=os.ST_RDONLY, may_write=False) == errno.EROFS
    assert look(monkeypatch, may_write=False) == errno.EACCES


def test_an_obstacle_names_the_folder_and_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    told = obstacle_of(store)

    assert told is not None
    assert f"arbiter directory {tmp_path} cannot be written: Permission denied; let this user read, write" in told


def test_a_folder_that_is_gone_is_an_obstacle_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    store = FileRecordStore(tmp_path / "shared")
    (tmp_path / "shared").rmdir()

    assert "make it" in (obstacle_of(store) or "")


def test_what_a_host_keeps_for_itself_must_be_writable_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = KnownRecordStore(MemoryRecordStore(), tmp_path)
    before = obstacle_of(store)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)

    assert before is None
    assert f"cannot be written in {tmp_path}" in (obstacle_of(store) or "")


def test_a_store_that_keeps_what_another_says_passes_its_obstacle_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("shared", "known"):
        (tmp_path / name).mkdir()
    store = KnownRecordStore(FileRecordStore(tmp_path / "shared"), tmp_path / "known")
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path != tmp_path / "shared")

    assert f"arbiter directory {tmp_path / 'shared'} cannot be written" in (obstacle_of(store) or "")


def test_a_store_that_cannot_tell_has_none() -> None:
    assert obstacle_of(MemoryRecordStore()) is None
