"""The negotiation of NBD, the server's side of it: one export, simple replies.

`negotiate` leads one connection from the greeting to where requests begin, which C serves (blockserver.h). Nothing that
the client sends is trusted. It knows nothing of files or replication.

Source: the NBD protocol, github.com/NetworkBlockDevice/nbd, doc/proto.md (fixed newstyle negotiation).
"""

import socket
import struct
from enum import IntEnum, IntFlag
from typing import Final

from ftvm._native.blockstore import PAYLOAD_BYTES_MAX
from ftvm.errors import GuestError

__all__ = ["negotiate"]

_GREETING: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_EXPORT_INFO: Final = struct.Struct(">HQH")
_BLOCK_SIZES: Final = struct.Struct(">HIII")

_INIT_MAGIC: Final = b"NBDMAGIC"
_OPTION_MAGIC: Final = b"IHAVEOPT"
_OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9

_FIXED_NEWSTYLE: Final = 1
_NO_ZEROES: Final = 2

_OPTION_BYTES_MAX: Final = 4096 + 64
_OPTIONS_MAX: Final = 64
_PREFERRED_BLOCK_BYTES: Final = 4096


class _Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class _OptionReply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    UNSUPPORTED = (1 << 31) + 1
    INVALID = (1 << 31) + 3


class _Info(IntEnum):
    EXPORT = 0
    BLOCK_SIZE = 3


class _Flag(IntFlag):
    HAS_FLAGS = 1
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64


_EXPORT_FLAGS: Final = _Flag.HAS_FLAGS | _Flag.SEND_FLUSH | _Flag.SEND_FUA | _Flag.SEND_TRIM | _Flag.SEND_WRITE_ZEROES


def negotiate(connection: socket.socket, size_bytes: int) -> bool:
    """Lead the negotiation for a disk of so many bytes; return whether the client goes on to send requests.

    Raises GuestError if it breaks the protocol, EOFError or OSError if it leaves.
    """
    connection.sendall(_GREETING.pack(_INIT_MAGIC, _OPTION_MAGIC, _FIXED_NEWSTYLE | _NO_ZEROES))
    (client_flags,) = struct.unpack(">I", _receive(connection, 4))
    for _ in range(_OPTIONS_MAX):
        magic, option, length = _OPTION.unpack(_receive(connection, _OPTION.size))
        if magic != _OPTION_MAGIC or length > _OPTION_BYTES_MAX:
            raise GuestError(f"an NBD client sent an option of {length} bytes with magic {magic!r}")
        _receive(connection, length)  # whatever name is asked for, there is one export
        if option == _Option.EXPORT_NAME:
            padding = b"" if client_flags & _NO_ZEROES else bytes(124)
            connection.sendall(struct.pack(">QH", size_bytes, _EXPORT_FLAGS) + padding)
            return True
        if option in (_Option.GO, _Option.INFO):
            _describe(connection, option, size_bytes)
            if option == _Option.GO:
                return True
        elif option == _Option.LIST:
            _answer(connection, option, _OptionReply.SERVER, bytes(4))
            _answer(connection, option, _OptionReply.ACK)
        elif option == _Option.ABORT:
            _answer(connection, option, _OptionReply.ACK)
            return False
        else:
            _answer(connection, option, _OptionReply.UNSUPPORTED)
    raise GuestError(f"an NBD client negotiated more than {_OPTIONS_MAX} options")


def _describe(connection: socket.socket, option: int, size_bytes: int) -> None:
    export = _EXPORT_INFO.pack(_Info.EXPORT, size_bytes, _EXPORT_FLAGS)
    sizes = _BLOCK_SIZES.pack(_Info.BLOCK_SIZE, 1, _PREFERRED_BLOCK_BYTES, PAYLOAD_BYTES_MAX)
    _answer(connection, option, _OptionReply.INFO, export)
    _answer(connection, option, _OptionReply.INFO, sizes)
    _answer(connection, option, _OptionReply.ACK)


def _answer(connection: socket.socket, option: int, reply: _OptionReply, content: bytes = b"") -> None:
    connection.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, reply, len(content)) + content)


def _receive(connection: socket.socket, count: int) -> bytearray:
    """Return exactly `count` bytes. Raises EOFError if the client has left."""
    content = bytearray(count)
    view = memoryview(content)
    while view:
        received = connection.recv_into(view)
        if not received:
            raise EOFError
        view = view[received:]
    return content
