"""The disk: what its server answers and bears, what it notes, and what its image holds whenever its host dies."""

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import GuestError
from ftvm.guests.qemu.disk import Disk, DiskServer
from ftvm.units import PAGE_BYTES

PAGES = 16
SIZE = PAGES * PAGE_BYTES
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
SLICE = 1 << 20
"""No thread of the host gets the interpreter while a request is copied, its loop's included."""
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
FUA = 1


class Client:
    """The other end: as far as QEMU goes, and further."""

    def __init__(self, disk: Disk) -> None:
        self.end, theirs = socket.socketpair()
        self.end.settimeout(30)
        self._theirs = theirs
        self._server = DiskServer(disk, theirs)

    def agree(self) -> None:
        assert self.take(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.end.sendall(struct.pack(">I", 3))
        assert self.option(8) == [((1 << 31) + 1, b"")]
        (info, export), (more, sizes), (ack, _) = self.option(7, struct.pack(">IH", 0, 0))
        assert (info, more, ack) == (3, 3, 1)
        assert struct.unpack(">HQH", export) == (0, SIZE, HAS_FLAGS | SEND_FLUSH | SEND_FUA)
        assert struct.unpack(">HIII", sizes) == (3, 1, PAGE_BYTES, SLICE)

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
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    opened = Disk(str(path), boots=True)
    opened.tracker.collect()
    yield opened
    opened.close()


@pytest.fixture
def client(disk: Disk) -> Iterator[Client]:
    made = Client(disk)
    yield made
    made.close()


def dirty(disk: Disk) -> set[int]:
    words = int.from_bytes(disk.tracker.collect().words[0], "little")
    return {page for page in range(PAGES) if words >> page & 1}


def image_of(disk: Disk) -> bytes:
    return disk.image.path.read_bytes()


# --- what the guest asks for ---


def test_what_is_written_can_be_read_and_is_in_the_image_once_it_is_flushed(disk: Disk, client: Client) -> None:
    client.agree()

    assert client.write(PAGE_BYTES - 3, b"across") == 0
    before = image_of(disk)
    assert client.ask(FLUSH) == 0

    assert client.read(PAGE_BYTES - 3, 6) == b"across"
    assert bytes(disk.buffer[PAGE_BYTES - 3 : PAGE_BYTES + 3]) == b"across"
    assert before == bytes(SIZE)
    assert image_of(disk)[PAGE_BYTES - 3 : PAGE_BYTES + 3] == b"across"
    assert dirty(disk) == {0, 1}
    assert dirty(disk) == set()


def test_what_is_written_through_is_in_the_image_when_it_is_answered(disk: Disk, client: Client) -> None:
    client.agree()
    client.write(0, b"before")

    assert client.write(PAGE_BYTES, b"through", flags=FUA) == 0

    assert image_of(disk) == bytes(disk.buffer)


@pytest.mark.parametrize("command", [TRIM, WRITE_ZEROES])
def test_what_asks_for_much_in_few_bytes_is_neither_offered_nor_done(command: int, disk: Disk, client: Client) -> None:
    """A stop waits for all that QEMU has asked: two gigabytes of zeros in one request would make its host silent."""
    client.agree()
    client.write(0, b"x" * SIZE)
    dirty(disk)

    assert client.ask(command, 0, SIZE) == errno.EINVAL

    assert client.read(0, SIZE) == b"x" * SIZE
    assert dirty(disk) == set()


@pytest.mark.parametrize("offset", [SIZE - 3, SIZE, SIZE + 1, 1 << 63])
def test_requests_outside_the_disk_are_refused_and_change_nothing(offset: int, disk: Disk, client: Client) -> None:
    client.agree()

    assert client.write(offset, b"beyond") == errno.ENOSPC
    assert client.ask(READ, offset, 6) == errno.EINVAL
    assert client.ask(99) == errno.EINVAL

    assert dirty(disk) == set()
    assert client.read(0, 4) == bytes(4)


@pytest.mark.parametrize("command", [READ, WRITE])
def test_a_request_of_more_than_a_slice_ends_the_connection_and_touches_nothing(
    command: int, disk: Disk, client: Client
) -> None:
    client.agree()

    client.end.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 77, 0, SLICE + 1))

    assert client.is_closed()
    assert "1048577 bytes at once" in str(disk.trouble)
    assert dirty(disk) == set()


@given(junk=st.binary(min_size=28, max_size=200))
def test_junk_ends_the_connection_and_touches_nothing(junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=True)
    client = Client(disk)
    client.agree()

    client.end.sendall(b"\xff" + junk)
    client.end.shutdown(socket.SHUT_WR)

    assert client.is_closed()
    assert bytes(disk.buffer) == bytes(SIZE)
    client.close()
    assert "magic" in str(disk.trouble)
    disk.close()


def test_a_client_that_leaves_in_the_middle_of_a_request_is_no_trouble(disk: Disk, client: Client) -> None:
    client.agree()

    client.end.sendall(struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 77, 0, 10) + b"half")
    client.close()

    assert disk.trouble is None
    assert dirty(disk) == set()


