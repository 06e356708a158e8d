"""The disk: what its server answers and bears, what it notes, and what its image holds whenever its host dies."""

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.disk import disk as disk_module
from ftvm.guests.disk.disk import Disk
from ftvm.units import PAGE_BYTES

from .nbd import FLUSH, FUA, READ, SLICE, TRIM, WRITE, WRITE_ZEROES, Client
from .witness import SYNC, Gate, Witness
from .witness import WRITE as WROTE

PAGES = 16
SIZE = PAGES * PAGE_BYTES


@pytest.fixture
def witness() -> Iterator[Witness]:
    made = Witness()
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path, witness: Witness) -> Iterator[Disk]:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    opened = Disk(str(path), boots=True, witnesses=witness.descriptors)
    opened.collect()
    yield opened
    opened.close()


@pytest.fixture
def client(disk: Disk) -> Iterator[Client]:
    made = Client(disk)
    yield made
    made.close()


def dirty(disk: Disk) -> set[int]:
    words = int.from_bytes(disk.collect().words[0], "little")
    return {page for page in range(PAGES) if words >> page & 1}


def image_of(disk: Disk) -> bytes:
    return disk.image.path.read_bytes()


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

    for cookie in range(300):
        client.send(FLUSH, cookie=cookie)
    gate.permit(1_000)

    assert sorted(client.answer() for _ in range(300)) == [(cookie, 0) for cookie in range(300)]


@pytest.mark.parametrize(("command", "left"), [(TRIM, "x"), (WRITE_ZEROES, "\0")])
def test_zeros_are_read_where_blocks_were_trimmed_or_made_zero_and_the_image_is_sparse_there(
    command: int, left: str, disk: Disk, client: Client
) -> None:
    """Trimming leaves the parts of blocks as they were."""
    client.agree()
    client.write(0, b"x" * SIZE)
    dirty(disk)
    blocks = os.fstat(disk.image.descriptor).st_blocks

    assert client.ask(command, PAGE_BYTES - 5, 3 * PAGE_BYTES) == 0

    edge = left.encode()
    wanted = b"x" * (PAGE_BYTES - 5) + edge * 5 + bytes(2 * PAGE_BYTES) + edge * (PAGE_BYTES - 5) + b"x" * 5
    assert client.read(0, 4 * PAGE_BYTES) == wanted == bytes(disk.buffer[: 4 * PAGE_BYTES])
    assert dirty(disk) == ({1, 2} if command == TRIM else {0, 1, 2, 3})
    assert os.fstat(disk.image.descriptor).st_blocks < blocks


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


@contextmanager
def flooded_disk(folder: Path) -> Iterator[tuple[Disk, Client]]:
    """A disk of whose pages as many were written since the last cut as may be."""
    path = folder / "large.img"
    path.touch()
    os.truncate(path, 128 << 20)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()
    disk.collect()
    for offset in range(0, 64 << 20, SLICE):
        assert client.write(offset, b"f" * SLICE) == 0
    yield disk, client
    client.close()
    disk.close()


@pytest.fixture
def flooded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Disk, Client]]:
    """One whose guest has all the patience that a test needs."""
    monkeypatch.setattr(disk_module, "_PATIENCE_MS", 600_000)
    with flooded_disk(tmp_path) as made:
        yield made


