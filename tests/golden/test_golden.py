"""The bytes of every message and of all that is kept, as they were when their version was released.

A test here that fails says: two releases that both claim this version no longer understand each other. The change
needs its own version (ftvm/encode/versions.py); `python -m tests.golden --write` is for new messages, and for a
version that is not released.
"""

import struct
import sys
from types import ModuleType

import pytest

from ftvm import checkpoint
from ftvm.encode import wire
from ftvm.encode.headed import CODECS
from ftvm.encode.messages import Greeting
from ftvm.encode.versions import SPOKEN
from ftvm.guests.disk import journal
from ftvm.guests.qemu import devices

from .cases import WIRE
from .files import ALL, path_of, read_golden, shown, unshown

GOLDENS = [(name, case) for name, cases in ALL.items() for case in cases]
STABLE = [(name, case) for name, case in GOLDENS if ALL[name][case].is_stable]


@pytest.mark.parametrize(("name", "case"), STABLE)
def test_what_is_written_is_what_its_version_has_always_written(name: str, case: str) -> None:
    assert [shown(piece) for piece in ALL[name][case].write()] == [shown(piece) for piece in read_golden(name)[case]]


@pytest.mark.parametrize(("name", "case"), GOLDENS)
def test_what_an_older_release_wrote_is_read_as_what_it_meant(name: str, case: str) -> None:
    assert ALL[name][case].read(read_golden(name)[case]) == ALL[name][case].value


@pytest.mark.parametrize("name", ALL)
def test_a_golden_that_nobody_reads_is_not_kept(name: str) -> None:
    assert set(read_golden(name)) == set(ALL[name])


def test_every_kind_of_message_has_a_golden_in_every_version_that_is_spoken() -> None:
    types = {version: {type(case.value[1]) for case in cases.values()} for version, cases in WIRE.items()}

    assert types == {
        version: {Greeting, *(codec.type for codec in CODECS if codec.since <= version)} for version in WIRE
    }
    assert set(WIRE) == set(range(SPOKEN.lowest, SPOKEN.highest + 1))


def test_every_version_that_was_ever_spoken_has_kept_its_golden_bytes() -> None:
    assert all(path_of(f"wire-{version}").exists() for version in range(1, SPOKEN.highest + 1))


@pytest.mark.parametrize("content", [b"", b"\0" * 11, b"\0" * 12, b"a" * 40 + b"bc" + b"\0" * 5000 + b"\1"])
def test_bytes_come_back_from_how_they_are_shown(content: bytes) -> None:
    assert unshown(shown(content)) == content


@pytest.mark.parametrize(
    ("module", "table", "name", "case"),
    [
        (checkpoint, "OUTPUT_ROW", "wire-1", "epoch's end"),
        (wire, "_HEAD", "wire-2", "ack"),
        (wire, "_ACK", "wire-2", "ack"),
        (wire, "_LOG", "wire-2", "log"),
        (wire, "_PART", "wire-2", "epoch's pages"),
        (wire, "_BATCH", "wire-2", "epoch's pages"),
        (wire, "_END", "wire-2", "epoch's end"),
        (journal, "_HEAD", "stored-1", "image's journal"),
        (devices, "_PACKED_HEAD", "stored-1", "state of QEMU's devices"),
    ],
)
def test_a_table_whose_byte_order_changes_on_both_sides_is_noticed(
    module: ModuleType, table: str, name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ALL[name][case]
    told = getattr(module, table)
    turned = struct.Struct(told.format.replace("<", ">"))

    for each in tuple(sys.modules.values()):
        if vars(each).get(table) is told:  # also where it was imported
            monkeypatch.setattr(each, table, turned)

    assert how.read(how.write()) == how.value, "both sides agree: no round trip sees it"
    assert how.write() != read_golden(name)[case]
