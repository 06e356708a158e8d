"""JSON lines between the programs of a lab: one object a line, either way. What they mean is the programs' affair."""

import json
import os
from typing import Any, Final

from ftvm.service.requests import Lines

__all__ = ["JsonLine", "Orders", "object_in", "say"]

JsonLine = dict[str, Any]
"""One JSON object."""

READ_BYTES: Final = 4_096


def say(line: JsonLine) -> None:
    """Print a line, at once."""
    print(json.dumps(line), flush=True)


def object_in(line: bytes) -> JsonLine | None:
    """Return the JSON object that a line holds; None for a line that is for people."""
    if not line.startswith(b"{"):
        return None
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


class Orders:
    """What whoever drives this program says on a file descriptor; read without waiting."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_over = False
        """Whether nobody drives it any more."""
        self._lines = Lines()
        os.set_blocking(fd, False)

    def take(self) -> list[JsonLine]:
        """Return what was said since the last time."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return []
        self.is_over = not data
        return [order for order in map(object_in, self._lines.take(data)) if order is not None]
