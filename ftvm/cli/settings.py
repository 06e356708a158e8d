"""The settings of a host as one table: a row for each, from which the options, the guest file and `ftvm check` come.

A row says how a setting is written, what its value is, and how to check it against the others. `read_settings` takes
the guest file and the command line (which wins), and finds all mistakes at once, each with its place. The rows are
elsewhere: hostsettings.py has those of all hosts, kinds/ those of one kind of guest.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError, FtvmError, ImageError
from ftvm.interfaces import Capability, Guest
from ftvm.service.guestfile import GuestFile, unfit, unknown

__all__ = [
    "DEFAULT_KIND",
    "HostSettings",
    "Kind",
    "Setting",
    "Values",
    "check_settings",
    "in_folder",
    "make_guest",
    "read_settings",
]

DEFAULT_KIND: Final = "riscv"
_NOT_SETTINGS: Final = {
    "create": "it is for one start only: use `ftvm run --create`, or `ftvm init` first",
    "json": "write --json on the command line",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: a key of the guest file, and an option of the commands if it `has_option`.

    written   how it is written: one of guestfile.KINDS; the value of "texts" and "one or more" is a list
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

    @property
    def is_list(self) -> bool:
        """Whether its value is a list, and its option may be repeated."""
        return self.written in ("texts", "one or more")

    def fitting(self, written: object, *, is_option: bool) -> object:
        """Return what was written in the form of the value: one text as a list of one, or, of an option that may be
        repeated for other kinds of guests, a list of one as a text."""
        if self.is_list:
            return [written] if self.written == "one or more" and isinstance(written, str) else written
        return written[0] if is_option and isinstance(written, list) and len(written) == 1 else written

    def value(self, written: object) -> object:
        """Return the value of what is written, or of the default; raises ConfigError."""
        if written is None:
            written = self.default
        if written is None:
            return [] if self.is_list else None
        if self.words and written not in self.words:
            raise ConfigError(f"{written!r}: write one of {', '.join(self.words)}")
        return self.parse(written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of guest: its settings beside those of all hosts (it may replace one of these), and how one is made.

    can          what such a guest can do beyond the least
    make         builds the guest, paused; it waits for a state unless the settings say that it `boots`
    memory_bytes what the guest takes in memory: RAM, and a disk that is kept there
    shadow_bytes what a protected host keeps one more copy of: RAM, and what the disks have
    check_tools  raises ConfigError unless what runs it is installed; returns what it found, if that is worth telling
    """

    name: str
    settings: tuple[Setting, ...]
    can: frozenset[Capability]
    make: Callable[["HostSettings"], Guest]
    memory_bytes: Callable[["HostSettings"], int]
    shadow_bytes: Callable[["HostSettings"], int]
    check_tools: Callable[["HostSettings"], str | None]


class Values(dict[str, Any]):
    """The values that could be read, by the names of their settings."""

    def __missing__(self, name: str) -> Any:
        raise _UnreadError(name)


class _UnreadError(Exception):
    """A check asks for a setting that could not be read: the check cannot be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """The settings of one host.

    boots     the guest is started here; a standby's comes over from another host
    is_json   stdout carries JSON lines
    problems  what is wrong, by the name of the setting, in the order in which they were said
    places    where each setting is said: FILE:LINE, or its option
    folder    where relative paths in QEMU's arguments count from; None: the working directory
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
    """Return the settings of a host, with all that is wrong in `problems`. Leaves nothing open.

    `options` are those said on the command line, by name.
    """
    said = _said(file, options)
    kind = kinds.get(
        next((each.value for each in said if each.name == "kind" and isinstance(each.value, str)), default_kind)
    )
    rows = {row.name: row for row in (*shared, *(kind.settings if kind is not None else ()))}
    problems: dict[str, FtvmError] = {}
    written: dict[str, Any] = {"kind": default_kind}
    for each in said:
        row = rows.get(each.name)
        value = each.value if row is None else row.fitting(each.value, is_option=each.folder is None)
        wrong = _stranger(each.name, rows, kinds, kind) if row is None else unfit(value, row.written)
        if wrong:
            problems[each.name] = ConfigError(wrong)
        elif row is not None:
            written[each.name] = value if each.folder is None else row.locate(value, each.folder)
    unsaid = dict.fromkeys(rows, str(file.path)) if file is not None else {}
    settings = HostSettings(
        kind=kind or kinds[DEFAULT_KIND],
        values=Values(),
        boots=boots,
        is_json=is_json,
        problems=problems,
        places={**unsaid, **{each.name: each.place for each in said}},
        folder=next((each.folder for each in said if each.name == "arguments"), None),
    )
    _judge(settings, rows, written)
    order = [*(each.name for each in said), *rows]
    return replace(settings, problems=dict(sorted(problems.items(), key=lambda problem: order.index(problem[0]))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A setting as it was said, where, and where its relative paths count from (None: the working directory)."""

    name: str
    value: Any
    place: str
    folder: Path | None = None


def _said(file: GuestFile | None, options: Mapping[str, Any]) -> list[_Said]:
    """Return all settings that were given; the command line wins over the file."""
    in_file = file.values if file is not None else {}
    return [
        *(
            _Said(name=name, value=value, place=file.place(name), folder=file.folder)
            for name, value in in_file.items()
            if file is not None and name not in options
        ),
        *(
            _Said(name=name, value=value, place="behind --" if name == "arguments" else f"--{name}")
            for name, value in options.items()
        ),
    ]


def _judge(settings: HostSettings, rows: Mapping[str, Setting], written: Mapping[str, Any]) -> None:
    """Parse the values, then check each against the others, as far as they could be read."""
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
    """Return the complaint about a name that no row has; empty if the kind is unknown."""
    if name in _NOT_SETTINGS:
        return f"this is not a setting: {_NOT_SETTINGS[name]}"
    others = [each.name for each in kinds.values() if name in {row.name for row in each.settings}]
    if not others:
        return unknown(name, rows)
    return "" if kind is None else f"only a guest of kind {' or '.join(others)} has it; this one is {kind.name}"


def check_settings(settings: HostSettings, *, but: Container[str] = ()) -> None:
    """Raise one ConfigError that names all that is wrong with the settings, `but` for those that nobody uses."""
    wrong = [name for name in settings.problems if name not in but]
    complaints = [settings.complaint(name) for name in wrong]
    if len(complaints) == 1:
        raise ConfigError(complaints[0]) from settings.problems[wrong[0]]
    if complaints:
        raise ConfigError(
            f"{len(complaints)} settings are wrong:"
            + "".join("\n  " + each.replace("\n", "\n  ") for each in complaints)
        )


def in_folder(path: str, folder: Path) -> str:
    """Return a path from a guest file, relative to the file's folder."""
    return str(folder / path)


def make_guest(settings: HostSettings) -> Guest:
    """Make the guest of settings that were not checked. Raises ConfigError for the first that it needs and is wrong."""
    try:
        return settings.kind.make(settings)
    except _UnreadError as unread:
        (name,) = unread.args
        raise ConfigError(settings.complaint(name)) from settings.problems[name]
