import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.recordtext import RECORD_BYTES_MAX, decode_record, encode_record
from ftvm.errors import ArbiterError, ConfigError, NotApplied
from ftvm.interfaces import Record

FIRST = Record(1, "x", None)
SECOND = Record(2, "x", "y")


class Crash(BaseException):
    """The process dies here: nothing that comes after it in the code runs."""


def published(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


def aside(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.startswith("."))


def fail(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException, *, after: bool = False) -> None:
    """Make one system call fail, or succeed and fail to tell."""
    real: Callable[..., Any] = getattr(os, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if after:
            real(*args, **kwargs)
        raise error

    monkeypatch.setattr(os, name, failing)


def test_records_survive_the_handle_that_wrote_them(tmp_path: Path) -> None:
    FileRecordStore(tmp_path).compare_and_set("vm", FIRST)
    FileRecordStore(tmp_path).compare_and_set("vm", SECOND)

    assert FileRecordStore(tmp_path).read("vm") == SECOND
    assert published(tmp_path) == ["vm.00000000000000000001", "vm.00000000000000000002"]
    assert aside(tmp_path) == []


def test_lost_answer_of_link_is_a_win_when_the_record_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileRecordStore(tmp_path)
    fail(monkeypatch, "link", FileExistsError(errno.EEXIST, "File exists"), after=True)

    assert store.compare_and_set("vm", FIRST) == FIRST


def test_late_proposal_never_replaces_its_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = FileRecordStore(tmp_path)
    others = FileRecordStore(tmp_path)
    real_link = os.link

    def paused_link(*args: Any) -> None:
        monkeypatch.setattr(os, "link", real_link)
        for generation in range(1, 100):
            others.compare_and_set("vm", Record(generation, "y", None))
        real_link(*args)

    monkeypatch.setattr(os, "link", paused_link)

    assert late.compare_and_set("vm", FIRST) == Record(99, "y", None)
    assert FileRecordStore(tmp_path).read("vm") == Record(99, "y", None)
    assert aside(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "fsync", "link"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_at_a_system_call_leaves_a_valid_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    with monkeypatch.context() as dying:
        fail(dying, "unlink", Crash())  # the dead clean up nothing
        fail(dying, call, Crash(), after=after)
        with pytest.raises(Crash):
            store.compare_and_set("vm", SECOND)

    survivor = FileRecordStore(tmp_path)
    found = survivor.read("vm")
    in_force = survivor.compare_and_set("vm", Record(found.generation + 1, "z", None))

    assert found in (FIRST, SECOND)
    assert in_force == Record(found.generation + 1, "z", None)
    assert aside(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "fsync", "link"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free some space (a running host tries again by itself)"),
        (errno.EROFS, "read-only: remount it"),
        (errno.EACCES, "let this user read, write and search it"),
        (errno.EIO, "check the storage, then try again (a running host does so by itself)"),
    ],
)
def test_storage_error_names_the_directory_and_the_remedy_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, remedy: str
) -> None:
    store = FileRecordStore(tmp_path)
    with monkeypatch.context() as failing:
        fail(failing, call, OSError(number, os.strerror(number)))
        with pytest.raises(ArbiterError) as caught:
            store.compare_and_set("vm", FIRST)

    assert str(tmp_path) in str(caught.value)
    assert remedy in str(caught.value)
    assert aside(tmp_path) == []
    assert store.compare_and_set("vm", FIRST) == FIRST


@pytest.mark.parametrize("call", ["open", "fsync", "stat"])
def test_full_disk_before_the_decision_is_told_as_certainly_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    with monkeypatch.context() as failing:
        fail(failing, call, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(NotApplied, match="the disk is full"):
            store.compare_and_set("vm", SECOND)

    assert aside(tmp_path) == []
    assert FileRecordStore(tmp_path).read("vm") == FIRST


@pytest.mark.parametrize("is_linked", [False, True])
def test_error_of_the_link_itself_or_after_it_leaves_a_proposal_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_linked: bool
) -> None:
    store = FileRecordStore(tmp_path)
    fail(monkeypatch, "link", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), after=is_linked)

    with pytest.raises(ArbiterError) as caught:
        store.compare_and_set("vm", FIRST)

    assert not isinstance(caught.value, NotApplied)


def test_record_that_cannot_be_read_back_leaves_its_proposal_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileRecordStore(tmp_path)
    real_link = os.link

    def last_call(*args: Any) -> None:
        real_link(*args)
        fail(monkeypatch, "stat", OSError(errno.EIO, "I/O error"))

    monkeypatch.setattr(os, "link", last_call)

    with pytest.raises(ArbiterError) as caught:
        store.compare_and_set("vm", FIRST)

    assert not isinstance(caught.value, NotApplied)


def test_file_system_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "link", OSError(errno.EPERM, "Operation not permitted"))

    with pytest.raises(ArbiterError, match="must allow hard links: use ext4, xfs, btrfs or NFS"):
        FileRecordStore(tmp_path).compare_and_set("vm", FIRST)


