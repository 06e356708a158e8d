"""What stands in front of every message but for what rises: whose it is, its session, the record. Both forms read it
here."""

from functools import lru_cache
from typing import Final

from ftvm.encode.fields import read_identity, read_number, read_optional
from ftvm.encode.messages import SessionId
from ftvm.interfaces import Record

__all__ = ["known"]

_KNOWN_MAX: Final = 64
"""A host hears a few peers speak of a few records; strangers can make it forget, which costs it some microseconds."""


@lru_cache(maxsize=_KNOWN_MAX, typed=True)
def known(
    version: int,
    guest_id: object,
    sender: object,
    generation: object,
    active: object,
    standby: object,
    *session: object,
) -> tuple[str, str, SessionId | None, Record]:
    """Check and return what stands in an envelope, but for what rises: nearly every message repeats the one before.

    session  counter, active, generation; or nothing. Raises BadFrame, the peer's fault.
    """
    return (
        read_identity(guest_id, "guest id"),
        read_identity(sender, "sender"),
        _session(version, *session) if session else None,
        Record(
            read_number(generation, "generation"),
            read_optional(read_identity, active, "the record's active"),
            read_optional(read_identity, standby, "the record's standby"),
        ),
    )


def _session(version: int, counter: object, active: object, generation: object) -> SessionId:
    return SessionId(
        read_number(counter, "session counter"),
        read_identity(active, "session's active"),
        read_number(generation, "generation"),
        version,
    )
