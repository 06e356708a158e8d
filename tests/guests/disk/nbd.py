"""An NBD client: as far as QEMU goes, and further."""

import socket
import struct

from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.server import DiskServer

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
SLICE = 1 << 20
HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES = 1, 4, 8, 32, 64
OFFERED = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES


def request(
    command: int, offset: int = 0, length: int = 0, content: bytes = b"", flags: int = 0, cookie: int = 77
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + content


class Client:
    """The other end of a disk's server."""

    def __init__(self, disk: Disk) -> None:
        self.end, theirs = socket.socketpair()
        self.end.settimeout(60)
        self._disk, self._theirs = disk, theirs
        self._server = DiskServer(disk, theirs)

    def agree(self) -> "Client":
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.end.sendall(struct.pack(">I", 3))
        assert self.option(8) == [((1 << 31) + 1, b"")]
        (info, export), (more, sizes), (ack, _) = self.option(7, struct.pack(">IH", 0, 0))
        assert (info, more, ack) == (3, 3, 1)
        assert struct.unpack(">HQH", export) == (0, self._disk.size_bytes, OFFERED)
        assert struct.unpack(">HIII", sizes) == (3, 1, 4096, SLICE)
        return self

    def option(self, number: int, content: bytes = b"") -> list[tuple[int, bytes]]:
        self.end.sendall(struct.pack(">8sII", b"IHAVEOPT", number, len(content)) + content)
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, option) == (0x3E889045565A9, number)
            replies.append((kind, self.take(length)))
            if kind != 3:
                return replies

    def send(
        self, command: int, offset: int = 0, length: int = 0, content: bytes = b"", flags: int = 0, cookie: int = 77
    ) -> None:
        """Send a request, and wait for no answer."""
        self.end.sendall(request(command, offset, length, content, flags, cookie))

    def answer(self) -> tuple[int, int]:
        """Return the cookie and the error of the next answer."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == 0x67446698
        return cookie, error

    def ask(self, command: int, offset: int = 0, length: int = 0, content: bytes = b"", flags: int = 0) -> int:
        """Send a request; return the error of the answer."""
        self.send(command, offset, length, content, flags)
        cookie, error = self.answer()
        assert cookie == 77
        return error

    def write(self, offset: int, content: bytes, flags: int = 0) -> int:
        return self.ask(WRITE, offset, len(content), content, flags)

    def read(self, offset: int, length: int) -> bytes:
        assert self.ask(READ, offset, length) == 0
        return self.take(length)

    def take(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            part = self.end.recv(size - len(content))
            assert part, "the server has closed"
            content += part
        return content

    def is_silent(self) -> bool:
        """Tell whether no answer has come so far."""
        self.end.setblocking(False)
        try:
            self.end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.end.settimeout(60)
        return False

    def is_closed(self) -> bool:
        return self.end.recv(1) == b""

    def close(self) -> None:
        self.end.close()
        self._server.close()
        self._theirs.close()
