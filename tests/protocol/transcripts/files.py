"""Where the transcripts are kept, and how one that is kept differs from what happens."""

from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Final

from .scenarios import transcript

FOLDER: Final = Path(__file__).parent


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def difference(name: str) -> Iterator[str]:
    """Yield the lines of a diff from the transcript that is kept to what happens now; none if they are equal."""
    path = path_of(name)
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    return unified_diff(kept.splitlines(True), transcript(name).splitlines(True), f"{name}.txt", "what happens now")
