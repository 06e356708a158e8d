"""One record as text, in a file or in etcd, and the checks that make a torn or foreign one unreadable.

    ftvm-record 1
    {"active": "...", "generation": 7, "guest": "vm1", "place": "...", "standby": null}
    crc32 0a1b2c3d

`place` names where the record is kept: drawn at random with the first one, and handed on. A record of 0.1 has none. A
record with which the guest has ended for good says `"ended": true`, too; who does not know that ignores it.

Pure: bytes to records and back. Anything that is not exactly this is an ArbiterError: a guess at what a damaged record
said could run a guest twice.
"""

import json
import re
import secrets
import zlib
from typing import Final

from ftvm.errors import ArbiterError
from ftvm.interfaces import Record

__all__ = ["RECORD_BYTES_MAX", "decode_placed", "decode_record", "encode_record", "fresh_place"]

RECORD_BYTES_MAX: Final = 16 << 10
_HEADING: Final = "ftvm-record 1"
_PLACE: Final = re.compile(r"[0-9a-f]{32}")


def fresh_place() -> str:
    """Return a name for a place that has none yet."""
    return secrets.token_hex(16)


def encode_record(guest_id: str, record: Record, place: str | None = None) -> bytes:
    """Return the bytes of a record that `check_proposal` lets pass: at most RECORD_BYTES_MAX."""
    fields = {
        "active": record.active,
        "generation": record.generation,
        "guest": guest_id,
        "standby": record.standby,
        **({} if place is None else {"place": place}),
        **({"ended": True} if record.is_ended else {}),
    }
    body = f"{_HEADING}\n{json.dumps(fields, sort_keys=True)}\n".encode("ascii")
    return body + f"crc32 {zlib.crc32(body):08x}\n".encode("ascii")


def decode_record(content: bytes, *, guest_id: str, generation: int | None = None) -> Record:
    """Return the record of `guest_id`, and of `generation` if that is given; raises ArbiterError if it is another."""
    return decode_placed(content, guest_id=guest_id, generation=generation)[0]


def decode_placed(content: bytes, *, guest_id: str, generation: int | None = None) -> tuple[Record, str | None]:
    """Return the same, and the name of its place, None if it has none."""
    body, _, seal = content.rpartition(b"crc32 ")
    if seal != f"{zlib.crc32(body):08x}\n".encode("ascii"):
        raise ArbiterError("its checksum is wrong")
    try:
        heading, line, rest = body.decode("ascii").split("\n")
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArbiterError("it is not a record") from error
    if heading != _HEADING or rest or not isinstance(fields, dict):
        raise ArbiterError("it is not a record of this version of ftvm")
    found = fields.get("generation")
    if type(found) is not int or found < 1 or fields.get("guest") != guest_id or generation not in (None, found):
        raise ArbiterError("it holds the record of another guest or generation")
    active, standby, place = _replica_id(fields, "active"), _replica_id(fields, "standby"), fields.get("place")
    record = Record(found, active, standby, is_ended=active is None and fields.get("ended") is True)
    return record, place if isinstance(place, str) and _PLACE.fullmatch(place) else None


def _replica_id(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name, 0)
    if value is None or isinstance(value, str):
        return value
    raise ArbiterError(f"its {name} replica is neither a name nor null")
