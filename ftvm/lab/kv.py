"""The key-value protocol that the guest program ``kv`` speaks over UDP: requests and replies, to bytes and back.

All integers are big-endian::

    request  magic "FTKV" | version u8 = 1 | operation u8 | key_bytes u16 | client u64 | number u64
             | value_bytes u16 | reserved u16 = 0 | key | value
    reply    magic "FTKR" | version u8 = 1 | status u8 | value_bytes u16 | client u64 | number u64
             | uptime u64 | boot u64 | writes u64 | value

A client counts its requests up by one and has one outstanding. The guest answers a repeated number with the reply bytes
that it gave first, so a retransmission never acts twice. Source: examples/guests, kv_protocol.h.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from ftvm.errors import BadFrame

__all__ = ["KEY_BYTES_MAX", "KV_PORT", "VALUE_BYTES_MAX", "Operation", "Reply", "ReplyStatus", "Request"]

KV_PORT: Final = 7000
KEY_BYTES_MAX: Final = 32
VALUE_BYTES_MAX: Final = 256

_VERSION: Final = 1
_REQUEST_MAGIC: Final = b"FTKV"
_REPLY_MAGIC: Final = b"FTKR"
_REQUEST: Final = struct.Struct("!4sBBHQQHH")
_REPLY: Final = struct.Struct("!4sBBHQQQQQ")


class Operation(IntEnum):
    """What a request asks for."""

    PUT = 1
    GET = 2
    STAT = 3


class ReplyStatus(IntEnum):
    """What became of a request."""

    OK = 0
    NOT_FOUND = 1
    BAD_REQUEST = 2
    FULL = 3
    STALE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of one client."""

    operation: Operation
    client: int
    number: int
    key: bytes = b""
    value: bytes = b""

    def encode(self) -> bytes:
        """Return the request's bytes."""
        sizes = (len(self.key), self.client, self.number, len(self.value), 0)
        return _REQUEST.pack(_REQUEST_MAGIC, _VERSION, self.operation, *sizes) + self.key + self.value

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a request; raises BadFrame."""
        if len(data) < _REQUEST.size:
            raise BadFrame(f"{len(data)} bytes are too short for a request's header of {_REQUEST.size}")
        magic, version, operation, key_bytes, client, number, value_bytes, reserved = _REQUEST.unpack_from(data)
        if (magic, version, reserved) != (_REQUEST_MAGIC, _VERSION, 0):
            raise BadFrame("a request begins with another magic, version or reserved field")
        if (
            not Operation.PUT <= operation <= Operation.STAT
            or key_bytes > KEY_BYTES_MAX
            or value_bytes > VALUE_BYTES_MAX
        ):
            raise BadFrame("a request's operation is unknown, or its key or value too long")
        if len(data) != _REQUEST.size + key_bytes + value_bytes:
            raise BadFrame("a request is not as long as its lengths say")
        body = data[_REQUEST.size :]
        key, value = body[:key_bytes], body[key_bytes:]
        return cls(operation=Operation(operation), client=client, number=number, key=key, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of the guest.

    uptime  instructions the guest had retired when it answered first
    boot    tells one start of the guest from another
    writes  PUTs applied so far, by all clients
    """

    status: ReplyStatus
    client: int
    number: int
    uptime: int
    boot: int
    writes: int
    value: bytes = b""

    def encode(self) -> bytes:
        """Return the reply's bytes."""
        facts = (len(self.value), self.client, self.number, self.uptime, self.boot, self.writes)
        return _REPLY.pack(_REPLY_MAGIC, _VERSION, self.status, *facts) + self.value

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a reply; raises BadFrame."""
        if len(data) < _REPLY.size:
            raise BadFrame(f"{len(data)} bytes are too short for a reply's header of {_REPLY.size}")
        magic, version, status, value_bytes, client, number, uptime, boot, writes = _REPLY.unpack_from(data)
        if (magic, version) != (_REPLY_MAGIC, _VERSION) or status > max(ReplyStatus):
            raise BadFrame("a reply begins with another magic, version or status")
        if value_bytes > VALUE_BYTES_MAX or len(data) != _REPLY.size + value_bytes:
            raise BadFrame("a reply is not as long as its lengths say, or its value is too long")
        return cls(
            status=ReplyStatus(status),
            client=client,
            number=number,
            uptime=uptime,
            boot=boot,
            writes=writes,
            value=data[_REPLY.size :],
        )