def test_a_guest_that_writes_faster_than_epochs_are_cut_waits_for_the_next(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded
    client.send(WRITE, 64 << 20, 4, b"more")
    assert client.is_silent()

    written = disk.collect()

    assert client.answer() == (77, 0)
    assert written.count() == (64 << 20) // PAGE_BYTES
    assert disk.collect().count() == 1


def test_a_guest_that_is_being_stopped_waits_for_no_cut(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded
    client.send(WRITE, 64 << 20, 4, b"more")

    disk.hurry()

    assert client.answer() == (77, 0)
    assert disk.collect().count() == (64 << 20) // PAGE_BYTES + 1


def test_a_guest_that_nobody_cuts_goes_on_after_a_while_and_waits_no_more(tmp_path: Path) -> None:
    with flooded_disk(tmp_path) as (_, client):
        for offset in range(64 << 20, 96 << 20, SLICE):
            assert client.write(offset, b"f" * SLICE) == 0


def test_a_disk_takes_no_memory_for_what_its_image_has(flooded: tuple[Disk, Client]) -> None:
    disk, client = flooded

    assert client.read(0, 4) == b"ffff"
    assert bytes(disk.buffer[:4]) == b"ffff"

    assert own_bytes(disk) == 0


def own_bytes(disk: Disk) -> int:
    """Return how much of a disk's memory is this process's own."""
    with open("/proc/self/smaps", encoding="ascii") as maps:
        lines = iter(maps)
        found = [field_of(lines, "Anonymous") for line in lines if line.rstrip().endswith(str(disk.image.path))]
    assert found, "the disk is mapped"
    return sum(found)


def field_of(lines: Iterator[str], name: str) -> int:
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


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

    with pytest.raises(StateUnreadable, match=r"1 of its pages failed; its file system is full, .*: free some space"):
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


def test_what_was_not_flushed_when_the_guest_left_is_on_the_device_before_the_next_commit(
    disk: Disk, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's journal repeats that step alone: it must find what the guest wrote before."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    client.agree().write(0, b"not flushed")
    client.close()

    disk.committed([])
    change(disk, 3, fill=3)
    disk.committed([3])
    disk.image.sync()

    assert synced[0] == disk.image.descriptor
    assert len(synced) == 3, "then the journal, then the step"
    assert image_of(disk) == bytes(disk.buffer)


@pytest.mark.parametrize("what_follows", ["committed", "discarded", "close"])
def test_what_follows_a_stop_waits_for_the_flush_that_the_stop_owes(
    what_follows: str, disk: Disk, client: Client, witness: Witness
) -> None:
    """Both write to the image: the older one, if it came later, would undo the newer."""
    witness.decide = gate = Gate()
    order = []
    client.agree().write(0, b"flushed as it stopped")
    disk.hurry()
    assert client.ask(FLUSH) == 0
    assert gate.is_asked.wait(60)

    def follow() -> None:
        step = {"committed": lambda: disk.committed([]), "discarded": disk.discarded, "close": disk.close}[what_follows]
        step()
        order.append(what_follows)

    following = threading.Thread(target=follow)
    following.start()
    following.join(0.2)
    order.append("owed")
    gate.permit(2)
    following.join(60)

    assert order == ["owed", what_follows]
    assert disk.image.path.read_bytes()[:21] == b"flushed as it stopped"


def test_what_is_discarded_is_not_in_the_image_that_takes_its_place(disk: Disk, client: Client) -> None:
    client.agree().write(0, b"of a lost branch")
    client.close()

    disk.discarded()
    change(disk, 1, fill=1)
    disk.committed([1])
    disk.completed()
    disk.image.sync()

    assert image_of(disk) == bytes(PAGE_BYTES) + b"\1" * PAGE_BYTES + bytes(SIZE - 2 * PAGE_BYTES)


def test_a_backup_whose_image_cannot_be_written_says_so_with_the_next_commit(disk: Disk) -> None:
    disk.committed([2])
    disk.image.sync()
    fill(disk)
    change(disk, 3, fill=1)
    disk.committed([3])
    with pytest.raises(OSError, match="No space left"):
        disk.image.sync()

    with pytest.raises(GuestError, match="cannot be written: No space left"):
        disk.committed([3])


_BACKUP = """
import sys
from ftvm.guests.disk.disk import Disk

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
    with subprocess.Popen([sys.executable, "-P", "-c", _BACKUP, str(path)], stdout=subprocess.PIPE) as backup:
        assert backup.stdout is not None
        safe = [int(backup.stdout.readline()) for _ in range(epochs)][-1]
        backup.kill()
        safe = int((backup.stdout.read().split() or [safe])[-1])

    disk = Disk(str(path), boots=True)

    fills = set(disk.buffer)
    assert len(fills) == 1
    assert (fills.pop() - safe) % 251 < 6
    disk.close()


@pytest.mark.parametrize("command", [TRIM, WRITE_ZEROES])
def test_what_is_a_hole_already_is_neither_written_nor_replicated_when_it_is_made_zero(
    command: int, disk: Disk, client: Client, witness: Witness
) -> None:
    """A guest that trims its whole disk would else have all of it shipped."""
    os.truncate(disk.image.path, 0)
    os.truncate(disk.image.path, SIZE)
    client.agree()

    assert client.ask(command, 0, SIZE) == 0

    assert (witness.seen, dirty(disk)) == ([], set())
    assert client.read(0, SIZE) == bytes(SIZE)


def test_a_standbys_image_is_sparse_where_the_guests_disk_is_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False)
    disk.discarded()
    disk.buffer[:] = b"x" * SIZE
    disk.committed(range(PAGES))
    disk.completed()
    disk.image.sync()
    before = os.stat(path).st_blocks

    disk.buffer[: 8 * PAGE_BYTES] = bytes(8 * PAGE_BYTES)
    disk.committed(range(8))
    disk.close()

    assert path.read_bytes() == bytes(8 * PAGE_BYTES) + b"x" * (SIZE - 8 * PAGE_BYTES)
    assert os.stat(path).st_blocks < before


def test_the_first_look_at_a_sparse_disk_finds_what_has_data_and_no_more(tmp_path: Path) -> None:
    """The zeros of a large disk are nothing to a standby, whose memory begins as zeros."""
    path = tmp_path / "disk.img"
    with path.open("wb") as image:
        image.truncate(SIZE)
        image.seek(3 * PAGE_BYTES)
        image.write(b"x" * 2 * PAGE_BYTES)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()

    client.write(9 * PAGE_BYTES, b"y")

    assert dirty(disk) == {3, 4, 9}
    assert dirty(disk) == set()
    client.close()
    disk.close()


def test_the_first_look_at_a_disk_that_has_taken_over_finds_at_least_what_is_not_zero(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False)
    disk.discarded()
    disk.buffer[PAGE_BYTES : 2 * PAGE_BYTES] = b"x" * PAGE_BYTES
    disk.committed([1])
    disk.completed()

    disk.when_settled(lambda _: None)

    assert dirty(disk) >= {1}
    disk.close()


def test_what_may_not_be_zero_is_known_however_it_came_there(tmp_path: Path, witness: Witness) -> None:
    """A page that is left out of a first copy is zeros on the standby, whatever it is here."""
    path = tmp_path / "disk.img"
    with path.open("wb") as image:
        image.truncate(SIZE)
        image.seek(3 * PAGE_BYTES)
        image.write(b"x" * PAGE_BYTES)
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    client = Client(disk).agree()
    disk.collect()

    client.write(9 * PAGE_BYTES + 7, b"y")
    client.ask(WRITE_ZEROES, 12 * PAGE_BYTES, PAGE_BYTES)
    found = int.from_bytes(disk.present(), "little")

    assert {page for page in range(PAGES) if found >> page & 1} == {3, 9}
    client.close()
    disk.close()


def test_all_of_a_disk_may_not_be_zero_while_its_file_is_behind(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False)
    disk.discarded()

    assert int.from_bytes(disk.present(), "little") == (1 << PAGES) - 1
    disk.close()


@given(writes=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE), st.booleans()), max_size=8))
def test_a_page_that_is_not_present_is_zeros(tmp_path_factory: pytest.TempPathFactory, writes: list[object]) -> None:
    path = tmp_path_factory.mktemp("present") / "disk.img"
    with path.open("wb") as image:
        image.truncate(SIZE)
    disk = Disk(str(path), boots=True)
    client = Client(disk).agree()

    for start, length, is_zero in writes:  # type: ignore[misc]
        length = min(length, SIZE - start)
        if is_zero:
            client.ask(WRITE_ZEROES, start, length)
        else:
            client.write(start, b"x" * length)
    found = int.from_bytes(disk.present(), "little")

    for page in range(PAGES):
        assert found >> page & 1 or not any(disk.buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
    client.close()
    disk.close()