def test_missing_directory_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(ArbiterError, match=r"No such file or directory; make it .* or mount the storage"):
        FileRecordStore(tmp_path / "unmounted")

    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ArbiterError, match="name a directory"):
        FileRecordStore(tmp_path / "file")


def test_store_that_went_backwards_is_refused_until_it_is_back(tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    store.compare_and_set("vm", SECOND)
    newest = tmp_path / "vm.00000000000000000002"
    newest.rename(tmp_path / "hidden")

    with pytest.raises(ArbiterError, match="was there and is gone: the arbiter has forgotten"):
        store.read("vm")
    with pytest.raises(ArbiterError):
        store.compare_and_set("vm", Record(2, "evil", None))
    (tmp_path / "hidden").rename(newest)

    assert store.read("vm") == SECOND


def make_again(folder: Path, generations: int) -> None:
    """Restore a folder from before its first record, and have another pair go on with it."""
    for path in folder.iterdir():
        path.unlink()
    for generation in range(1, generations + 1):
        FileRecordStore(folder).compare_and_set("vm", Record(generation, "other", None))


@pytest.mark.parametrize("generations", [2, 3, 9])
def test_store_that_was_restored_and_moved_on_is_refused_and_deposes_nobody(tmp_path: Path, generations: int) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    store.compare_and_set("vm", SECOND)
    make_again(tmp_path, generations)

    for _ in range(2):
        with pytest.raises(
            ArbiterError, match=r"generation 2 of vm holds another record .*: the arbiter has forgotten"
        ):
            store.read("vm")
    with pytest.raises(NotApplied, match="gone another way"):
        store.compare_and_set("vm", Record(3, "x", None))
    assert FileRecordStore(tmp_path).read("vm") == Record(generations, "other", None)


def test_store_goes_on_when_the_right_folder_is_back_whatever_the_wrong_one_held(tmp_path: Path) -> None:
    """It once missed the later generations of the wrong one for ever."""
    (tmp_path / "here").mkdir()
    store = FileRecordStore(tmp_path / "here")
    store.compare_and_set("vm", FIRST)
    store.compare_and_set("vm", SECOND)
    shutil.copytree(tmp_path / "here", tmp_path / "right")
    make_again(tmp_path / "here", 9)
    with pytest.raises(ArbiterError, match="gone another way"):
        store.read("vm")

    shutil.rmtree(tmp_path / "here")
    (tmp_path / "right").rename(tmp_path / "here")

    assert store.read("vm") == SECOND
    assert store.compare_and_set("vm", Record(3, "y", None)) == Record(3, "y", None)


def test_store_whose_older_generations_were_removed_is_refused(tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    FileRecordStore(tmp_path).compare_and_set("vm", SECOND)
    (tmp_path / "vm.00000000000000000001").unlink()

    with pytest.raises(ArbiterError, match="generation 1 of vm was there and is gone"):
        store.read("vm")


@pytest.mark.parametrize(
    ("folder", "record"), [(0o755, 0o644), (0o750, 0o640), (0o2770, 0o640), (0o700, 0o600), (0o1777, 0o644)]
)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_who_may_list_the_folder_may_read_its_records_whatever_the_umask(
    tmp_path: Path, umask: int, folder: int, record: int
) -> None:
    tmp_path.chmod(folder)
    before = os.umask(umask)
    try:
        FileRecordStore(tmp_path).compare_and_set("vm", FIRST)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "vm.00000000000000000001").stat().st_mode) == record


def test_a_share_that_keeps_no_rights_of_files_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    fail(monkeypatch, "fchmod", PermissionError(errno.EPERM, "Operation not permitted"))

    assert FileRecordStore(tmp_path).compare_and_set("vm", FIRST) == FIRST


def test_a_generation_that_could_not_be_read_must_not_be_gone_later(tmp_path: Path) -> None:
    """Who could read it may act on it."""
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", FIRST)
    newest = tmp_path / "vm.00000000000000000002"
    newest.write_bytes(b"torn")
    with pytest.raises(ArbiterError, match="cannot be trusted"):
        store.read("vm")

    newest.unlink()

    with pytest.raises(ArbiterError, match="generation 2 of vm was there and is gone"):
        store.read("vm")


@given(st.integers(0, 2**32), st.integers(1, 255))
def test_damaged_record_is_refused_wherever_the_damage_is(where: int, change: int) -> None:
    content = bytearray(encode_record("vm", SECOND))
    content[where % len(content)] ^= change

    with pytest.raises(ArbiterError):
        decode_record(bytes(content), guest_id="vm", generation=2)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_a_record(content: bytes) -> None:
    with pytest.raises(ArbiterError):
        decode_record(content, guest_id="vm", generation=2)


@given(st.text(min_size=1, max_size=256), st.text(max_size=256), st.none() | st.text(max_size=256))
def test_any_record_is_read_as_it_was_written(guest_id: str, active: str, standby: str | None) -> None:
    record = Record(2**63 - 1, active, standby)

    content = encode_record(guest_id, record)

    assert len(content) <= RECORD_BYTES_MAX
    assert decode_record(content, guest_id=guest_id, generation=2**63 - 1) == record


