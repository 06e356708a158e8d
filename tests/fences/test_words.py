"""One word, one class: a class name stands once in ftvm/, and what the field has a word for is not called otherwise."""

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

import ftvm

ROOT: Final = Path(ftvm.__file__).parent

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


def classes() -> dict[str, list[str]]:
    """Return where each class of ftvm/ is defined, by its name; classes within classes and functions are local."""
    found = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def test_a_class_name_means_one_thing() -> None:
    twice = {name: where for name, where in classes().items() if len(where) > 1}

    assert twice == {}, f"{twice}: give one of them another word"


def test_the_words_of_the_field_are_used() -> None:
    old = {name: GONE[name] for name in classes().keys() & GONE.keys()}

    assert old == {}, f"{old}: the field has a word for it"
