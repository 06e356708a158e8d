"""An extension of griffe: the aligned lists in our docstrings become lists of Markdown.

    keys     CURVE keys; needed for every endpoint that is not
             loopback or ipc
    engine   when to take checkpoints

is read as a list of two entries. A paragraph is such a list if each of its lines begins with a name and at least two
spaces, or goes on an entry by being indented further; one entry alone counts, too.
"""

import inspect
import re
from typing import Any, Final

from griffe import Extension, Object

_ENTRY: Final = re.compile(r"(?P<name>\*{0,2}[a-z_][\w.]*(?:, [a-z_]\w*)*) {2,}(?P<text>\S.*)")
_GOES_ON: Final = re.compile(r" {2,}(?P<text>\S.*)")


def as_markdown(docstring: str) -> str:
    """Return a docstring with its aligned lists as lists of Markdown."""
    paragraphs = re.split(r"\n[ \t]*\n", inspect.cleandoc(docstring))
    return "\n\n".join(_as_list(paragraph) or paragraph for paragraph in paragraphs)


def _as_list(paragraph: str) -> str:
    """Return the list that a paragraph is; empty if it is not one of ours."""
    entries: list[str] = []
    for line in paragraph.splitlines():
        if begins := _ENTRY.fullmatch(line):
            entries.append(f"* `{begins['name']}`: {begins['text']}")
        elif (goes_on := _GOES_ON.fullmatch(line)) and entries:
            entries[-1] += f" {goes_on['text']}"
        else:
            return ""
    return "\n".join(entries)


class AlignedLists(Extension):
    """Read the aligned lists of every docstring."""

    def on_object(self, *, obj: Object, **_of_griffe: Any) -> None:
        """Change one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
