"""Reading what a peer put into a header: each function takes one value and its name, and says what is wrong with it.

All raise BadFrame, the peer's fault. Types are compared exactly: msgpack gives bools where numbers were asked for,
numbers of any size, and nil anywhere.
"""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ftvm.errors import BadFrame

__all__ = [
    "DIGEST_BYTES",
    "NAMES_MAX",
    "TEXT_CHARS_MAX",
    "read_digest",
    "read_fields",
    "read_flag",
    "read_identity",
    "read_list",
    "read_number",
    "read_numbers",
    "read_optional",
    "read_padded",
    "read_text",
]

DIGEST_BYTES: Final = 16
TEXT_CHARS_MAX: Final = 1024
NAMES_MAX: Final = 64
NUMBER_MAX: Final = (1 << 63) - 1
IDENTITY_CHARS_MAX: Final = 64

T = TypeVar("T")


# What a peer sent is shown by reprlib: a value nested a thousand deep must not exhaust the stack of who complains.


def read_number(value: object, name: str, most: int = NUMBER_MAX) -> int:
    """Take a whole number from 0 to `most`; a bool is not one."""
    if type(value) is not int or not 0 <= value <= most:
        raise BadFrame(f"{name} is {reprlib.repr(value)}, not a number from 0 to {most}")
    return value


def read_numbers(values: Sequence[object], names: str) -> None:
    """Check several at once: whole numbers from 0 on; `names` has one word or more for each, with a comma between."""
    for place, value in enumerate(values):
        if type(value) is not int or not 0 <= value <= NUMBER_MAX:
            raise BadFrame(f"{names.split(', ')[place]} is {reprlib.repr(value)}, not a number from 0 to {NUMBER_MAX}")


def read_text(value: object, name: str) -> str:
    """Take a text of bounded length."""
    if type(value) is not str or len(value) > TEXT_CHARS_MAX:
        raise BadFrame(f"{name} is not a text of at most {TEXT_CHARS_MAX} characters")
    return value


def read_identity(value: object, name: str) -> str:
    """Take a name: 1 to 64 characters."""
    if type(value) is not str or not 0 < len(value) <= IDENTITY_CHARS_MAX:
        raise BadFrame(f"{name} is {reprlib.repr(value)}, not a text of 1 to {IDENTITY_CHARS_MAX} characters")
    return value


def read_flag(value: object, name: str) -> bool:
    """Take true or false."""
    if type(value) is not bool:
        raise BadFrame(f"{name} is {reprlib.repr(value)}, not true or false")
    return value


def read_digest(value: object, name: str) -> bytes:
    """Take the bytes of a digest."""
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise BadFrame(f"{name} is not {DIGEST_BYTES} bytes")
    return value


def read_list(read: Callable[[object, str], T], value: object, name: str) -> tuple[T, ...]:
    """Take a bounded list of what `read` takes."""
    if type(value) is not list or len(value) > NAMES_MAX:
        raise BadFrame(f"{name} is not a list of at most {NAMES_MAX}")
    return tuple(read(item, name) for item in value)


def read_fields(value: object, count: int, name: str) -> list[Any]:
    """Take the first values of a list, so many; what a later release has put behind them is ignored."""
    if type(value) is not list or len(value) < count:
        raise BadFrame(f"{name} is not a list of {count}")
    return value[:count]


def read_padded(value: object, count: int, optional: int, name: str) -> list[Any]:
    """Take a list of `count` values and so many optional ones: None for each of these that is not there."""
    if type(value) is not list or len(value) < count:
        raise BadFrame(f"{name} is not a list of {count}")
    missing = max(0, count + optional - len(value))
    return value[: count + optional] + [None] * missing


def read_optional(read: Callable[[object, str], T], value: object, name: str) -> T | None:
    """Take nil, or what `read` takes."""
    return None if value is None else read(value, name)
