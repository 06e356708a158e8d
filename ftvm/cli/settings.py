"""The settings of a host as one table: a row for each, from which the options, the guest file and `ftvm check` come.

A row says how a setting is written, what its value is, and what is wrong with it beside the others. `read_settings`
takes what the guest file and the command line say (the command line counts where both do), and finds all mistakes at
once, each with its place. Has no rows itself: hostsettings.py has those of all hosts, kinds/ those of a kind of guest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError, FtvmError, ImageError
from ftvm.interfaces import Capability, Guest
from ftvm.service.guestfile import GuestFile, unfit, unknown

__all__ = ["DEFAULT_KIND", "HostSettings", "Kind", "Setting", "Values", "check_settings", "in_folder", "read_settings"]

DEFAULT_KIND: Final = "riscv"
_NOT_SETTINGS: Final = {
    "create": "it is said at one start only: `ftvm run --create`, or `ftvm init` before it",
    "json": "it is said on the command line: --json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: a key of the guest file, and an option of the commands if it `has_option`.

    written   how it is written: one of guestfile.KINDS
    default   as it would be written; None: not said
    words     those that it may be, where there are few
    parse     makes the value of what is written; raises ConfigError
    check     judges the value beside the others; raises ConfigError, or ImageError
    locate    has relative paths count from the folder of the file; called for what a file says only
    """

    name: str
    help: str
    written: str = "text"
    default: Any = None
    metavar: str | None = None
    words: tuple[str, ...] = ()
    parse: Callable[[Any], Any] = lambda written: written
    check: Callable[["HostSettings"], object] = lambda _: None
    locate: Callable[[Any, Path], Any] = lambda written, _: written
    has_option: bool = True

    def value(self, written: object) -> object:
        """Return the value of what is written, or of the default; raises ConfigError."""
        if written is None:
            written = self.default
        if written is None:
            return [] if self.written == "texts" else None
        if self.words and written not in self.words:
            raise ConfigError(f"{written!r}: write one of {', '.join(self.words)}")
        return self.parse(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of guest: its settings beside those of all hosts (it may replace one of these), and how one is made.

    can          what such a guest can do beyond the least
    make         builds the guest, paused; it waits for a state unless the settings say that it `boots`
    memory_bytes of what has a copy on the other host: RAM, and a disk that is kept in memory
    check_tools  raises ConfigError unless what runs it is installed
    """

    name: str
    settings: tuple[Setting, ...]
    can: frozenset[Capability]
    make: Callable[["HostSettings"], Guest]
    memory_bytes: Callable[["HostSettings"], int]
    check_tools: Callable[["HostSettings"], None]


class Values(dict[str, Any]):
    """The values that could be read, by the names of their settings."""

    def __missing__(self, name: str) -> Any:
        raise _UnreadError(name)


class _UnreadError(Exception):
    """A check asks for a setting that could not be read: there is nothing to judge by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What a host is told to be.

    boots     the guest is started here; a standby's comes over from another host
    is_json   stdout carries JSON lines
    problems  what is wrong, by the name of the setting
    places    where each setting is said: FILE:LINE, or its option
    folder    of the guest file, if there is one
    """

    kind: Kind
    values: Values
    boots: bool
    is_json: bool = False
    problems: dict[str, FtvmError] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def complaint(self, name: str) -> str:
        """Return what is wrong with a setting, and where it is said."""
        place = self.places.get(name, "")
        named = place if place.startswith("--") else f"{place}: {name}" if place else name
        return f"{named}: {self.problems[name]}"


def read_settings(
    shared: Sequence[Setting],
    kinds: Mapping[str, Kind],
    *,
    file: GuestFile | None,
    options: Mapping[str, Any],
    boots: bool,
    is_json: bool = False,
    default_kind: str = DEFAULT_KIND,
) -> HostSettings:
    """Return the settings of a host, with all that is wrong in `problems`. Opens nothing to stay open.

    `options` are those said on the command line, by name.
    """
    told = options.get("kind") or (file.values.get("kind") if file is not None else None) or default_kind
    kind = kinds.get(told) if isinstance(told, str) else None
    rows = {row.name: row for row in (*shared, *(kind.settings if kind is not None else ()))}
    problems: dict[str, FtvmError] = {}
    written: dict[str, Any] = {"kind": default_kind}
    places: dict[str, str] = {}

    def take(name: str, value: Any, place: str, locate: bool) -> None:
        places[name] = place
        wrong = _stranger(name, rows, kinds, kind) if name not in rows else unfit(value, rows[name].written)
        if wrong:
            problems[name] = ConfigError(wrong)
        elif name in rows:
            written[name] = rows[name].locate(value, file.folder) if locate and file is not None else value

    if file is not None:
        for name, value in file.values.items():
            if name not in options:
                take(name, value, file.place(name), locate=True)
    for name, value in options.items():
        take(name, value, f"--{name}" if name != "arguments" else "behind --", locate=False)
    settings = HostSettings(
        kind=kind or kinds[DEFAULT_KIND],
        values=Values(),
        boots=boots,
        is_json=is_json,
        problems=problems,
        places={**({name: str(file.path) for name in rows} if file is not None else {}), **places},
        folder=file.folder if file is not None and "arguments" not in options else None,
    )
    _judge(settings, rows, written)
    return settings


def _judge(settings: HostSettings, rows: Mapping[str, Setting], written: Mapping[str, Any]) -> None:
    """Make the values, then check each beside the others, as far as they could be read."""
    for row in rows.values():
        if row.name not in settings.problems:
            try:
                settings.values[row.name] = row.value(written.get(row.name))
            except (ConfigError, ImageError) as wrong:
                settings.problems[row.name] = wrong
    for row in rows.values():
        if row.name in settings.values:
            try:
                row.check(settings)
            except _UnreadError:
                continue
            except (ConfigError, ImageError) as wrong:
                settings.problems[row.name] = wrong


def _stranger(name: str, rows: Mapping[str, Setting], kinds: Mapping[str, Kind], kind: Kind | None) -> str:
    """Return what to tell about a name that none of the rows has; nothing if the kind is not known."""
    if name in _NOT_SETTINGS:
        return f"this is not a setting: {_NOT_SETTINGS[name]}"
    others = [each.name for each in kinds.values() if name in {row.name for row in each.settings}]
    if not others:
        return unknown(name, rows)
    return "" if kind is None else f"only a guest of kind {' or '.join(others)} has it, and this one is {kind.name}"


def check_settings(settings: HostSettings) -> None:
    """Raise one ConfigError that tells of all that is wrong with the settings."""
    complaints = [settings.complaint(name) for name in settings.problems]
    if len(complaints) == 1:
        raise ConfigError(complaints[0]) from next(iter(settings.problems.values()))
    if complaints:
        raise ConfigError(f"{len(complaints)} settings are wrong:" + "".join(f"\n  {each}" for each in complaints))


def in_folder(path: str, folder: Path) -> str:
    """Return a path that a file says, counted from the folder that the file is in."""
    return str(folder / path)
