"""Open descriptors, which strangers can use up: raise the limit, and keep some in reserve for what must not fail. Each
connection to a listening port takes a descriptor, before it has shown a key. The transport bounds how many
(transport/connections.py), but between two of its looks the table may be full, and just then an arbiter must be read
or an operator be answered.
"""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["DESCRIPTORS_MAX", "SpareDescriptors", "is_table_full", "raise_limit"]

DESCRIPTORS_MAX: Final = 65_536
"""More than a host ever needs; no limit at all would cost programs that walk the whole table."""
_CAUSES_MAX: Final = 8


def raise_limit() -> None:
    """Let this process open as many descriptors as it may, up to DESCRIPTORS_MAX."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_table_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is that no descriptor was left in this process or on this machine."""
    for _ in range(_CAUSES_MAX):
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ if error is not None else None
    return False


class SpareDescriptors:
    """Spare descriptors, given back when one is needed and no other is left. No guarantee: another thread may take it
    first, so try again.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    @property
    def is_full(self) -> bool:
        """Whether all are there to be given back."""
        return len(self._held) == self._count

    def refill(self) -> None:
        """Take as many as there are again, up to the count."""
        with suppress(OSError):
            while not self.is_full:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Give them back for a moment."""
        self.close()
        try:
            yield
        finally:
            self.refill()

    def close(self) -> None:
        """Give them back. Idempotent."""
        while self._held:
            os.close(self._held.pop())
