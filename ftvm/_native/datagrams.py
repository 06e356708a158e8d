"""Many datagrams by one call. Wraps the native noun `datagrams` (its header is the manual)."""

import mmap
from array import array
from collections.abc import Sequence
from typing import Any, Final

from ftvm._native import ffi, lib

__all__ = ["Datagrams"]

_AT_ONCE: Final = int(lib.FTVM_DATAGRAMS_MAX)
_BYTES_EACH: Final = int(lib.FTVM_DATAGRAM_BYTES_MAX)
_REFUSED: Final = int(lib.FTVM_DATAGRAM_REFUSED)


class Datagrams:
    """Sends to one address and receives from it, over a socket that stays the caller's."""

    __slots__ = ("_address", "_bytes", "_lengths", "_memory", "_room", "_sender")

    def __init__(self, address: bytes, *, from_there_alone: bool) -> None:
        """`address` is a struct sockaddr; with `from_there_alone`, one of IPv4, all else that comes is refused."""
        self._address = address
        self._sender: Any = ffi.from_buffer("uint8_t[]", address) if from_there_alone else ffi.NULL
        self._memory = mmap.mmap(-1, _AT_ONCE * _BYTES_EACH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._room: Any = ffi.from_buffer("uint8_t[]", self._memory, require_writable=True)
        self._lengths: Any = ffi.new("uint32_t[]", _AT_ONCE)
        self._bytes: Any = ffi.new("uint64_t *")

    def send(self, descriptor: int, content: bytes, lengths: Sequence[int]) -> tuple[int, int]:
        """Send datagrams, which lie one behind the other, in order; return how many left, and their bytes. The others
        are dropped."""
        sizes, address, size_bytes = ffi.from_buffer("uint32_t[]", array("I", lengths)), self._address, self._bytes
        sent = lib.ftvm_datagrams_send(descriptor, address, len(address), content, sizes, len(lengths), size_bytes)
        return int(sent), int(size_bytes[0])

    def receive(self, descriptor: int, limit: int) -> tuple[list[bytes], int]:
        """Return what has come, `limit` at most, and how many datagrams of others were refused.

        Those that were refused count, so that a flood of them cannot hold the caller.
        """
        datagrams: list[bytes] = []
        refused, left = 0, limit
        came = wanted = 1
        while left > 0 and came == wanted:
            wanted = min(left, _AT_ONCE)
            came = int(lib.ftvm_datagrams_receive(descriptor, self._sender, self._room, self._lengths, wanted))
            left -= came
            for place, length in enumerate(ffi.unpack(self._lengths, came)):
                if length == _REFUSED:
                    refused += 1
                else:
                    at = place * _BYTES_EACH
                    datagrams.append(self._memory[at : at + length])
        return datagrams, refused
