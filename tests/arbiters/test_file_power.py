"""A power cut at any step leaves the record that was answered as in force, or a later one: whole, or named as torn."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ftvm.arbiters import file as file_arbiter
from ftvm.arbiters.file import FileRecordStore
from ftvm.errors import ArbiterError
from ftvm.interfaces import Record
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts

RECORDS = [Record(0, None, None), Record(1, "x", None), Record(2, "x", "y" * 256), Record(3, "y", None)]


class Died(BaseException):
    """The process dies here."""


def changes(folder: Path, cuts: PowerCuts) -> None:
    """One host makes three changes."""
    store = FileRecordStore(folder)
    for record in RECORDS[1:]:
        cuts.mark(store.compare_and_set("vm", record).generation)


def a_reader_of_a_writer_who_died(folder: Path, cuts: PowerCuts) -> None:
    """The writer dies when its record has a name that is not durable; another host reads it, and acts on it."""
    writer, reader = FileRecordStore(folder), FileRecordStore(folder)
    writer.compare_and_set("vm", RECORDS[1])
    cuts.mark(reader.read("vm").generation)
    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(file_arbiter, "_fsync_directory", die)
        with pytest.raises(Died):
            writer.compare_and_set("vm", RECORDS[2])
    cuts.mark(reader.read("vm").generation)


def die(_: Path) -> None:
    raise Died


def record(play: Callable[[Path, PowerCuts], None], folder: Path) -> PowerCuts:
    cuts = PowerCuts(folder)
    with cuts.recorded():
        play(folder, cuts)
    return cuts


def promised_in(marks: tuple[object, ...]) -> int:
    return max((mark for mark in marks if isinstance(mark, int)), default=0)


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    found = FileRecordStore(folder).read("vm")

    assert found == RECORDS[found.generation]
    assert found.generation >= promised_in(marks)
    following = Record(found.generation + 1, "z", None)
    assert FileRecordStore(folder).compare_and_set("vm", following) == following


STORIES = [changes, a_reader_of_a_writer_who_died]


@pytest.mark.parametrize("play", STORIES)
def test_a_record_that_was_answered_as_in_force_survives_every_cut(
    tmp_path: Path, play: Callable[[Path, PowerCuts], None]
) -> None:
    cuts = record(play, tmp_path)

    assert cuts.check(recover) > 20


def edit(function: str, old: str, new: str = "pass") -> Edit:
    return Edit(f"ftvm.arbiters.file:{function}", old, new)


SYNC = "_fsync_directory(self._path)"
LINK = "os.link(aside, self._file(guest, generation))"

MUTANTS: dict[str, tuple[Callable[[Path, PowerCuts], None], tuple[Edit, ...]]] = {
    "the record is not synced before it has a name": (changes, (edit("_write_aside", "os.fsync(fd)"),)),
    "the name is not synced before it is told": (changes, (edit("FileRecordStore._find_highest", SYNC),)),
    "the sync of the folder does nothing": (changes, (edit("_fsync_directory", "os.fsync(fd)"),)),
    "who reads relies on the sync of who wrote": (
        a_reader_of_a_writer_who_died,
        (
            edit("FileRecordStore._find_highest", SYNC),
            edit("FileRecordStore._publish", LINK, f"(_ := {LINK}, {SYNC})"),
        ),
    ),
    "a record is written under its own name": (
        changes,
        (
            edit(
                "FileRecordStore._publish",
                "_write_aside(aside, content)",
                "_write_aside(self._file(guest, generation), content)",
            ),
            edit("FileRecordStore._publish", LINK),
        ),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_store_is_found(tmp_path: Path, name: str) -> None:
    play, edits = MUTANTS[name]

    with broken(Mutant(name=name, breaks=name, edits=edits)):
        cuts = record(play, tmp_path)

    with pytest.raises(ContractBroken, match="a power cut at any step"):
        cuts.check(recover)


def test_a_record_that_a_cut_tore_is_named_and_never_taken_for_another(tmp_path: Path) -> None:
    edits = (edit("_write_aside", "os.fsync(fd)"),)
    with broken(Mutant(name="torn", breaks="records are torn", edits=edits)):
        cuts = record(changes, tmp_path)
    refused = []

    def look(folder: Path, _: tuple[object, ...]) -> None:
        try:
            found = FileRecordStore(folder).read("vm")
        except ArbiterError as error:
            refused.append(str(error))
        else:
            assert found == RECORDS[found.generation]

    cuts.check(look, draws=500)

    assert refused
    assert all("cannot be trusted" in reason and "ftvm does not guess" in reason for reason in refused)
