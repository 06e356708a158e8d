"""How one kind of message is written behind the envelope and read again: the row of a table, and what rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.encode.messages import Message
from ftvm.errors import BadFrame

__all__ = ["Codec", "Frames", "Header", "Packed", "expect_no_frames"]

Header = list[Any]
"""What stands in a header: numbers, texts, digests, and lists of them."""

Frames = tuple[Buffer, ...]
"""The binary frames behind a header."""

Packed = tuple[Header, list[Buffer]]


@dataclass(frozen=True, slots=True)
class Codec:
    """One kind of message.

    kind    its number on the wire, never used for another again
    type    the message's class
    pack    gives the fields for the header, and the frames behind it
    unpack  takes both back; raises BadFrame, the peer's fault
    """

    kind: int
    type: type
    pack: Callable[[Any], Packed]
    unpack: Callable[[Header, Frames, Limits], Message]


def expect_no_frames(frames: Frames) -> None:
    """Raise BadFrame if anything stands behind the header."""
    if frames:
        raise BadFrame(f"{len(frames)} frames behind a message that has none")
