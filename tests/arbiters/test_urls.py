from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.urls import open_record_store
from ftvm.errors import ArbiterError, ConfigError
from ftvm.interfaces import Record


def test_file_url_opens_the_directory_it_names(tmp_path: Path) -> None:
    (tmp_path / "vm 1").mkdir()

    store = open_record_store(f"file://{tmp_path}/vm%201")

    assert isinstance(store, FileRecordStore)
    assert store.path == tmp_path / "vm 1"


def test_memory_url_opens_the_same_cells_for_everybody() -> None:
    one, other = open_record_store("memory:shared-by-test"), open_record_store("memory:shared-by-test")

    one.compare_and_set("vm", Record(1, "x", None))

    assert other.read("vm") == Record(1, "x", None)
    assert open_record_store("memory:another").read("vm").generation == 0


@pytest.mark.parametrize("url", ["", "file", "file:", "/shared/vm1", "http://h/x", "FILE", "zookeeper://h"])
def test_unknown_scheme_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ConfigError, match="write one of: file:///shared/vm1, etcd://HOST:PORT"):
        open_record_store(url)


@pytest.mark.parametrize("url", ["file://host/path", "file:relative", "file:///a?b", "file:///a#b"])
def test_file_url_of_another_host_or_without_a_whole_path_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write file:// and an absolute path"):
        open_record_store(url)


def test_file_url_of_a_missing_directory_is_an_arbiter_error(tmp_path: Path) -> None:
    with pytest.raises(ArbiterError, match="No such file or directory"):
        open_record_store(f"file://{tmp_path}/missing")
