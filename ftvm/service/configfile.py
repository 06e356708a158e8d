"""A host's settings from a TOML file: each key is an option of the command, without its dashes.

What does not fit its key is told by key, and keeps nobody from reading the rest: who uses the values judges those, and
tells of all mistakes at once (cli/hostchecks.py). Knows which keys there are and of which kind.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError

__all__ = ["KINDS", "ConfigFile", "read_config"]

_FILE_BYTES_MAX: Final = 1 << 20
_NUMBER_MAX: Final = 1e18
"""No setting is near it. TOML has integers that no float can hold, infinity, and what is no number at all."""

KINDS: Final[dict[str, str]] = {
    "text": 'a text in quotes, e.g. "vm1"',
    "texts": 'a list of texts, e.g. ["a.pub", "b.pub"]',
    "number": "a number",
    "whole number": "a whole number",
    "flag": "true or false",
}
"""The kinds of values, and how they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What a file sets, and what in it cannot be read; both by key, and no key is in both."""

    values: Mapping[str, Any]
    misread: Mapping[str, ConfigError]


def read_config(path: Path, keys: Mapping[str, str]) -> ConfigFile:
    """Return what a file says. `keys` maps each key that there is to its kind, one of KINDS.

    Paths are as they are written: relative ones are looked for from where the command runs, as those of options are.
    Raises ConfigError if there is no such file, or it is not TOML.
    """
    told = _parse(path)
    misread = {
        key: ConfigError(f"config {path}: {_unknown(key, keys) if key not in keys else _unfit(key, value, keys[key])}")
        for key, value in told.items()
        if key not in keys or not _is_of_kind(value, keys[key])
    }
    return ConfigFile(values={key: told[key] for key in told if key not in misread}, misread=misread)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as wrong:
        raise ConfigError(f"config {path} cannot be read: {wrong.strerror}") from wrong
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(f"config {path} has {len(content)} bytes: that is no config file of a host")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"config {path} is not TOML: {wrong}") from wrong


def _unknown(key: str, keys: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(key, keys, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(keys))}"
    return f"there is no key {key!r}{hint}"


def _unfit(key: str, value: object, kind: str) -> str:
    return f"{key} = {value!r}: write {KINDS[kind]}"


def _is_of_kind(value: object, kind: str) -> bool:
    match kind:
        case "text":
            return _is_text(value)
        case "texts":
            return isinstance(value, list) and all(_is_text(each) for each in value)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _NUMBER_MAX
        case "whole number":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value  # which no path, name or address can hold
