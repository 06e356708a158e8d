"""A mutant breaks exactly the lines that it names, for everybody who runs them, and leaves nothing behind."""

import pytest

from ftvm.checkpoint import Watermarks
from ftvm.errors import ConfigError, InternalError
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import Change, Edit, Mutant, mutate

WHERE = "ftvm.checkpoint:Watermarks.cover"
MARK = "both_watermarks_covered"


def plant(monkeypatch: pytest.MonkeyPatch, *edits: Change | Edit) -> None:
    monkeypatch.setitem(MUTANTS, "planted", Mutant(name="planted", breaks="a test", edits=edits))


def test_a_mutant_breaks_what_others_imported_before_and_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Edit(WHERE, "self.epoch >= needed.epoch", "True"))
    behind, needed = Watermarks(1, 0), Watermarks(2, 0)

    with mutate("planted"):
        is_covered_inside = behind.cover(needed)

    assert is_covered_inside
    assert not behind.cover(needed)


def test_edits_of_one_function_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(
        monkeypatch,
        Edit(WHERE, "self.epoch >= needed.epoch", "True"),
        Edit(WHERE, "self.log_index >= needed.log_index", "True"),
    )

    with mutate("planted"):
        assert Watermarks(0, 0).cover(Watermarks(9, 9))


def test_changes_of_two_parts_of_a_marked_line_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Change(MARK, "and 1", "True"), Change(MARK, "and 2", "{left} + 9 >= {right}"))

    with mutate("planted"):
        assert Watermarks(0, 0).cover(Watermarks(9, 9))
        assert not Watermarks(0, 0).cover(Watermarks(9, 10))


def test_a_statement_may_get_others_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Change(MARK, "", "if self.epoch == 7:\n    return False\n{it}"))

    with mutate("planted"):
        assert not Watermarks(7, 0).cover(Watermarks(0, 0))
        assert Watermarks(8, 0).cover(Watermarks(0, 0))


def test_a_mutant_is_mended_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Edit(WHERE, "self.epoch >= needed.epoch", "True"))

    with pytest.raises(KeyError), mutate("planted"):
        raise KeyError

    assert not Watermarks(1, 0).cover(Watermarks(2, 0))


@pytest.mark.parametrize(
    "edit",
    [
        Edit(WHERE, "nothing of the sort", "True"),
        Edit(WHERE, "needed", "True"),
        Edit("ftvm.checkpoint:Watermarks", "epoch", "True"),
        Change("nowhere_at_all", "", "pass"),
        Change(MARK, "==", "True"),
        Change(MARK, ">=", "True"),
        Change(MARK, "value", "{left}"),
        Change(MARK, "value", "nobody.knows_this"),
    ],
    ids=["rewritten", "not unique", "no function", "no mark", "no part", "two parts", "no side", "no such name"],
)
def test_a_mutant_that_no_longer_fits_its_line_says_so(edit: Change | Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, edit)

    with pytest.raises(InternalError), mutate("planted"):
        pass


def test_two_changes_of_the_same_piece_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Change(MARK, "value", "True"), Change(MARK, "and 2", "True"))

    with pytest.raises(InternalError, match="overlap"), mutate("planted"):
        pass


def test_an_unknown_mutant_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="put_blindly"), mutate("nobody"):
        pass


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_fits_the_code_as_it_is(name: str) -> None:
    with mutate(name) as mutant:
        assert mutant.breaks
