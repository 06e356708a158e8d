"""What docs/operations.md quotes of a host's messages is what a host says: a search for a line of the log finds it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import ftvm

from .test_specification import rows

SOURCES: Final = Path(ftvm.__file__).parent
PAGE: Final = SOURCES.parent / "docs" / "operations.md"
TABLES: Final = ("An alarm woke you", "What the log says", "When the record names no active host")
WORDS_MIN: Final = 3
"""Shorter pieces of a message say nothing: `failed:`, or a role and `here`."""


def quoted(heading: str) -> Iterator[str]:
    """Yield the pieces between what differs, of the messages in a table."""
    for message, *_ in rows(PAGE, heading):
        for piece in re.split(r"\b[A-Z]{2,}\b", message.strip("`")):
            words = piece.strip(" '():;")
            if len(words.split()) >= WORDS_MIN:
                yield words


def said() -> str:
    """Return all text in the code, a line for each piece without a gap to fill."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCES.rglob("*.py")))
    texts = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("heading", TABLES)
def test_every_message_of_the_runbook_is_one_that_a_host_says(heading: str) -> None:
    pieces, texts = list(quoted(heading)), said()

    assert pieces
    assert [piece for piece in pieces if piece not in texts] == []
