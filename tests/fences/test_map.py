"""tests/README.md names what exists, and leaves out no mutant and no break of the model."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from ftvm.sim.mutants import MUTANTS

from ..model.test_model import BREAKS, WITNESSES

TESTS: Final = Path(__file__).parents[1]
TEXT: Final = (TESTS / "README.md").read_text(encoding="utf-8")
RULES: Final = TEXT.partition("## What holds each safety rule")[2].split("\n### ")[1:]


@cache
def functions_of(file: str) -> frozenset[str]:
    path = TESTS / file
    if not path.exists():
        return frozenset()
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef))


def named(kind: str) -> set[str]:
    """Return what stands in the lines of a kind: tests and mutants in backticks, breaks of the model in quotes."""
    pattern = r'"([^"]+)"' if kind == "model" else r"`([^`]+)`"
    parts = [re.search(rf"^\* {kind}: (.*?)(?=^\* |^$|\Z)", rule, re.DOTALL | re.MULTILINE) for rule in RULES]
    return {" ".join(name.split()) for part in parts if part for name in re.findall(pattern, part[1])}


def test_every_rule_says_which_tests_mutants_and_breaks_hold_it() -> None:
    kinds = [re.findall(r"^\* (\w+): ", rule, re.MULTILINE) for rule in RULES]

    assert kinds
    assert [
        rule.partition("\n")[0] for rule, of in zip(RULES, kinds, strict=True) if of != ["tests", "mutants", "model"]
    ] == []


def test_every_test_that_is_named_exists() -> None:
    names = named("tests")
    unknown = {name for name in names if name.partition("::")[2] not in functions_of(name.partition("::")[0])}

    assert names
    assert unknown == set(), "renamed or gone: say in tests/README.md what holds the rule now"


def test_no_mutant_is_left_out_and_none_is_made_up() -> None:
    names = {name for name in named("mutants") if "/" not in name}

    assert MUTANTS.keys() - names == set(), "say in tests/README.md which rule each of these mutants breaks"
    assert names - MUTANTS.keys() == set(), "there are no such mutants: mend tests/README.md"


def test_no_break_of_the_model_is_left_out_and_none_is_made_up() -> None:
    names = named("model")

    assert BREAKS.keys() - names == set(), "say in tests/README.md which rule each of these breaks of the model breaks"
    assert names - BREAKS.keys() == set(), "the model has no such breaks: mend tests/README.md"


def test_witnesses_that_are_named_exist() -> None:
    assert set(re.findall(r"`(No[A-Z]\w+)`", TEXT)) <= set(WITNESSES)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+[\w.]+)`", TEXT))))
def test_every_file_and_folder_that_is_named_exists(path: str) -> None:
    assert any((root / path).exists() for root in (TESTS, TESTS.parent)), f"tests/README.md names {path}"
