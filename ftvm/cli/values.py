"""How to write option values that several commands share: sizes of memory, milliseconds, a network card's address."""

from collections.abc import Callable, Iterable
from typing import Final

import click

from ftvm.errors import ConfigError
from ftvm.service.socketfiles import control_folder, guest_named_in, sockets_in
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["DEFAULT_MAC", "GOES_IN", "complete_guests", "completing", "millis_to_nanos", "parse_memory"]

DEFAULT_MAC: Final = "52:54:00:12:34:56"

GOES_IN: Final = "0.3"
"""The version that drops the names that 0.2 replaced."""

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MEMORY_BYTES_MAX: Final = 64 << 30
_MILLIS_MAX: Final = 3_600_000


def completing(words: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return what completes fixed words in a shell."""
    return lambda _context, _parameter, begun: [word for word in words if word.startswith(begun)]


def complete_guests(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the names of the guests that have a host of this user on this machine."""
    try:
        named = {guest_named_in(path) for path in sockets_in(control_folder())}
    except ConfigError:
        return []
    return sorted(name for name in named if name is not None and name.startswith(begun))


def parse_memory(text: str) -> int:
    """Return bytes from text such as 64M; raises ConfigError."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "M")
    if not number.isdecimal() or not 0 < int(number) * _UNITS[unit] <= _MEMORY_BYTES_MAX:
        raise ConfigError(f"memory {text!r}: write a size such as 64M or 1G, at most 64G")
    return int(number) * _UNITS[unit]


def millis_to_nanos(millis: float) -> Nanos:
    """Convert a setting in milliseconds; raises ConfigError unless it is a sensible time."""
    if not 0 < millis <= _MILLIS_MAX:  # False for nan
        raise ConfigError(f"{millis:g}: write milliseconds, more than 0 and at most an hour")
    return seconds_to_nanos(millis / 1000)
