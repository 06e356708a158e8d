"""The disk's server: what it answers, what it notes, and what it bears."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.guests.qemu.disk import DiskImage, DiskServer
from ftvm.units import PAGE_BYTES

PAGES = 16
SIZE = PAGES * PAGE_BYTES
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1


class Client:
    """The other end: as far as QEMU goes, and further."""

    def __init__(self, image: DiskImage) -> None:
        self.end, theirs = socket.socketpair()
        self.end.settimeout(30)
        self._theirs = theirs
        self._server = DiskServer(image, theirs)

    def agree(self) -> None:
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.end.sendall(struct.pack(">I", 3))
        assert self.option(8) == [((1 << 31) + 1, b"")]
        (info, export), (ack, _) = self.option(7, struct.pack(">IH", 0, 0))
        assert (info, ack) == (3, 1)
        assert struct.unpack(">HQ", export[:10]) == (0, SIZE)

    def option(self, number: int, content: bytes = b"") -> list[tuple[int, bytes]]:
        self.end.sendall(struct.pack(">8sII", b"IHAVEOPT", number, len(content)) + content)
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, option) == (0x3E889045565A9, number)
            replies.append((kind, self.take(length)))
            if kind != 3:
                return replies

    def ask(self, command: int, offset: int = 0, length: int = 0, content: bytes = b"", flags: int = 0) -> int:
        """Send a request; return the error of the answer."""
        self.end.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, 77, offset, length) + content)
        magic, error, handle = struct.unpack(">IIQ", self.take(16))
        assert (magic, handle) == (0x67446698, 77)
        return int(error)

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

    def is_closed(self) -> bool:
        return self.end.recv(1) == b""

    def close(self) -> None:
        self.end.close()
        self._server.close()
        self._theirs.close()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[DiskImage]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    opened = DiskImage(str(path))
    opened.tracker.collect()
    yield opened
    opened.close()


@pytest.fixture
def client(image: DiskImage) -> Iterator[Client]:
    made = Client(image)
    yield made
    made.close()


def dirty(image: DiskImage) -> set[int]:
    words = int.from_bytes(image.tracker.collect().words[0], "little")
    return {page for page in range(PAGES) if words >> page & 1}


def test_what_is_written_can_be_read_and_is_in_the_region_and_the_file(image: DiskImage, client: Client) -> None:
    client.agree()

    assert client.write(PAGE_BYTES - 3, b"across") == 0
    assert client.ask(FLUSH) == 0

    assert client.read(PAGE_BYTES - 3, 6) == b"across"
    assert bytes(image.buffer[PAGE_BYTES - 3 : PAGE_BYTES + 3]) == b"across"
    assert Path(image.path).read_bytes()[PAGE_BYTES - 3 : PAGE_BYTES + 3] == b"across"
    assert dirty(image) == {0, 1}
    assert dirty(image) == set()


def test_zeroes_are_written_and_noted(image: DiskImage, client: Client) -> None:
    client.agree()
    client.write(0, b"x" * SIZE)
    dirty(image)

    assert client.ask(WRITE_ZEROES, PAGE_BYTES, 2 * PAGE_BYTES, flags=FUA) == 0

    assert bytes(image.buffer) == b"x" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"x" * (SIZE - 3 * PAGE_BYTES)
    assert dirty(image) == {1, 2}


def test_trim_is_a_hint_that_changes_nothing(client: Client) -> None:
    client.agree()
    client.write(0, b"kept")

    assert client.ask(TRIM, 0, PAGE_BYTES) == 0

    assert client.read(0, 4) == b"kept"


@pytest.mark.parametrize("offset", [SIZE - 3, SIZE, SIZE + 1, 1 << 63])
def test_requests_outside_the_disk_are_refused_and_change_nothing(
    offset: int, image: DiskImage, client: Client
) -> None:
    client.agree()

    assert client.write(offset, b"beyond") == errno.ENOSPC
    assert client.ask(READ, offset, 6) == errno.EINVAL
    assert client.ask(WRITE_ZEROES, offset, 6) == errno.EINVAL
    assert client.ask(99) == errno.EINVAL

    assert dirty(image) == set()
    assert client.read(0, 4) == bytes(4)


@given(junk=st.binary(min_size=28, max_size=200))
def test_junk_ends_the_connection_and_touches_nothing(junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.img"
    path.write_bytes(bytes(SIZE))
    image = DiskImage(str(path))
    client = Client(image)
    client.agree()

    client.end.sendall(b"\xff" + junk)
    client.end.shutdown(socket.SHUT_WR)

    assert client.is_closed()
    assert bytes(image.buffer) == bytes(SIZE)
    client.close()
    image.close()


def test_a_client_that_agrees_on_nothing_is_let_go(client: Client) -> None:
    client.take(18)
    client.end.sendall(struct.pack(">I", 3))

    assert client.option(2) == [(1, b"")]

    assert client.is_closed()


def test_a_disk_that_cannot_be_written_is_told(image: DiskImage, client: Client) -> None:
    client.agree()
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), image.descriptor)

    assert client.write(0, b"lost") == errno.ENOSPC

    assert image.trouble is not None
    assert "No space left" in image.trouble


def test_an_image_belongs_to_one_host(image: DiskImage) -> None:
    with pytest.raises(ConfigError, match="is in use: each host of a guest needs an image of its own"):
        DiskImage(image.path)


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES + 1])
def test_images_of_odd_size_are_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(size))

    with pytest.raises(ConfigError, match=f"has {size} bytes"):
        DiskImage(str(path))


def test_a_missing_image_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="truncate -s 1G"):
        DiskImage(str(tmp_path / "none.img"))
