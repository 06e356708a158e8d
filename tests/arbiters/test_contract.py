from functools import partial
from pathlib import Path

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.testing.arbiter import check_arbiter


def test_memory_store_keeps_the_contract() -> None:
    check_arbiter(MemoryRecordStore().another)


def test_file_store_keeps_the_contract_under_threads(tmp_path: Path) -> None:
    check_arbiter(partial(FileRecordStore, tmp_path))


def test_file_store_keeps_the_contract_under_processes_that_are_killed(tmp_path: Path) -> None:
    check_arbiter(partial(FileRecordStore, tmp_path), writers="processes", generations=80)
