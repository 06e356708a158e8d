"""What a disk holds: what a backup commits, whenever its host dies, and where it is zeros."""

import errno
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import GuestError
from ftvm.guests.disk.disk import Disk
from ftvm.units import PAGE_BYTES

from .conftest import PAGES, SIZE, dirty, fill, image_of, own_bytes
from .nbd import FLUSH, TRIM, WRITE_ZEROES, Client
from .witness import WRITE, Change, Gate, Witness

# --- what the backup commits ---


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


def owe_a_flush(disk: Disk, client: Client, witness: Witness) -> Gate:
    """Have a guest stop whose device has not done its flush yet, and return that device."""
    witness.decide = gate = Gate()
    client.agree().write(0, b"flushed as it stopped")
    disk.hurry()
    assert client.ask(FLUSH) == 0
    disk.rest()
    assert gate.is_asked.wait(60)
    return gate


@pytest.mark.parametrize("what_follows", ["committed", "discarded", "close"])
def test_what_follows_a_stop_waits_for_the_flush_that_the_stop_owes(
    what_follows: str, disk: Disk, client: Client, witness: Witness
) -> None:
    """Both write to the image: the older one, if it came later, would undo the newer."""
    gate = owe_a_flush(disk, client, witness)
    order = []

    def follow() -> None:
        step = {"committed": lambda: disk.committed([]), "discarded": disk.discarded, "close": disk.close}[what_follows]
        step()
        if what_follows != "close":  # which waits itself
            disk.image.sync()
        order.append(what_follows)

    following = threading.Thread(target=follow)
    following.start()
    following.join(0.2)
    order.append("owed")
    gate.permit(2)
    following.join(60)

    assert order == ["owed", what_follows]
    assert disk.image.path.read_bytes()[:21] == b"flushed as it stopped"


def test_no_device_holds_up_whoever_commits_behind_a_stop(disk: Disk, client: Client, witness: Witness) -> None:
    """It is the host's loop: while it waits for a device, the other host takes it for dead."""
    gate = owe_a_flush(disk, client, witness)
    told: list[str | None] = []

    disk.committed([])
    change(disk, 0, 3, fill=3)
    disk.committed([0, 3])
    disk.persist(told.append)
    untouched = disk.image.path.read_bytes()

    assert untouched == b"flushed as it stopped".ljust(SIZE, b"\0"), "the guest's sync is not done yet"
    assert told == [], "nothing is called durable before"
    gate.permit(2)
    disk.image.sync()
    assert told == [None]
    assert disk.image.path.read_bytes() == bytes(disk.buffer)


def test_a_block_on_its_way_to_the_device_as_the_guest_leaves_is_what_is_committed_then(
    disk: Disk, client: Client, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its write ends behind the commit, and lets go of no memory: the image has nothing of the commit yet."""
    is_asked, may_end = threading.Event(), threading.Event()
    has_ended, may_go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _: (has_ended.set(), may_go_on.wait(60)))

    def decide(change: Change) -> int:
        if change.kind == WRITE:
            is_asked.set()
            may_end.wait(60)
        return 0

    client.agree()
    witness.decide = decide
    disk.hurry()
    client.write(0, b"held as it stopped")
    disk.rest()
    assert is_asked.wait(60)

    disk.committed([])
    change(disk, 0, fill=3)
    disk.committed([0])
    may_end.set()
    assert has_ended.wait(60)
    kept = own_bytes(disk)
    may_go_on.set()
    disk.image.sync()

    assert kept == PAGE_BYTES
    assert bytes(disk.buffer)[:PAGE_BYTES] == disk.image.path.read_bytes()[:PAGE_BYTES] == b"\3" * PAGE_BYTES


def test_a_sync_that_fails_behind_a_stop_fails_the_standbys_image(disk: Disk, client: Client, witness: Witness) -> None:
    """A system tells the failure of a sync once: the image's own, behind it, would succeed."""
    gate = owe_a_flush(disk, client, witness)
    gate.error = errno.EIO
    told: list[str | None] = []

    disk.committed([])
    disk.persist(told.append)
    gate.permit(2)
    with pytest.raises(OSError, match="Input/output"):
        disk.image.sync()

    assert told == [f"the disk {disk.image.path} cannot be written: Input/output error"]


def test_a_guest_that_comes_back_before_the_device_is_done_gets_the_image_behind_what_was_committed(
    disk: Disk, client: Client, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it flushes then is durable when it is told so: only the flushes from before are the standby's."""
    is_behind, may_go_on, sync = threading.Event(), threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (is_behind.set(), may_go_on.wait(60), sync(descriptor)))
    gate = owe_a_flush(disk, client, witness)
    disk.committed([])
    change(disk, 0, 3, fill=3)
    disk.committed([0, 3])
    settled: Queue[str | None] = Queue()

    disk.when_settled(settled.put)
    client.write(0, b"of the guest again")
    client.send(FLUSH, cookie=5)
    assert client.read(0, 17) == b"of the guest again"[:17], "so the flush was heard"
    gate.permit(9)
    assert is_behind.wait(60)
    answered, _, _ = select.select([client.end], [], [], 0.1)
    may_go_on.set()

    assert answered == []
    assert client.answer() == (5, 0)
    assert settled.get(timeout=60) is None
    wanted = b"of the guest again".ljust(PAGE_BYTES, b"\3")
    assert disk.image.path.read_bytes()[:PAGE_BYTES] == wanted
    assert bytes(disk.buffer)[:PAGE_BYTES] == wanted


def test_a_flush_of_a_guest_that_came_back_is_owed_whatever_was_forgiven(disk: Disk, client: Client) -> None:
    client.agree()
    store = disk._store
    store.let_go()
    client.send(FLUSH, cookie=1)
    client.read(0, 1)  # so the flush was heard
    store.let_go()
    client.send(FLUSH, cookie=2)
    client.read(0, 1)

    store.hold()
    store.forgive()

    assert client.answer() == (1, 0)
    assert not store.settle(store.asked(), 0)


def test_what_follows_a_stop_that_nobody_heard_the_end_of_waits_for_no_word_of_it(disk: Disk, client: Client) -> None:
    """A QEMU that dies while it is stopped never rests: what it wrote meanwhile is still held."""
    client.agree()
    disk.hurry()
    client.write(0, b"held as it stopped")
    assert client.ask(FLUSH) == 0

    disk.committed([])

    disk.image.sync()
    assert disk.image.path.read_bytes()[:18] == b"held as it stopped"


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


# --- where it is zeros ---


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


def test_of_a_disk_that_has_taken_over_what_is_not_zero_is_present(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=False)
    disk.discarded()
    disk.buffer[PAGE_BYTES : 2 * PAGE_BYTES] = b"x" * PAGE_BYTES
    disk.committed([1])
    disk.completed()

    disk.when_settled(lambda _: None)

    assert int.from_bytes(disk.present(), "little") >> 1 & 1
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


def test_a_page_is_present_as_soon_as_it_is_committed_whether_the_file_has_it_or_not(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"old" * (SIZE // 3) + b"!")
    disk = Disk(str(path), boots=False)
    found = [int.from_bytes(disk.present(), "little")]
    disk.discarded()
    disk.buffer[5 * PAGE_BYTES] = 1

    disk.committed([5])
    found.append(int.from_bytes(disk.present(), "little"))
    disk.completed()
    disk.image.sync()
    found.append(int.from_bytes(disk.present(), "little"))
    disk.committed([6])
    found.append(int.from_bytes(disk.present(), "little"))

    assert found == [0, 1 << 5, 1 << 5, 1 << 5 | 1 << 6]
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
