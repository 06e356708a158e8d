"""A mutant breaks exactly the lines that it names, for everybody who runs them, and leaves nothing behind."""

import pytest

from ftvm.checkpoint import Watermarks
from ftvm.errors import ConfigError, InternalError
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import Edit, Mutant, mutate

WHERE = "ftvm.checkpoint:Watermarks.cover"


def plant(monkeypatch: pytest.MonkeyPatch, *edits: Edit) -> None:
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
    ],
    ids=["rewritten", "not unique", "no function"],
)
def test_a_mutant_that_no_longer_fits_its_line_says_so(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, edit)

    with pytest.raises(InternalError), mutate("planted"):
        pass


def test_an_unknown_mutant_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match="put_blindly"), mutate("nobody"):
        pass


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_fits_the_code_as_it_is(name: str) -> None:
    with mutate(name) as mutant:
        assert mutant.breaks
