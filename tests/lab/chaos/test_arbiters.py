import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ftvm.arbiters.urls import open_record_store
from ftvm.errors import ArbiterError, BrokenError
from ftvm.interfaces import Record
from ftvm.lab.chaos.arbiters import BreakableArbiter, EtcdArbiter, FileArbiter
from ftvm.lab.processes import Children
from ftvm.lab.stage import GUEST_ID

FIRST = Record(1, "x", None)
SECOND = Record(2, "x", "y")


@pytest.fixture(params=["file", "etcd"])
def arbiter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BreakableArbiter]:
    if request.param == "file":
        yield FileArbiter(tmp_path, has_disk=False)
        return
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed: apt-get install etcd-server")
    children = Children()
    yield EtcdArbiter(tmp_path, children, children.pump)
    children.end_now()
    children.close()


def propose(arbiter: BreakableArbiter, record: Record) -> Record:
    store = open_record_store(arbiter.url)
    try:
        return store.compare_and_set(GUEST_ID, record)
    finally:
        store.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_broken_arbiter_forgets_nothing_once_it_is_mended(arbiter: BreakableArbiter, seed: int) -> None:
    propose(arbiter, FIRST)

    arbiter.break_down(Random(seed))
    arbiter.mend()
    arbiter.mend()

    assert arbiter.record() == FIRST
    assert propose(arbiter, SECOND) == SECOND


@pytest.mark.parametrize("seed", range(4))
def test_a_host_that_knows_the_record_gets_no_other_answer_while_it_is_broken(tmp_path: Path, seed: int) -> None:
    arbiter = FileArbiter(tmp_path, has_disk=False)
    store = open_record_store(arbiter.url)
    store.compare_and_set(GUEST_ID, FIRST)

    arbiter.break_down(Random(seed))

    with pytest.raises(ArbiterError):
        store.compare_and_set(GUEST_ID, SECOND)
    arbiter.mend()
    assert store.compare_and_set(GUEST_ID, SECOND) == SECOND


def test_a_folder_keeps_every_record_there_ever_was(tmp_path: Path) -> None:
    arbiter = FileArbiter(tmp_path, has_disk=False)

    propose(arbiter, FIRST)
    propose(arbiter, SECOND)

    assert arbiter.all_records() == [FIRST, SECOND]


def test_what_a_host_wrote_into_the_empty_folder_is_found(tmp_path: Path) -> None:
    arbiter = FileArbiter(tmp_path, has_disk=False)
    seed = next(seed for seed in range(100) if Random(seed).choice(["gone", "empty"]) == "empty")
    arbiter.break_down(Random(seed))
    propose(arbiter, FIRST)

    with pytest.raises(BrokenError, match="took an empty folder for its arbiter"):
        arbiter.mend()
