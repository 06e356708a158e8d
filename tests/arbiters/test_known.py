"""A host with a place to keep what it knows of the record believes no arbiter that forgot, also after a restart."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.known import KnownRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.arbiters.urls import check_record_url, folder_of, open_record_store
from ftvm.errors import ArbiterError, ConfigError, NotApplied
from ftvm.interfaces import Record, RecordStore
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts
from ftvm.testing.arbiter import check_arbiter

RECORDS = [Record(0, None, None), Record(1, "x", None), Record(2, "x", "y"), Record(3, "y", None)]


def store_at(generation: int, *, active: str | None = None) -> MemoryRecordStore:
    """Return an arbiter that has come so far."""
    store = MemoryRecordStore()
    for record in RECORDS[1 : generation + 1]:
        store.compare_and_set("vm", record if active is None else Record(record.generation, active, None))
    return store


def open_known(store: RecordStore, folder: Path) -> KnownRecordStore:
    """Return what a host has after a start."""
    return KnownRecordStore(store, folder)


@pytest.mark.parametrize("share", [True, False], ids=["one folder for all hosts", "a folder each"])
def test_a_store_that_remembers_keeps_the_contract(tmp_path: Path, share: bool) -> None:
    cells, numbers = MemoryRecordStore(), count()

    def make() -> KnownRecordStore:
        folder = tmp_path / ("all" if share else str(next(numbers)))
        folder.mkdir(exist_ok=True)
        return KnownRecordStore(cells.another(), folder)

    check_arbiter(make)


@pytest.mark.parametrize("generation", [0, 1])
def test_an_arbiter_that_forgot_is_refused_after_a_restart(tmp_path: Path, generation: int) -> None:
    open_known(store_at(2), tmp_path).read("vm")

    restarted = open_known(store_at(generation), tmp_path)

    with pytest.raises(ArbiterError, match=rf"it says generation {generation} of vm.*\(generation 2, kept"):
        restarted.read("vm")


def test_an_empty_arbiter_is_given_no_first_record_by_a_host_that_knows_better(tmp_path: Path) -> None:
    """As `--create` would, where the wrong storage is mounted."""
    open_known(store_at(2), tmp_path).read("vm")
    empty = MemoryRecordStore()

    with pytest.raises(ArbiterError, match="the arbiter has forgotten"):
        open_known(empty, tmp_path).read("vm")

    assert empty.read("vm").generation == 0


def test_another_record_of_the_known_generation_is_refused(tmp_path: Path) -> None:
    open_known(store_at(2), tmp_path).read("vm")

    with pytest.raises(ArbiterError, match="the arbiter has forgotten"):
        open_known(store_at(2, active="other"), tmp_path).read("vm")


def test_the_remedy_of_the_message_works(tmp_path: Path) -> None:
    open_known(store_at(2), tmp_path).read("vm")
    restarted = open_known(store_at(1), tmp_path)
    with pytest.raises(ArbiterError) as caught:
        restarted.read("vm")

    Path(str(caught.value).rpartition("remove ")[2]).unlink()

    assert open_known(store_at(1), tmp_path).read("vm") == RECORDS[1]


def test_what_is_newer_is_believed_and_replaces_what_was_kept(tmp_path: Path) -> None:
    open_known(store_at(1), tmp_path).read("vm")

    assert open_known(store_at(3), tmp_path).read("vm") == RECORDS[3]
    assert [path.name for path in tmp_path.iterdir()] == ["vm.00000000000000000003"]


def test_guests_are_kept_apart(tmp_path: Path) -> None:
    store = store_at(2)
    open_known(store, tmp_path).read("vm")

    assert open_known(store, tmp_path).read("vm.1").generation == 0
    assert open_known(store, tmp_path).read("v").generation == 0


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_what_cannot_be_kept_is_named_and_not_told_and_may_be_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    known = open_known(store_at(1), tmp_path)
    known.read("vm")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(os, call, fail)
        with pytest.raises(ArbiterError, match=rf"cannot be written in {tmp_path}: Input/output error") as caught:
            known.compare_and_set("vm", RECORDS[2])

    assert not isinstance(caught.value, NotApplied)
    assert known.compare_and_set("vm", RECORDS[2]) == RECORDS[2]
    assert [path.name for path in tmp_path.iterdir()] == ["vm.00000000000000000002"]


def test_a_torn_file_is_named_and_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "vm.00000000000000000002").write_bytes(b"torn")

    with pytest.raises(ArbiterError, match=r"vm\.00000000000000000002 cannot be trusted"):
        open_known(store_at(3), tmp_path).read("vm")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArbiterError, match=r"cannot be read in .*nowhere: No such file or directory"):
        open_record_store(f"file://{tmp_path}?known={tmp_path}/nowhere")


# --- the URL ---------------------------------------------------------------------------------------------------------


def test_a_place_is_given_in_the_url_of_any_arbiter(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "what is known").mkdir()
    url = f"file://{tmp_path}/shared?known={tmp_path}/what%20is%20known"
    FileRecordStore(tmp_path / "shared").compare_and_set("vm", RECORDS[1])

    store = open_record_store(url)

    assert store.read("vm") == RECORDS[1]
    assert [path.name for path in (tmp_path / "what is known").iterdir()] == ["vm.00000000000000000001"]
    assert folder_of(url) == f"{tmp_path}/shared"
    check_record_url(url)
    check_record_url("etcd://h:1,i:2/prefix?known=/var/lib/ftvm")


@pytest.mark.parametrize("query", ["known=relative", "known=", "known=/a&known=/b"])
def test_a_place_that_is_no_one_absolute_path_is_refused(query: str) -> None:
    with pytest.raises(ConfigError, match="write known= once, and an absolute path"):
        open_record_store(f"file:///a?{query}")


# --- power cuts ------------------------------------------------------------------------------------------------------


def record_changes(folder: Path) -> PowerCuts:
    cuts, store = PowerCuts(folder), MemoryRecordStore()
    with cuts.recorded():
        known = open_known(store, folder)
        for record in RECORDS[1:]:
            cuts.mark(known.compare_and_set("vm", record).generation)
    return cuts


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    promised = max((mark for mark in marks if isinstance(mark, int)), default=0)
    kept = open_known(store_at(3), folder)._known_of("vm")
    assert kept == RECORDS[kept.generation]
    assert kept.generation >= promised
    for forgotten in range(promised):
        with pytest.raises(ArbiterError, match="the arbiter has forgotten"):
            open_known(store_at(forgotten), folder).read("vm")


def test_no_power_cut_makes_a_host_forget_what_it_was_told(tmp_path: Path) -> None:
    assert record_changes(tmp_path).check(recover) > 20


@pytest.mark.parametrize("call", ["os.fsync(file.fileno())", "self._sync_folder()"])
def test_a_mutant_that_keeps_less_is_found(tmp_path: Path, call: str) -> None:
    edit = Edit("ftvm.arbiters.known:KnownRecordStore._keep", call, "pass")
    with broken(Mutant(name=call, breaks=call, edits=(edit,))):
        cuts = record_changes(tmp_path)

    with pytest.raises(ContractBroken, match="a power cut at any step"):
        cuts.check(recover, draws=2_000)
