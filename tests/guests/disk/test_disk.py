"""The disk: what its server answers and bears, and what it notes for the capture."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.disk.disk import Disk
from ftvm.units import PAGE_BYTES

from .conftest import SIZE, dirty, fill, image_of, own_bytes
from .nbd import FLUSH, FUA, READ, SLICE, TRIM, WRITE, WRITE_ZEROES, Client, request
from .witness import SYNC, Change, Gate, Witness
from .witness import WRITE as WROTE
from .witness import ZERO as ZEROED

# --- what the guest asks for ---


def test_what_is_written_can_be_read_and_is_replicated_and_on_the_device_once_it_is_flushed(
    disk: Disk, client: Client, witness: Witness
) -> None:
    client.agree()

    assert client.write(PAGE_BYTES - 3, b"across") == 0
    before = witness.kinds()
    assert client.ask(FLUSH) == 0

    assert client.read(PAGE_BYTES - 3, 6) == b"across"
    assert bytes(disk.buffer[PAGE_BYTES - 3 : PAGE_BYTES + 3]) == b"across"
    assert image_of(disk)[PAGE_BYTES - 3 : PAGE_BYTES + 3] == b"across"
    assert (before, witness.kinds()) == ([WROTE], [WROTE, SYNC])
    assert dirty(disk) == {0, 1}
    assert dirty(disk) == set()


def test_what_is_written_through_is_on_the_device_when_it_is_answered(client: Client, witness: Witness) -> None:
    client.agree()

    assert client.write(PAGE_BYTES, b"through", flags=FUA) == 0

    assert witness.kinds() == [WROTE, SYNC]


def test_what_comes_behind_a_flush_is_served_while_the_device_syncs(client: Client, witness: Witness) -> None:
    witness.decide = gate = Gate()
    client.agree()

    client.send(FLUSH, cookie=1)
    client.send(WRITE, 0, 4, b"next", cookie=2)
    first = client.answer()
    gate.permit()

    assert (first, client.answer()) == ((2, 0), (1, 0))
    gate.permit(100)


def test_more_flushes_than_the_server_keeps_are_all_answered(client: Client, witness: Witness) -> None:
    witness.decide = gate = Gate()
    client.agree()

    # All at once: whoever sends one by one may wait, and is woken only when three quarters of them were taken.
    client.end.sendall(b"".join(request(FLUSH, cookie=cookie) for cookie in range(300)))
    gate.permit(1_000)

    assert sorted(client.answer() for _ in range(300)) == [(cookie, 0) for cookie in range(300)]


@pytest.mark.parametrize("command", [TRIM, WRITE_ZEROES])
def test_what_asks_for_much_in_few_bytes_is_not_done(command: int, tmp_path: Path) -> None:
    """A stop waits for all that was asked, and an epoch ships it: gigabytes of zeros would make a host silent."""
    path = tmp_path / "large.img"
    path.write_bytes(b"x" * (SLICE + PAGE_BYTES))
    disk = Disk(str(path), boots=True)
    disk.collect()
    client = Client(disk).agree()

    assert client.ask(command, 0, SLICE + 1) == errno.EINVAL

    assert client.read(0, SLICE) == b"x" * SLICE
    assert disk.collect().count() == 0
    client.close()
    disk.close()


@pytest.mark.parametrize("offset", [SIZE - 3, SIZE, SIZE + 1, 1 << 63, (1 << 64) - 3])
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

    assert client.write(0, b"lost") == errno.ENOSPC

    assert disk.trouble is not None
    assert "cannot be written: No space left" in disk.trouble


def test_a_sync_that_failed_is_final(disk: Disk, client: Client, witness: Witness) -> None:
    """The system may have dropped what it could not write: a second sync that succeeds would be a lie."""
    client.agree()
    client.write(0, b"lost")
    witness.decide = lambda change: errno.EIO * (change.kind == SYNC)
    assert client.ask(FLUSH) == errno.EIO
    witness.decide = lambda _: 0

    assert client.ask(FLUSH) == errno.EIO
    assert client.write(0, b"again") == errno.EIO
    assert client.read(0, 4) == b"lost"

    assert "cannot be written: Input/output error" in str(disk.trouble)


# --- what the capture asks ---


class Slow:
    """A device that takes a write when a test says so."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self._permits = threading.Semaphore(0)

    def __call__(self, change: Change) -> int:
        if change.kind in (WROTE, ZEROED):
            self.is_asked.set()
            self._permits.acquire(timeout=20)  # a test that fails must end, too
        return 0

    def permit(self, count: int = 1_000) -> None:
        self._permits.release(count)


