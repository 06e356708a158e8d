"""The server's side of NBD, as much of it as QEMU's block driver speaks: one export, simple replies.

`serve` leads one connection from the greeting to its end. It promises that every length and offset is checked against
the disk before a byte is read or moved. It knows nothing of files, threads or replication: the disk is behind
`BlockStore`.

Source: the NBD protocol, github.com/NetworkBlockDevice/nbd, doc/proto.md (fixed newstyle negotiation).
"""

import errno
import socket
import struct
from contextlib import suppress
from enum import IntEnum, IntFlag
from typing import Final, Protocol

from ftvm.errors import GuestError

__all__ = ["BlockStore", "serve"]

_GREETING: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_EXPORT_INFO: Final = struct.Struct(">HQH")
_BLOCK_SIZES: Final = struct.Struct(">HIII")

_INIT_MAGIC: Final = b"NBDMAGIC"
_OPTION_MAGIC: Final = b"IHAVEOPT"
_OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698

_FIXED_NEWSTYLE: Final = 1
_NO_ZEROES: Final = 2

_PAYLOAD_BYTES_MAX: Final = 1 << 20
"""The most a client may ask for at once, which it is told: it asks in slices. While one is copied, no other thread of
this interpreter runs, and one of them must say in time that this host is alive."""
_OPTION_BYTES_MAX: Final = 4096 + 64
_OPTIONS_MAX: Final = 64
_PREFERRED_BLOCK_BYTES: Final = 4096

_NOTHING: Final = memoryview(b"")

_ERROR_IO: Final = 5
_ERROR_INVALID: Final = 22
_ERROR_NO_SPACE: Final = 28


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


_EXPORT_FLAGS: Final = _Flag.HAS_FLAGS | _Flag.SEND_FLUSH | _Flag.SEND_FUA
"""Neither trim nor write-zeroes: a few bytes could ask for gigabytes, which a stop would have to wait for."""
_COMMAND_FUA: Final = 1


class _Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3


class BlockStore(Protocol):
    """What is served. Offsets and lengths are within the size: the server has checked."""

    @property
    def size_bytes(self) -> int:
        """Bytes that can be addressed."""
        ...

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes, as they are until the next write."""
        ...

    def write(self, offset: int, content: bytearray) -> None:
        """Change bytes."""
        ...

    def flush(self) -> None:
        """Return when all writes so far will outlive this process. Raises OSError."""
        ...


def serve(connection: socket.socket, store: BlockStore) -> None:
    """Serve one client until it leaves, however it does. Raises GuestError for one that breaks the protocol."""
    with suppress(EOFError, OSError):
        if _negotiate(connection, store):
            while _serve_one(connection, store):
                pass


def _negotiate(connection: socket.socket, store: BlockStore) -> bool:
    """Lead the negotiation; return whether the client goes on to the transmission phase."""
    connection.sendall(_GREETING.pack(_INIT_MAGIC, _OPTION_MAGIC, _FIXED_NEWSTYLE | _NO_ZEROES))
    (client_flags,) = struct.unpack(">I", _receive(connection, 4))
    for _ in range(_OPTIONS_MAX):
        magic, option, length = _OPTION.unpack(_receive(connection, _OPTION.size))
        if magic != _OPTION_MAGIC or length > _OPTION_BYTES_MAX:
            raise GuestError(f"an NBD client sent an option of {length} bytes with magic {magic!r}")
        _receive(connection, length)  # whatever name is asked for, there is one export
        if option == _Option.EXPORT_NAME:
            padding = b"" if client_flags & _NO_ZEROES else bytes(124)
            connection.sendall(struct.pack(">QH", store.size_bytes, _EXPORT_FLAGS) + padding)
            return True
        if option in (_Option.GO, _Option.INFO):
            _describe(connection, option, store)
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


def _describe(connection: socket.socket, option: int, store: BlockStore) -> None:
    export = _EXPORT_INFO.pack(_Info.EXPORT, store.size_bytes, _EXPORT_FLAGS)
    sizes = _BLOCK_SIZES.pack(_Info.BLOCK_SIZE, 1, _PREFERRED_BLOCK_BYTES, _PAYLOAD_BYTES_MAX)
    _answer(connection, option, _OptionReply.INFO, export)
    _answer(connection, option, _OptionReply.INFO, sizes)
    _answer(connection, option, _OptionReply.ACK)


def _answer(connection: socket.socket, option: int, reply: _OptionReply, content: bytes = b"") -> None:
    connection.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, reply, len(content)) + content)


def _serve_one(connection: socket.socket, store: BlockStore) -> bool:
    """Serve a request; return whether another may follow."""
    magic, flags, command, cookie, offset, length = _REQUEST.unpack(_receive(connection, _REQUEST.size))
    if magic != _REQUEST_MAGIC:
        raise GuestError(f"an NBD client sent a request with magic {magic:#x}")
    if command == _Command.DISCONNECT:
        return False
    if command in (_Command.READ, _Command.WRITE) and length > _PAYLOAD_BYTES_MAX:
        raise GuestError(f"an NBD client asked for {length} bytes at once: more than {_PAYLOAD_BYTES_MAX}")
    content = _receive(connection, length) if command == _Command.WRITE else bytearray()
    error, found = _do(store, command, offset, length, content)
    if not error and flags & _COMMAND_FUA and command != _Command.READ:
        error = _flush(store)
    connection.sendall(_REPLY.pack(_REPLY_MAGIC, error, cookie))
    if found:
        connection.sendall(found)
    return True


def _do(store: BlockStore, command: int, offset: int, length: int, content: bytearray) -> tuple[int, memoryview]:
    """Return the error to answer with, and the bytes read."""
    if command == _Command.FLUSH:
        return _flush(store), _NOTHING
    if offset > store.size_bytes or length > store.size_bytes - offset:
        return (_ERROR_INVALID if command == _Command.READ else _ERROR_NO_SPACE), _NOTHING
    match command:
        case _Command.READ:
            return 0, store.read(offset, length)
        case _Command.WRITE:
            store.write(offset, content)
        case _:
            return _ERROR_INVALID, _NOTHING
    return 0, _NOTHING


def _flush(store: BlockStore) -> int:
    try:
        store.flush()
    except OSError as wrong:  # the store itself tells its owner; the guest sees what a failing disk would say
        return _ERROR_NO_SPACE if wrong.errno in (errno.ENOSPC, errno.EDQUOT) else _ERROR_IO
    return 0


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
