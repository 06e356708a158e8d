"""Plain English: the turns of phrase that readers stumbled over stay out of code, documents, examples and tests."""

import re
from pathlib import Path
from typing import Final

import ftvm

ROOT: Final = Path(ftvm.__file__).parents[1]

STUMBLES: Final = re.compile(
    r"\b(is|are) none\b|\banew\b|came to nothing|Take note that|bear with|\bof (its|their|your|our) own\b"
)

LOOKED_AT: Final = ("README.md", "CHANGELOG.md", "ftvm", "docs", "examples", "tests", "bench", ".ci")
SUFFIXES: Final = frozenset({"", ".py", ".md", ".c", ".h", ".S", ".ld", ".tla", ".toml", ".sh", ".service", ".txt"})

_LINE_BREAK: Final = re.compile(r"\s*\n\s*(?:#|//|\*(?!/))?\s*")
"""With what opens a comment's next line: a phrase is one although its lines are broken."""


def texts() -> dict[str, str]:
    """Return the texts that people wrote, by path; evidence is what a program printed."""
    found: dict[str, str] = {}
    for place in LOOKED_AT:
        top = ROOT / place
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            name = path.relative_to(ROOT).as_posix()
            is_written = path.is_file() and path.suffix in SUFFIXES and path != Path(__file__)
            if is_written and not {"__pycache__", "evidence", "build"} & set(path.parts):
                found[name] = path.read_text(encoding="utf-8", errors="ignore")
    return found


def test_the_phrases_that_readers_stumbled_over_are_gone() -> None:
    found = {
        name: [match[0] for match in STUMBLES.finditer(_LINE_BREAK.sub(" ", text))] for name, text in texts().items()
    }

    assert "ftvm/errors.py" in found
    assert {name: phrases for name, phrases in found.items() if phrases} == {}


def test_a_phrase_is_found_across_a_line_break_of_a_comment() -> None:
    text = "/* The table is\n * none of it\n # Take\n # note that\n"

    assert [match[0] for match in STUMBLES.finditer(_LINE_BREAK.sub(" ", text))] == ["is none", "Take note that"]