@pytest.mark.parametrize("damage", [b"", b"torn", b"\0" * 100, b"x" * (RECORD_BYTES_MAX + 5)])
def test_unreadable_record_stops_reads_and_proposals(tmp_path: Path, damage: bytes) -> None:
    FileRecordStore(tmp_path).compare_and_set("vm", FIRST)
    (tmp_path / "vm.00000000000000000001").write_bytes(damage)
    store = FileRecordStore(tmp_path)

    with pytest.raises(ArbiterError, match=r"vm\.00000000000000000001 cannot be trusted"):
        store.read("vm")
    with pytest.raises(ArbiterError, match="ftvm does not guess"):
        store.compare_and_set("vm", SECOND)


@pytest.mark.parametrize("guest_id", ["../escape", "a/b", ".", "a.b", "vm 1", "größe", "%2e", "\ud800", "x" * 180])
def test_any_guest_id_names_files_of_its_own_within_the_directory(tmp_path: Path, guest_id: str) -> None:
    (tmp_path / "store").mkdir()
    store = FileRecordStore(tmp_path / "store")

    store.compare_and_set(guest_id, FIRST)

    assert store.read(guest_id) == FIRST
    assert len(published(tmp_path / "store")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("guest_id", ["", "x" * 300, "\U0001f600" * 100])
def test_guest_id_that_cannot_name_a_file_is_a_config_error(tmp_path: Path, guest_id: str) -> None:
    with pytest.raises(ConfigError):
        FileRecordStore(tmp_path).read(guest_id)


def test_foreign_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    for name in ("README", "vm.1", "vm.x", ".vm.00000000000000000001.nothex.aside", "vm2.00000000000000000009"):
        (tmp_path / name).write_text("foreign")
    store = FileRecordStore(tmp_path)

    assert store.read("vm") == Record(0, None, None)
    assert store.compare_and_set("vm", FIRST) == FIRST
    assert sum(path.read_text() == "foreign" for path in tmp_path.iterdir()) == 5


def trace_durability(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record, in order, what is linked and what is fsynced."""
    trace: list[str] = []
    real_link, real_fsync = os.link, os.fsync

    def link(*args: Any) -> None:
        real_link(*args)
        trace.append("link")

    def fsync(fd: int) -> None:
        real_fsync(fd)
        trace.append("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "fsync", fsync)
    return trace


def test_record_is_durable_before_it_is_published_and_its_name_before_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileRecordStore(tmp_path)
    store.read("vm")
    trace = trace_durability(monkeypatch)

    store.compare_and_set("vm", FIRST)

    assert trace == ["fsync file", "link", "fsync directory"]


def test_reader_makes_durable_what_a_writer_may_have_died_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileRecordStore(tmp_path).compare_and_set("vm", FIRST)
    reader = FileRecordStore(tmp_path)
    trace = trace_durability(monkeypatch)

    reader.read("vm")
    reader.read("vm")

    assert trace == ["fsync directory"]


def test_only_files_aside_of_decided_generations_are_swept(tmp_path: Path) -> None:
    for generation in (1, 2, 3):
        (tmp_path / f".vm.{generation:020d}.0123456789abcdef.aside").write_text("somebody is writing")
    store = FileRecordStore(tmp_path)

    store.compare_and_set("vm", FIRST)
    after_first = aside(tmp_path)
    store.compare_and_set("vm", SECOND)

    assert [name[4:24] for name in after_first] == [f"{generation:020d}" for generation in (2, 3)]
    assert [name[4:24] for name in aside(tmp_path)] == [f"{3:020d}"]


# --- fail each system call in turn, until a run meets no fault (as SQLite tests itself) -------------------------------

CALLS = ("open", "fsync", "link", "unlink", "listdir", "stat", "close")


class Faults:
    """Makes the Nth system call fail, once or from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, *, is_lasting: bool) -> None:
        self.at, self.error, self.is_lasting = at, error, is_lasting
        self.count = 0
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at or (self.is_lasting and self.count > self.at):
                raise self.error
            return real(*args, **kwargs)

        return call

    @property
    def were_met(self) -> bool:
        return self.count >= self.at


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), Crash()], ids=["error", "crash"])
def test_fault_at_any_system_call_is_named_and_loses_nothing(
    tmp_path: Path, is_lasting: bool, error: BaseException
) -> None:
    for at in range(1, 100):
        path = tmp_path / str(at)
        path.mkdir()
        FileRecordStore(path).compare_and_set("vm", FIRST)
        told = None
        with pytest.MonkeyPatch.context() as monkeypatch:
            faults = Faults(monkeypatch, at, error, is_lasting=is_lasting)
            try:
                told = FileRecordStore(path).compare_and_set("vm", SECOND)
            except (ArbiterError, Crash):
                told = None
        found = FileRecordStore(path).read("vm")
        again = FileRecordStore(path).compare_and_set("vm", SECOND)

        assert found in (FIRST, SECOND)
        assert told in (None, found)
        assert again == SECOND
        if not faults.were_met:
            break
    else:
        pytest.fail("a run without a fault was never reached")
