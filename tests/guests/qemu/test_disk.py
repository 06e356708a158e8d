"""A guest's disk: what QEMU writes over NBD is in memory, noted as dirty, and in the image after a flush."""

import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native.bitmap import bitmap_indices
from ftvm.checkpoint import Bitmap
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.qemu.disk import Disk
from ftvm.guests.qemu.nbd import serve

PAGE = 4096
PAGES = 64


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk.img", PAGES * PAGE, tmp_path / "nbd")
    yield disk
    disk.close()


def dirty_pages(disk: Disk) -> list[int]:
    return list(bitmap_indices(Bitmap((PAGES,), (disk.collect_dirty(),))))


def test_written_pages_are_reported_once_and_no_others(disk: Disk) -> None:
    disk.write(PAGE - 1, b"ab")
    disk.zero(5 * PAGE, PAGE)

    assert dirty_pages(disk) == [0, 1, 5]
    assert dirty_pages(disk) == []


def test_pages_put_back_are_reported_again(disk: Disk) -> None:
    disk.write(3 * PAGE, b"x")
    words = disk.collect_dirty()

    disk.restore_dirty(words)

    assert dirty_pages(disk) == [3]


def test_a_flush_puts_what_was_written_into_the_image(disk: Disk, tmp_path: Path) -> None:
    disk.write(10 * PAGE + 7, b"kept")

    disk.flush()

    assert (tmp_path / "disk.img").read_bytes()[10 * PAGE + 7 :][:4] == b"kept"


def test_a_host_that_starts_from_the_image_ships_all_of_it(disk: Disk, tmp_path: Path) -> None:
    disk.write(0, b"first life")
    disk.close()

    reborn = Disk(tmp_path / "disk.img", PAGES * PAGE, tmp_path / "nbd")
    reborn.load()

    assert reborn.read(0, 10) == b"first life"
    assert dirty_pages(reborn) == list(range(PAGES))
    reborn.close()


def test_a_commit_on_a_backup_takes_along_what_it_had_not_saved_while_active(disk: Disk, tmp_path: Path) -> None:
    disk.write(2 * PAGE, b"unsaved")
    disk.region.buffer[9 * PAGE : 9 * PAGE + 9] = b"committed"

    disk.committed([9])
    disk.close()

    image = (tmp_path / "disk.img").read_bytes()
    assert image[2 * PAGE :].startswith(b"unsaved")
    assert image[9 * PAGE :].startswith(b"committed")


def test_what_a_deposed_host_had_not_saved_stays_out_of_the_image(disk: Disk, tmp_path: Path) -> None:
    disk.write(2 * PAGE, b"never happened")

    disk.discarded()
    disk.close()

    assert (tmp_path / "disk.img").read_bytes() == bytes(PAGES * PAGE)


def test_a_disk_that_is_no_whole_number_of_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5000 bytes"):
        Disk(tmp_path / "disk.img", 5000, tmp_path / "nbd")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_from_a_client_never_reaches_the_disk(noise: bytes) -> None:
    store, (ours, theirs) = Blocks(), socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack(">I", 3) + noise)
        theirs.shutdown(socket.SHUT_WR)

        try:
            serve(ours, store)
        except (GuestError, OSError):
            refused = True
        else:
            refused = False

    assert store.content == bytearray(PAGES * PAGE)
    assert refused or noise == b"" or b"IHAVEOPT" in noise


class Blocks:
    """A store that is nothing but bytes, and counts its flushes."""

    size_bytes = PAGES * PAGE

    def __init__(self) -> None:
        self.content = bytearray(self.size_bytes)
        self.flushes = 0

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, content: bytes) -> None:
        self.content[offset : offset + len(content)] = content

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [
        (0, PAGES * PAGE - 4, 8, 22),
        (1, PAGES * PAGE, 8, 28),
        (4, (1 << 64) - 1, 2, 28),
        (99, 0, 0, 22),
        (3, 0, 0, 0),
    ],
)
def test_a_request_beyond_the_disk_or_unknown_is_answered_with_an_error(
    command: int, offset: int, length: int, error: int
) -> None:
    store = Blocks()
    content = b"x" * length if command == 1 else b""
    request = struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, length) + content

    answered = converse(store, request)

    assert struct.unpack(">IIQ", answered[:16]) == (0x67446698, error, 77)
    assert store.content == bytearray(PAGES * PAGE)


def test_a_write_that_must_last_is_flushed_before_it_is_answered() -> None:
    store = Blocks()

    converse(store, struct.pack(">IHHQQI", 0x25609513, 1, 1, 1, 0, 2) + b"ok")

    assert (store.content[:2], store.flushes) == (b"ok", 1)


def converse(store: Blocks, request: bytes) -> bytes:
    """Choose the export by its name, send one request, return what is answered."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0) + request)
        theirs.shutdown(socket.SHUT_WR)
        serve(ours, store)
        ours.shutdown(socket.SHUT_WR)
        return theirs.makefile("rb").read()[18 + 10 :]


needs_qemu_io = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io (Debian: qemu-utils)")


@needs_qemu_io
def test_qemu_itself_reads_what_it_wrote(disk: Disk, tmp_path: Path) -> None:
    run = qemu_io(tmp_path, "write -P 0x5a 8192 12288", "read -P 0x5a 8192 12288", "write -z 8192 4096", "flush")

    assert "failed" not in run
    assert dirty_pages(disk) == [2, 3, 4]
    assert (tmp_path / "disk.img").read_bytes()[8192:20480] == bytes(4096) + b"\x5a" * 8192


@needs_qemu_io
def test_qemu_sees_the_size_and_may_connect_again(disk: Disk, tmp_path: Path) -> None:
    first = qemu_io(tmp_path, "length")
    second = qemu_io(tmp_path, "length")

    assert "256 KiB" in first
    assert "256 KiB" in second
    assert disk.error is None


def qemu_io(folder: Path, *commands: str) -> str:
    target = json.dumps(
        {"driver": "raw", "file": {"driver": "nbd", "server": {"type": "unix", "path": str(folder / "nbd")}}}
    )
    asked = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *asked, f"json:{target}"], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr
