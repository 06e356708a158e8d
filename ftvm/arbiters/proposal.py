"""What may be proposed to any record store, how large it may be, how a guest's id names a file, and which failures of a
proposal are certain."""

import contextlib
from collections.abc import Iterator
from typing import Final

from ftvm.errors import ArbiterError, ConfigError, LimitExceeded, LocalProtocolError, NotApplied
from ftvm.interfaces import Record

__all__ = ["before_deciding", "check_guest_id", "check_proposal", "file_name"]

_ID_CHARS_MAX: Final = 256
_GENERATION_MAX: Final = (1 << 63) - 1
_NAME_BYTES_MAX: Final = 180
"""Of a guest's name in a file name: leaves room for the rest within the 255 bytes of a file system."""
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def check_guest_id(guest_id: str) -> None:
    """Check that a guest id can name a record; raises ConfigError."""
    if not 1 <= len(guest_id) <= _ID_CHARS_MAX:
        raise ConfigError(f"a guest id has 1 to {_ID_CHARS_MAX} characters, not {len(guest_id)}")


def file_name(guest_id: str) -> str:
    """Return a guest's id as part of a file name: one to one, without dots and slashes. Raises ConfigError."""
    check_guest_id(guest_id)
    name = "".join(
        char if char in _PLAIN else "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in guest_id
    )
    if len(name) > _NAME_BYTES_MAX:
        raise ConfigError(f"guest id {guest_id[:40]!r}... is too long to name a file: choose a shorter one")
    return name


def check_proposal(record: Record) -> None:
    """Check that a record can be proposed at all; raises LocalProtocolError or LimitExceeded."""
    if not 1 <= record.generation <= _GENERATION_MAX:
        raise LocalProtocolError(f"a record of generation {record.generation} cannot be proposed: the first is 1")
    for replica_id in (record.active, record.standby):
        if replica_id is not None and len(replica_id) > _ID_CHARS_MAX:
            raise LimitExceeded("characters of a replica id", limit=_ID_CHARS_MAX, wanted=len(replica_id))


@contextlib.contextmanager
def before_deciding() -> Iterator[None]:
    """Turn an ArbiterError in this block into NotApplied. Nothing in the block, finished or not, may ever put the
    proposal in force.

    After NotApplied the proposer lets the guest go on: raised by mistake, it means two active hosts.
    """
    try:
        yield
    except ArbiterError as error:
        raise NotApplied(str(error)) from error
