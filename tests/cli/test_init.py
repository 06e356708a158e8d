"""`ftvm init`: an operator's word, asked for before it is given."""

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.arbiters.file import FileRecordStore
from ftvm.cli.init import init
from ftvm.interfaces import Record

from .conftest import Run


def record_of(path: Path, guest_id: str = "guest") -> Record:
    store = FileRecordStore(path)
    try:
        return store.read(guest_id)
    finally:
        store.close()


def test_init_leaves_a_vacant_record_for_the_next_primary(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--yes")

    assert outcome.status == 0
    assert "generation 1, vacant" in outcome.out
    assert record_of(tmp_path) == Record(1, None, None)


def test_a_first_record_takes_nothing_from_anybody_and_is_not_asked_about(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}")

    assert (outcome.status, outcome.err) == (0, "")
    assert record_of(tmp_path) == Record(1, None, None)


def test_a_guest_that_no_host_could_be_of_gets_no_record(ftvm: Run, tmp_path: Path) -> None:
    """Regression: a record was made under a name that is too long for every other command."""
    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--guest", "g" * 65)

    assert outcome.status == 2
    assert "has 65 characters, not 1 to 64" in outcome.err


@pytest.mark.parametrize("name", ["../x", "a b", "a/c", ".hidden", "-x", "a\nb", "vm1%"])
def test_a_guest_id_that_is_a_path_or_holds_blanks_is_refused_with_what_is_allowed(
    ftvm: Run, tmp_path: Path, name: str
) -> None:
    """Regression: it was recorded, and no unit, file or shell could name it plainly."""
    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", f"--guest={name}")

    assert outcome.status == 2
    assert "write letters, digits, dots, dashes and underscores" in outcome.err
    assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_force_asks_and_a_no_changes_nothing(tmp_path: Path) -> None:
    CliRunner().invoke(init, ["--arbiter", f"file://{tmp_path}"])

    result = CliRunner().invoke(init, ["--arbiter", f"file://{tmp_path}", "--force"], input="n\n")

    assert result.exit_code == 1
    assert "About to vacate the record of guest 'guest'" in result.output
    assert record_of(tmp_path).generation == 1


def test_force_that_nobody_can_answer_names_the_option_that_needs_no_answer(
    ftvm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ftvm("init", "--arbiter", f"file://{tmp_path}")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--force")

    assert outcome.status == 2
    assert "no answer, so nothing was done: add --yes" in outcome.err
    assert record_of(tmp_path).generation == 1


def test_init_does_not_touch_a_record_that_exists(ftvm: Run, tmp_path: Path) -> None:
    ftvm("init", "--arbiter", f"file://{tmp_path}", "--yes")

    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--yes")

    assert outcome.status == 2
    assert "add --force only if every host of the guest is dead" in outcome.err
    assert "has a record already (generation 1, which is vacant)" in outcome.err
    assert record_of(tmp_path).generation == 1


def test_force_vacates_a_record_and_says_whose_it_was(ftvm: Run, tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("vm", Record(1, "x", None))
    store.close()

    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--guest", "vm", "--force", "--yes", "--json")

    assert outcome.status == 0
    assert json.loads(outcome.out) == {"guest": "vm", "generation": 2, "was_active": "x"}
    assert record_of(tmp_path, "vm") == Record(2, None, None)


@pytest.mark.parametrize("answer", ["y\n"])
def test_force_tells_what_it_replaces_before_it_asks(tmp_path: Path, answer: str) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("guest", Record(1, "x", None))
    store.close()

    result = CliRunner().invoke(init, ["--arbiter", f"file://{tmp_path}", "--force"], input=answer)

    assert "which has generation 1, active x, standby none" in result.output
    assert record_of(tmp_path).generation == 2