def test_a_guest_that_is_being_stopped_waits_for_no_device_that_is_behind(
    disk: Disk, client: Client, witness: Witness
) -> None:
    """Its stop is waited for by the host's loop: a device that is slow would look like a dead host."""
    client.agree()
    assert client.write(0, b"old" * PAGE_BYTES) == 0
    assert client.write(8 * PAGE_BYTES, b"z" * 3 * PAGE_BYTES) == 0
    dirty(disk)
    witness.decide = device = Slow()
    disk.hurry()

    assert client.write(PAGE_BYTES - 3, b"across" + b"n" * 2 * PAGE_BYTES) == 0
    assert client.ask(WRITE_ZEROES, 8 * PAGE_BYTES, 2 * PAGE_BYTES) == 0
    assert client.ask(FLUSH) == 0

    expected = b"old" * PAGE_BYTES
    expected = expected[: PAGE_BYTES - 3] + b"across" + b"n" * 2 * PAGE_BYTES + expected[3 * PAGE_BYTES + 3 :]
    assert client.read(0, 3 * PAGE_BYTES + 3) == expected[: 3 * PAGE_BYTES + 3]
    assert bytes(disk.buffer[: len(expected)]) == expected, "as the capture reads it"
    assert bytes(disk.buffer[8 * PAGE_BYTES : 11 * PAGE_BYTES]) == bytes(2 * PAGE_BYTES) + b"z" * PAGE_BYTES
    assert dirty(disk) == {0, 1, 2, 3, 8, 9}
    assert image_of(disk)[: 3 * PAGE_BYTES] == b"old" * PAGE_BYTES
    assert not device.is_asked.is_set()
    device.permit()
    disk.rest()
    wait_until(lambda: image_of(disk) == bytes(disk.buffer))
    wait_settled(disk)
    assert image_of(disk)[: len(expected)] == expected
    assert image_of(disk)[8 * PAGE_BYTES : 11 * PAGE_BYTES] == bytes(2 * PAGE_BYTES) + b"z" * PAGE_BYTES
    assert bytes(disk.buffer) == image_of(disk)
    assert witness.kinds()[-1] == SYNC


def test_a_write_that_is_under_way_when_its_guest_is_to_stop_goes_on_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.img"
    path.write_bytes(bytes(4 * SLICE))
    witness = Witness(device := Slow())
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    client = Client(disk).agree()

    client.send(WRITE, 0, SLICE, b"w" * SLICE)
    assert device.is_asked.wait(20)
    disk.hurry()
    device.permit(1)

    assert client.answer() == (77, 0)
    assert 0 < len(witness.seen[0].content) < SLICE
    assert bytes(disk.buffer[:SLICE]) == b"w" * SLICE
    assert image_of(disk).count(b"w") == len(witness.seen[0].content)
    device.permit()
    disk.rest()
    wait_settled(disk)
    client.ask(FLUSH)
    assert image_of(disk)[:SLICE] == b"w" * SLICE
    assert own_bytes(disk) == 0
    client.close()
    disk.close()
    witness.close()


def test_what_a_guest_wrote_while_it_stopped_is_on_its_image_when_the_disk_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"o" * 4 * PAGE_BYTES)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()
    disk.hurry()

    assert client.write(PAGE_BYTES, b"n" * PAGE_BYTES) == 0
    client.close()
    disk.close()

    assert path.read_bytes() == b"o" * PAGE_BYTES + b"n" * PAGE_BYTES + b"o" * 2 * PAGE_BYTES


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


def wait_settled(disk: Disk) -> None:
    """Have the guest go on, and wait until its image has all."""
    is_settled = threading.Event()
    disk.when_settled(lambda _: is_settled.set())
    assert is_settled.wait(20)


