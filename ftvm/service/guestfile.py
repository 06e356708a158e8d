"""The guest file: one TOML file that describes a guest and one host of it; each key is a setting.

Reads the file and says where in it each key stands. cli/settings.py knows which keys there are and what their values
mean. `tomllib` gives no line numbers, and neither does tomlkit, the one maintained parser that keeps a file's layout.
So a key is found by reading the file statement by statement with the same parser: a statement ends with the first line
up to which it parses. That is exact for strings and lists over several lines, unlike a search.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError

__all__ = ["KINDS", "GuestFile", "read_guest_file", "unfit", "unknown"]

_FILE_BYTES_MAX: Final = 1 << 16
_NUMBER_MAX: Final = 1e18
"""No setting is near it. TOML has integers that no float can hold, infinity, and nan."""

KINDS: Final[dict[str, str]] = {
    "text": 'a string in quotes, e.g. "vm1"',
    "texts": 'a list of strings, e.g. ["vm1", "vm2"]',
    "one or more": 'a string in quotes, e.g. "a.img", or a list of them',
    "number": "a number",
    "flag": "true or false",
}
"""The kinds of values, and how they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    """What a file says: the value of each key as it is written, and the line where the key stands, from 1."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    @property
    def folder(self) -> Path:
        """Where the file's relative paths count from."""
        return self.path.absolute().parent

    def place(self, key: str) -> str:
        """Return where a key stands, for a person: FILE:LINE, or FILE for a key that it does not have."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read_guest_file(path: Path) -> GuestFile:
    """Read a guest file. Raises ConfigError if there is no such file, or it is not TOML."""
    try:
        content = path.read_bytes()
    except OSError as wrong:
        raise ConfigError(f"guest file {path} cannot be read: {wrong.strerror}") from wrong
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"guest file {path} has {len(content)} bytes, more than {_FILE_BYTES_MAX}: not a guest file")
    try:
        text = content.decode()
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"guest file {path} is not TOML: {wrong}") from wrong
    return GuestFile(path=path, values=values, lines=_lines_of(text))


def _lines_of(text: str) -> dict[str, int]:
    """Return where each key of the top level first stands in a text that is TOML."""
    found: dict[str, int] = {}
    statement, begins_at, is_in_table = "", 1, False
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        statement += line + "\n"
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        is_header = statement.lstrip().startswith("[")
        is_in_table = is_in_table or is_header
        for key in keys if is_header or not is_in_table else ():
            found.setdefault(key, begins_at)
        statement, begins_at = "", number + 1
    return found


def unknown(key: str, keys: Iterable[str]) -> str:
    """Return the complaint about a key that is not one of `keys`: it names the closest one, or all."""
    known = sorted(keys)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(known)}"
    return f"unknown setting {key!r}; {hint}"


def unfit(value: object, kind: str) -> str | None:
    """Return the complaint about a value that is not of the kind, one of KINDS; None if it is."""
    if _is_of_kind(value, kind):
        return None
    if kind == "texts" and _is_text(value):
        return f"{value!r}: write a list of strings: [{json.dumps(value)}]"
    if kind == "text" and _is_of_kind(value, "number"):  # a size, most often
        return f'{value!r}: write a string in quotes, e.g. "{value}M"'
    return f"{value!r}: write {KINDS[kind]}"


def _is_of_kind(value: object, kind: str) -> bool:
    match kind:
        case "text":
            return _is_text(value)
        case "texts":
            return isinstance(value, list) and all(_is_text(each) for each in value)
        case "one or more":
            return _is_text(value) or _is_of_kind(value, "texts")
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _NUMBER_MAX
        case _:
            return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value  # which no path, name or address can hold
