"""Each name of ftvm that the documents tell a user to use can be imported from where they say."""

import re
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

import ftvm

ROOT: Final = Path(ftvm.__file__).parents[1]
INSIDE: Final = ("docs/waist.md", "docs/wire.md")
"""Documents about what is inside: what they name, nobody imports to use ftvm."""

DOCUMENTS: Final = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]

SUBPACKAGES: Final = ("ftvm.testing", "ftvm.guests.qemu")
"""What the documents may send a user to beside `ftvm` itself."""

CLASS: Final = re.compile(r"`([A-Z][a-z]+\w*)(?:\([^`]*\))?`")
DOTTED: Final = re.compile(r"\bftvm(?:\.[a-z]\w*)*\.[A-Za-z]\w*\b(?!/)")


def _is_public(name: str) -> bool:
    homes = ("ftvm", *SUBPACKAGES)
    return any(name in import_module(home).__all__ for home in homes)


def _resolves(dotted: str) -> bool:
    home, _, name = dotted.rpartition(".")
    if home == "ftvm" or home in SUBPACKAGES:
        return dotted in SUBPACKAGES or name in import_module(home).__all__
    return True


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each not in INSIDE])
def test_each_class_named_in_a_document_is_public(document: str) -> None:
    text = (ROOT / document).read_text()

    assert sorted(name for name in set(CLASS.findall(text)) if not _is_public(name)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_dotted_name_in_a_document_can_be_imported(document: str) -> None:
    text = (ROOT / document).read_text()

    assert sorted(dotted for dotted in set(DOTTED.findall(text)) if not _resolves(dotted)) == []
