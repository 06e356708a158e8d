"""The changes that the arbiter's record may undergo, as functions from record to record.

Source: docs/protocol.md, "Changes of the record". Each gives the record to propose, one generation on, and raises
InternalError if the rule does not allow the change: a proposal that breaks a rule is our bug, never a peer's doing.
"""

from dataclasses import replace
from shlex import quote
from typing import Final

from ftvm.errors import InternalError
from ftvm.interfaces import Answer, Record

__all__ = [
    "NO_RECORD",
    "add",
    "drop",
    "end_of",
    "force_command",
    "is_vacant",
    "known_place",
    "start",
    "switch",
    "take",
    "vacate",
]

NO_RECORD: Final = Record(0, None, None)


def known_place(answer: Answer) -> str | None:
    """Return the place of the records that an answer tells of: "" if the guest has none there, None if unknown."""
    if answer.record is not None and answer.record.generation == 0:
        return answer.place or ""
    return answer.place


def is_vacant(record: Record) -> bool:
    """Tell whether nobody is active: there is no record yet, or an operator vacated it."""
    return record.active is None


def vacate(record: Record) -> Record:
    """Make room for a START: the operator says (`ftvm init`) that everything older is dead."""
    return Record(record.generation + 1, None, None)


def force_command(guest_id: str) -> str:
    """Return the command that vacates a record whose hosts are all dead; the operator fills in the arbiter."""
    return f"`ftvm init --force --arbiter URL --guest {quote(guest_id)}`"


def end_of(record: Record, active: str, *, is_ended: bool) -> Record:
    """VACATE: the active makes room for a START, because the guest has ended with it; whoever stands by is out.

    is_ended  it came to its own end, or an operator ended it: hosts that had a part in it are to end, too
    """
    _must(record.active == active, "VACATE", record)
    return replace(vacate(record), is_ended=is_ended)


def start(record: Record, replica: str) -> Record:
    """START: `replica` becomes active where nobody is."""
    _must(is_vacant(record), "START", record)
    return Record(record.generation + 1, replica, None)


def add(record: Record, active: str, standby: str) -> Record:
    """ADD: the active names its standby, in place of one that is lost if it may not run without."""
    _must(record.active == active and standby not in (active, record.standby), "ADD", record)
    return Record(record.generation + 1, active, standby)


def drop(record: Record, active: str) -> Record:
    """DROP: the active goes on without its standby."""
    _must(record.active == active and record.standby is not None, "DROP", record)
    return Record(record.generation + 1, active, None)


def take(record: Record, standby: str) -> Record:
    """TAKE: the standby becomes active, with no standby yet."""
    _must(record.standby == standby, "TAKE", record)  # rule: take_is_the_standbys
    return Record(record.generation + 1, standby, None)


def switch(record: Record, active: str) -> Record:
    """SWITCH: active and standby change places."""
    _must(record.active == active and record.standby is not None, "SWITCH", record)
    return Record(record.generation + 1, record.standby, active)


def _must(allowed: bool, change: str, record: Record) -> None:
    if not allowed:
        raise InternalError(f"{change} is not allowed from {record}")
