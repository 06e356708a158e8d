"""How one kind of message is written behind the envelope and read again: the row of a table, and what rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.encode.messages import Message

__all__ = ["Codec", "Frames", "Header", "Packed"]

Header = list[Any]
"""What stands in a header: numbers, texts, digests, and lists of them."""

Frames = tuple[Buffer, ...]
"""The binary frames behind a header."""

Packed = tuple[Header, list[Buffer]]


@dataclass(frozen=True, slots=True)
class Codec:
    """One kind of message.

    kind      its number on the wire, never used for another again
    type      the message's class
    count     how many fields it has in the header
    pack      gives these and the optional ones, and the frames behind the header
    unpack    takes both back, None for each optional field that was not sent; raises BadFrame, the peer's fault
    frames    how many frames stand behind the header; more than one number where the kind has more than one form
    optional  how many more fields it has that an older peer ignores; they stand behind the others
    since     the first version of the wire that has this row; it replaces the kind's row of the versions before
    is_frozen whether it has the form of the first version for ever (versions.py)
    """

    kind: int
    type: type
    count: int
    pack: Callable[[Any], Packed]
    unpack: Callable[[Header, Frames, Limits], Message]
    frames: tuple[int, ...] = (0,)
    optional: int = 0
    since: int = 1
    is_frozen: bool = False
