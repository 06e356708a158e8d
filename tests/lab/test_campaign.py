"""A campaign's result is the same whatever number of processes plays it, a mutant's too."""

import pytest

from ftvm.lab.campaign import hunt
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import Change, Mutant


def test_a_mutant_is_hunted_alike_in_one_process_and_in_several() -> None:
    """Found: a worker had undone its mutant before it played the first seed."""
    alone = hunt("put_blindly", range(16), jobs=1)

    several = hunt("put_blindly", range(16), jobs=2)

    assert alone.found
    assert [(one.seed, one.invariant) for one in several.found] == [(one.seed, one.invariant) for one in alone.found]


@pytest.mark.parametrize("new", ["active.core.no_such_name", "active.core(1)"])
def test_a_mutant_that_is_written_wrong_is_not_found(monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    """Found: the AttributeError of a mutant with names of yesterday counted as a violation."""
    miswritten = Mutant(name="miswritten", breaks="nothing", edits=(Change("deposed_active_ends", "", new),))
    monkeypatch.setitem(MUTANTS, "miswritten", miswritten)

    result = hunt("miswritten", range(4))

    assert (result.tried, result.found) == (4, ())
