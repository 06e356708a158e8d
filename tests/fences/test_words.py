"""One word, one class: a class name stands once in ftvm/, and what the field has a word for is not called otherwise."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

import ftvm

ROOT: Final = Path(ftvm.__file__).parent

TO_GO: Final[set[str]] = set()
"""Names that still stand twice: debts, each to be paid by giving one of the two classes another word."""

GONE: Final = {
    "Bond": "ActiveState",
    "Holding": "StandbyState",
    "Desk": "ArbiterClient",
    "Hands": "Capturer",
    "Cutter": "Capturer",
    "Keeper": "GuestRunner",
    "Pace": "CheckpointSchedule",
    "Watch": "FailureDetector",
    "Patience": "Backoff",
    "Opening": "SessionOffer",
    "Attendant": "HostService",
    "Happening": "FaultKind",
    "Story": "TakeoverReport",
    "Recorder": "Transcript",
    "Verdict": "Judgement",
}
"""Words that this code once had for what the field calls otherwise."""

GONE_TO_GO: Final[set[str]] = set()
"""Those of them that are still there."""


def classes() -> dict[str, list[str]]:
    """Return where each class of ftvm/ is defined, by its name; classes within classes and functions are local."""
    found = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def test_a_class_name_means_one_thing() -> None:
    twice = {name: where for name, where in classes().items() if len(where) > 1 and name not in TO_GO}

    assert twice == {}, f"{twice}: give one of them another word"


def test_the_words_of_the_field_are_used() -> None:
    old = {name: GONE[name] for name in classes().keys() & GONE.keys() - GONE_TO_GO}

    assert old == {}, f"{old}: the field has a word for it"


def test_a_debt_that_is_paid_is_taken_off_the_list() -> None:
    found = classes()

    paid = {name for name in TO_GO if len(found[name]) < 2} | {name for name in GONE_TO_GO if name not in found}

    assert paid == set(), f"{sorted(paid)} are gone: take them out of TO_GO and GONE_TO_GO"