def test_an_image_that_cannot_be_read_is_told_and_ends_nobody(disk: Disk, client: Client) -> None:
    client.agree()
    os.ftruncate(disk.image.descriptor, PAGE_BYTES)

    assert client.ask(READ, 2 * PAGE_BYTES, 4) == errno.EIO
    assert bytes(disk.buffer[2 * PAGE_BYTES : 3 * PAGE_BYTES]) == bytes(PAGE_BYTES)

    with pytest.raises(
        GuestError, match=f"cannot be read: its image was cut to {PAGE_BYTES} bytes, and has to have {SIZE}"
    ):
        disk.require_readable()
    os.ftruncate(disk.image.descriptor, SIZE)
    assert client.write(2 * PAGE_BYTES, b"mended") == 0
    assert bytes(disk.buffer[2 * PAGE_BYTES : 2 * PAGE_BYTES + 6]) == b"mended"
    disk.require_readable()


def test_what_is_held_in_memory_outlives_an_image_that_cannot_be_read(disk: Disk, client: Client) -> None:
    """To show the image again would put its older pages over those that it has not got yet."""
    client.agree()
    disk.hurry()
    assert client.write(0, b"held") == 0
    os.ftruncate(disk.image.descriptor, PAGE_BYTES)
    assert bytes(disk.buffer[2 * PAGE_BYTES : 3 * PAGE_BYTES]) == bytes(PAGE_BYTES)
    os.ftruncate(disk.image.descriptor, SIZE)

    with pytest.raises(StateUnreadable):
        disk.require_readable()

    assert bytes(disk.buffer[:4]) == b"held"
    assert client.read(0, 4) == b"held"
    disk.rest()


def test_a_disk_whose_image_is_cut_short_is_noticed_before_it_is_read(disk: Disk) -> None:
    os.truncate(disk.image.path, PAGE_BYTES)

    with pytest.raises(StateUnreadable, match=f"its image was cut to {PAGE_BYTES} bytes"):
        disk.require_readable()


def test_a_disk_whose_file_system_is_full_says_so(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: on a full tmpfs a hole cannot be read, and was told as a broken device."""
    os.truncate(disk.image.path, PAGE_BYTES)
    assert bytes(disk.buffer[2 * PAGE_BYTES : 3 * PAGE_BYTES]) == bytes(PAGE_BYTES)
    os.truncate(disk.image.path, SIZE)
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=0))

    with pytest.raises(StateUnreadable, match=r"1 of its pages failed; the file system of .* is full, .*: free some"):
        disk.require_readable()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_an_image_without_a_name_is_noticed(disk: Disk, tmp_path: Path, is_replaced: bool) -> None:
    before = disk.why_nameless()
    if is_replaced:
        (tmp_path / "other.img").write_bytes(bytes(SIZE))
        (tmp_path / "other.img").replace(disk.image.path)
    else:
        disk.image.path.unlink()

    assert before is None
    assert (
        disk.why_nameless()
        == f"the image of the disk {disk.image.path} was deleted: it is gone for good when this host ends"
    )
    disk.require_readable()


def test_a_flush_and_a_write_with_fua_are_told_once(disk: Disk, client: Client) -> None:
    client.agree()
    found = [disk.take_flush()]
    for ask in (lambda: client.ask(FLUSH), lambda: client.write(0, b"fua", FUA), lambda: client.write(0, b"plain")):
        assert ask() == 0
        found += [disk.take_flush(), disk.take_flush()]

    assert found == [False, True, False, True, False, False, False]


def test_a_flush_while_the_guest_is_being_stopped_counts_unless_it_is_known_not_to_be_the_guests(
    disk: Disk, client: Client
) -> None:
    client.agree()
    disk.hurry()
    assert client.ask(FLUSH) == 0
    counted = disk.take_flush()
    assert client.ask(FLUSH) == 0

    assert disk.was_flushed_in_haste()

    assert counted
    assert not disk.take_flush()
    disk.note_flush()
    assert disk.take_flush()


def test_a_write_with_fua_is_the_guests_whenever_it_comes(disk: Disk, client: Client) -> None:
    """Whoever stops a guest flushes, and writes nothing."""
    client.agree()
    disk.hurry()

    assert client.write(0, b"fua", FUA) == 0

    assert not disk.was_flushed_in_haste()
    assert disk.take_flush()
