"""Judges the QEMU arguments of a user: accepted are those of accepted.py, and nothing else.

They are read as QEMU reads them: an option with one dash or two, its value in the next word whatever that looks like,
properties parted by commas (a doubled one stands for itself). Whatever QEMU reads differently than it looks is refused:
a word without an option (a disk to QEMU), a property given twice (the last would count), JSON. All mistakes are
reported at once. Starts nothing, opens nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ftvm.errors import ConfigError
from ftvm.guests.qemu.accepted import (
    DEVICES,
    OBJECTS,
    OPTIONS,
    REFUSED_DEVICES,
    REFUSED_OPTIONS,
    REFUSED_PROPERTIES,
    SAID,
    UNKNOWN,
    Form,
)

__all__ = ["check_arguments"]

_KINDS: Final = {"-device": DEVICES, "-object": OBJECTS}
_SOURCES: Final = {
    "drive": "use -drive id=NAME,file=FILE,if=none,media=cdrom, or --disk (in Python: disk_bytes)",
    "rng": "use -object rng-random,id=NAME",
}
"""What a device may refer to: what it is to be, instead of something else."""
_WORDS_MAX: Final = 1_024
_SHOWN_CHARS_MAX: Final = 200
_PART: Final = re.compile(r"(?s)(?:[^,]|,,)+")

_Named = dict[str, set[str]]
"""For each property that refers to another argument, the ids it may be."""


@dataclass(frozen=True, slots=True)
class _Given:
    """An option as it was given: its name with one dash, its value if it has one, and both as they stood there."""

    option: str
    value: str | None
    words: tuple[str, ...]

    def refusal(self, why: str) -> str:
        shown = " ".join(self.words)
        if len(shown) > _SHOWN_CHARS_MAX:
            shown = f"{shown[:_SHOWN_CHARS_MAX]}..."
        if why.startswith("ftvm sets"):
            return f"QEMU argument {shown} is refused: {why}"
        return f"QEMU argument {shown} cannot be protected: {why}"


def check_arguments(words: Sequence[str]) -> None:
    """Raise one ConfigError that names all arguments with which a guest cannot be protected."""
    if len(words) > _WORDS_MAX:
        raise ConfigError(f"{len(words)} QEMU arguments are more than {_WORDS_MAX}")
    options = list(_options(words))
    named = _named(options)
    found = [given.refusal(why) for given in options if (why := _why_refused(given, named)) is not None]
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        raise ConfigError(f"{len(found)} QEMU arguments cannot be accepted:" + "".join(f"\n  {one}" for one in found))


def _options(words: Sequence[str]) -> Iterator[_Given]:
    """Yield the options. What is not known takes all words up to the next with a dash: it is refused anyway."""
    at = 0
    while at < len(words):
        option = _one_dash(words[at])
        form = OPTIONS.get(option)
        end = at + 1
        if form is not None:
            end += form.takes_value
        elif option.startswith("-"):
            while end < len(words) and not words[end].startswith("-"):
                end += 1
        given = tuple(words[at:end])
        yield _Given(option, given[1] if len(given) > 1 else None, given)
        at = end


def _one_dash(word: str) -> str:
    """Return an option as the tables have it: QEMU takes both."""
    return word[1:] if word.startswith("--") else word


def _named(options: Sequence[_Given]) -> _Named:
    """Return the names that properties may refer to: of drives that are only read, and of sources of randomness."""
    named: _Named = {"drive": set(), "rng": set()}
    for given in options:
        kind = {"-drive": "drive", "-object": "rng"}.get(given.option)
        if kind is not None and _why_refused(given, named) is None:
            named[kind].add(_properties(given.value or "", OPTIONS[given.option].first).get("id", ""))
    return named


def _why_refused(given: _Given, named: _Named) -> str | None:
    """Return why an option is refused, and what to use instead; None if it is accepted."""
    otherwise = REFUSED_OPTIONS.get(given.option, UNKNOWN)
    form = OPTIONS.get(given.option)
    if not given.option.startswith("-"):
        return "QEMU takes a word without an option for a disk; use --disk (in Python: disk_bytes)"
    if given.option == "-accel" and "kvm" in (given.value or ""):
        return REFUSED_OPTIONS["-enable-kvm"]
    if form is None:
        return otherwise
    if not form.takes_value:
        return None
    if given.value is None:
        return otherwise if given.option in REFUSED_OPTIONS else "it needs a value"
    if form.first is None and not form.properties:
        return _why_value_refused(given.option, given.value, form, otherwise)
    if given.value.lstrip().startswith("{"):
        return "ftvm does not read JSON here; write NAME,PROPERTY=VALUE"
    try:
        properties = _properties(given.value, form.first)
    except ConfigError as wrong:
        return str(wrong)
    if given.option in _KINDS:
        return _why_kind_refused(properties.pop(form.first or "", ""), properties, _KINDS[given.option], named)
    if form.needs and not any(f"{key}={value}" in form.needs for key, value in properties.items()):
        return otherwise
    return _why_properties_refused(properties, form)


def _why_value_refused(option: str, value: str, form: Form, otherwise: str) -> str | None:
    """Judge a value that has no properties."""
    if form.values is None or re.fullmatch(form.values, value) is not None:
        return None
    if option == "-cpu" and re.match(r"host\b", value):
        return REFUSED_OPTIONS["-cpu"]
    if option == "-cdrom":
        return REFUSED_PROPERTIES["file"]
    if option == "-cpu":
        return "only a model and features of it can be given; use MODEL,+FEATURE,-FEATURE"
    return otherwise


def _why_kind_refused(name: str, properties: dict[str, str], kind: dict[str, Form], named: _Named) -> str | None:
    """Judge a device or an object by its name, what it refers to, and its properties."""
    if name not in kind:
        return next((why for names, why in REFUSED_DEVICES if names.fullmatch(name)), UNKNOWN)
    for reference, source in _SOURCES.items():
        if reference in properties and properties[reference] not in named[reference]:
            return f"{reference}={properties[reference]} is not the id of an accepted argument; {source}"
    return _why_properties_refused(properties, kind[name])


def _why_properties_refused(properties: dict[str, str], form: Form) -> str | None:
    if "kvm" in properties.get("accel", ""):
        return REFUSED_OPTIONS["-enable-kvm"]
    for key, value in properties.items():
        pattern = form.properties.get(key)
        if pattern is None or re.fullmatch(pattern, value) is None:
            return REFUSED_PROPERTIES.get(key) or f"{key}={value} is not known to be safe there; {_instead(form, key)}"
    return None


def _instead(form: Form, key: str) -> str:
    pattern = form.properties.get(key)
    if pattern is None:
        return f"leave it out (known are {', '.join(form.properties)})"
    return f"{key} may be {SAID.get(pattern, pattern.replace('|', ' or '))}"


def _properties(value: str, first: str | None) -> dict[str, str]:
    """Return the properties of a value. Raises ConfigError for those that QEMU takes in another way than they look."""
    properties: dict[str, str] = {}
    parts = _PART.findall(value)
    if ",".join(parts) != value:
        raise ConfigError("a property is empty; leave its comma out")
    for number, part in enumerate(parts):
        key, is_given, content = part.replace(",,", ",").partition("=")
        if not is_given:
            if number or first is None:
                raise ConfigError(f"{key} has no value; use {key}=on or {key}=off")
            key, content = first, key
        if key in properties:
            raise ConfigError(f"{key} is there twice; leave one out")
        properties[key] = content
    return properties