def test_a_client_that_agrees_on_nothing_is_let_go(client: Client) -> None:
    client.take(18)
    client.end.sendall(struct.pack(">I", 3))

    assert client.option(2) == [(1, b"")]

    assert client.is_closed()


def test_an_image_that_cannot_be_written_is_told_to_the_guest_and_here(disk: Disk, client: Client) -> None:
    client.agree()
    fill(disk)

    assert client.write(0, b"lost") == 0
    assert client.ask(FLUSH) == errno.ENOSPC

    assert disk.trouble is not None
    assert "cannot be written: No space left" in disk.trouble


# --- what the backup commits ---


def fill(disk: Disk) -> None:
    """Have the device behind the image full from now on."""
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), disk.image.descriptor)


def change(disk: Disk, *pages: int, fill: int) -> None:
    """Write pages as a commit does: behind the disk's back."""
    for page in pages:
        disk.buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([fill]) * PAGE_BYTES


def test_a_standbys_disk_is_empty_and_its_image_the_old_one_until_a_first_copy_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"o" * SIZE)
    disk = Disk(str(path), boots=False)
    assert bytes(disk.buffer) == bytes(SIZE)

    disk.discarded()
    change(disk, 2, fill=7)
    disk.committed([2])
    disk.image.sync()
    before = path.read_bytes()
    disk.completed()
    disk.image.sync()

    assert before == b"o" * SIZE
    assert path.read_bytes() == bytes(disk.buffer)
    disk.close()


def test_what_was_not_flushed_when_the_guest_left_is_committed_with_it(disk: Disk) -> None:
    disk.write(0, b"not flushed")

    disk.committed([])
    disk.image.sync()

    assert image_of(disk) == bytes(disk.buffer)


@pytest.mark.parametrize("what_follows", ["committed", "discarded", "close"])
def test_what_follows_a_stop_waits_for_the_flush_that_the_stop_owes(
    what_follows: str, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write to the image: the older one, if it came later, would undo the newer."""
    sync, is_asked, is_allowed, order = os.fdatasync, threading.Event(), threading.Event(), []

    def sync_late(descriptor: int) -> None:
        if not is_asked.is_set():
            is_asked.set()
            assert is_allowed.wait(60)
            order.append("owed")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync_late)
    disk.write(0, b"flushed as it stopped")
    disk.flusher.hurry()
    disk.flush()
    assert is_asked.wait(60)

    def follow() -> None:
        step = {"committed": lambda: disk.committed([]), "discarded": disk.discarded, "close": disk.close}[what_follows]
        step()
        order.append(what_follows)

    following = threading.Thread(target=follow)
    following.start()
    following.join(0.2)
    is_allowed.set()
    following.join(60)

    assert order == ["owed", what_follows]
    assert image_of(disk)[:21] == b"flushed as it stopped"


def test_what_was_not_flushed_and_is_discarded_never_reaches_the_image(disk: Disk) -> None:
    disk.write(0, b"of a lost branch")

    change(disk, 0, fill=0)
    disk.discarded()
    change(disk, 1, fill=1)
    disk.committed([1])
    disk.completed()
    disk.image.sync()

    assert image_of(disk) == bytes(PAGE_BYTES) + b"\1" * PAGE_BYTES + bytes(SIZE - 2 * PAGE_BYTES)


def test_a_backup_whose_image_cannot_be_written_says_so_with_the_next_commit(disk: Disk) -> None:
    fill(disk)
    change(disk, 3, fill=1)
    disk.committed([3])
    with pytest.raises(OSError, match="No space left"):
        disk.image.sync()

    with pytest.raises(GuestError, match="cannot be written: No space left"):
        disk.committed([3])


_BACKUP = """
import sys
from ftvm.guests.qemu.disk import Disk

disk = Disk(sys.argv[1], boots=False)
pages = range(disk.page_count)
disk.discarded()
for epoch in range(1, 1_000_000):
    disk.buffer[:] = bytes([epoch % 251]) * disk.size_bytes
    disk.committed(pages)
    disk.completed()
    if epoch % 5 == 0:
        disk.image.sync()
        print(epoch, flush=True)
    if epoch % 40 == 0:
        disk.discarded()
        disk.buffer[:] = bytes(disk.size_bytes)
"""


@pytest.mark.parametrize("epochs", [1, 3, 7, 8, 9, 12, 20, 33])
def test_the_image_of_a_backup_that_is_killed_is_one_epoch_and_none_before_the_last_that_was_safe(
    epochs: int, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 * PAGE_BYTES))
    with subprocess.Popen([sys.executable, "-c", _BACKUP, str(path)], stdout=subprocess.PIPE) as backup:
        assert backup.stdout is not None
        safe = [int(backup.stdout.readline()) for _ in range(epochs)][-1]
        backup.kill()
        safe = int((backup.stdout.read().split() or [safe])[-1])

    disk = Disk(str(path), boots=True)

    fills = set(disk.buffer)
    assert len(fills) == 1
    assert (fills.pop() - safe) % 251 < 6
    disk.close()
