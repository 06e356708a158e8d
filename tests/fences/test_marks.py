"""Each mark of a safety rule is on one line, and a mutant breaks that line."""

from ftvm.sim.marks import marks
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import Change


def test_each_mark_is_on_one_line() -> None:
    twice = {mark: places for mark, places in marks().items() if len(places) > 1}

    assert twice == {}, "name each line by its own mark, and break all that one mutant needs in mutants.py"


def test_each_marked_line_is_broken_by_a_mutant_and_the_other_way_round() -> None:
    broken = {edit.mark for mutant in MUTANTS.values() for edit in mutant.edits if isinstance(edit, Change)}

    assert marks().keys() - broken == set(), "no mutant breaks these lines: take the marks out, or write the mutants"
    assert broken - marks().keys() == set(), "these marks are gone: put `# rule: NAME` on the line that holds the rule"
