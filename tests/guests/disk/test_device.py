"""A block device as a guest's disk: what a file can do is done for it, and nothing lies beside it."""

import errno
import os
import stat
import time
from pathlib import Path
from queue import Queue

import pytest

from ftvm.checkpoint import Footing
from ftvm.cli.disk import show
from ftvm.guests.blockdevice import side_path
from ftvm.guests.disk import fresh as fresh_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.disk.label import read_label
from ftvm.guests.imagefile import image_bytes
from ftvm.units import PAGE_BYTES

from .devices import PAGES, SIZE, change, copied, pages_of
from .nbd import FLUSH, TRIM, Client


def test_a_device_has_the_size_that_the_kernel_says(device: Path) -> None:
    assert image_bytes(str(device)) == SIZE


def test_a_guest_writes_to_the_device_and_nothing_is_left_beside_it(device: Path, tmp_path: Path) -> None:
    place = Path(os.path.realpath(device))
    before, devices = os.stat(place), sorted(os.listdir(place.parent))
    disk = Disk(str(device), boots=True)
    client = Client(disk).agree()

    assert client.read(5, 3) == b"ooo"
    client.write(PAGE_BYTES, b"written")
    assert client.ask(FLUSH) == 0
    client.close()
    disk.close()

    assert place.read_bytes()[: PAGE_BYTES + 7] == b"o" * PAGE_BYTES + b"written"
    assert sorted(os.listdir(place.parent)) == devices
    assert os.listdir(device.parent) == ["disk"]
    assert device.is_symlink()
    after = os.stat(place)
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_size) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
        0,
    )
    (folder,) = (tmp_path / "state").iterdir()
    assert [path.name for path in folder.iterdir()] == ["disk.label"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_guest_trims_reads_as_zeros_on_the_device_too(device: Path) -> None:
    disk = Disk(str(device), boots=True)
    client = Client(disk).agree()

    assert client.ask(TRIM, PAGE_BYTES, 2 * PAGE_BYTES) == 0
    client.close()
    disk.close()

    assert pages_of(device.read_bytes())[:4] == [ord("o"), 0, 0, ord("o")]


def test_all_of_a_device_is_copied_as_it_tells_no_holes(device: Path) -> None:
    disk = Disk(str(device), boots=True)

    assert disk.present() == bytearray(b"\xff" * (PAGES // 8))
    assert disk.has_content
    disk.close()


def test_a_device_is_the_old_one_until_a_copy_is_whole_and_then_the_new_one(device: Path, tmp_path: Path) -> None:
    disk = copied(device, {2: 7, 40: 9}, kept=tuple(range(10, 30)))
    disk.image.sync()
    before = device.read_bytes()

    disk.completed()
    disk.image.sync()
    disk.committed([])
    disk.close()

    wanted = [7 if page == 2 else 9 if page == 40 else ord("o") if 10 <= page < 30 else 0 for page in range(PAGES)]
    assert before == b"o" * SIZE
    assert pages_of(device.read_bytes()) == wanted
    assert [path.name for path in next((tmp_path / "state").iterdir()).iterdir()] == ["disk.label"]


def test_long_runs_that_are_the_same_stay_on_the_device_and_short_ones_are_copied(device: Path, tmp_path: Path) -> None:
    """A process has room for so many mappings only."""
    disk = copied(device, {63: 1}, kept=(*range(16), 20, 21, *range(32, 48)))
    disk.image.sync()

    (stage,) = tmp_path.glob("state/*/disk.new")
    found = pages_of(stage.read_bytes()[:SIZE])
    assert [page for page in range(PAGES) if found[page]] == [20, 21, 63]
    assert [page for page in range(PAGES) if disk.buffer[page * PAGE_BYTES]] == [*range(16), 20, 21, *range(32, 48), 63]
    disk.close()


def test_what_is_put_over_what_was_kept_is_shown_whatever_is_dropped(device: Path) -> None:
    disk = copied(device, {2: 7}, kept=tuple(range(32)))
    change(disk, 5, fill=5)
    disk.committed([5])
    disk.image.sync()

    disk.committed([2])
    seen = pages_of(disk.buffer)[:8]
    disk.completed()
    disk.image.sync()
    disk.committed([6])
    disk.image.sync()
    disk.committed([7])

    assert seen == [111, 111, 7, 111, 111, 5, 111, 111]
    assert pages_of(disk.buffer)[:8] == seen
    disk.close()
    assert pages_of(device.read_bytes())[:8] == seen


def test_a_device_that_is_moved_to_is_what_the_memory_shows_then(device: Path) -> None:
    """What somebody writes to the device shows, but under what this process holds."""
    disk = copied(device, {2: 7})
    disk.completed()
    disk.image.sync()
    change(disk, 3, fill=3)

    disk.committed([3])
    os.pwrite(disk.image.descriptor, b"x" * (2 * PAGE_BYTES), 2 * PAGE_BYTES)

    assert pages_of(disk.buffer)[:4] == [0, 0, ord("x"), 3]
    disk.close()


@pytest.fixture
def may_move(monkeypatch: pytest.MonkeyPatch) -> Queue[bool]:
    """Each `True` lets one page of a copy be moved to its device."""
    monkeypatch.setattr(fresh_module, "_SLICE_PAGES", 1)
    permits, move = Queue[bool](), fresh_module.DeviceCopy.move
    monkeypatch.setattr(
        fresh_module.DeviceCopy, "move", lambda stage, device: permits.get(timeout=60) and move(stage, device)
    )
    return permits


def move_some(may_move: Queue[bool], count: int) -> None:
    """Let so many pages be moved, and return when the last is begun."""
    for _ in range(count):
        may_move.put(True)
    while not may_move.empty():
        time.sleep(0.001)


def move_all(may_move: Queue[bool]) -> None:
    for _ in range(3 * PAGES):
        may_move.put(True)


def test_a_guest_that_takes_over_while_its_copy_is_moved_reads_and_writes_the_whole(
    device: Path, may_move: Queue[bool]
) -> None:
    disk = copied(device, {2: 7}, kept=tuple(range(32, 64)))
    disk.completed()
    settled: Queue[str | None] = Queue()
    disk.when_settled(settled.put)
    client = Client(disk).agree()

    client.write(3 * PAGE_BYTES, b"while it is moved")
    seen = client.read(2 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert client.read(40 * PAGE_BYTES, 2) == b"oo"
    move_all(may_move)
    assert client.ask(FLUSH) == 0
    client.write(4 * PAGE_BYTES, b"when it is moved")
    assert client.ask(FLUSH) == 0

    assert settled.get(timeout=60) is None
    assert seen == b"\7" * PAGE_BYTES + b"while it is moved".ljust(PAGE_BYTES, b"\0")
    assert bytes(disk.buffer) == device.read_bytes()
    assert device.read_bytes()[4 * PAGE_BYTES :].startswith(b"when it is moved")
    client.close()
    disk.close()


def test_flushes_of_a_guest_fail_if_the_device_does_while_its_copy_is_moved(
    device: Path, may_move: Queue[bool]
) -> None:
    disk = copied(device, {2: 7}, kept=tuple(range(32, 64)))
    disk.completed()
    disk.when_settled(lambda _: None)
    client = Client(disk).agree()
    client.write(3 * PAGE_BYTES, b"while it is moved")
    client.send(FLUSH)

    move_some(may_move, 1)
    with open("/dev/full", "r+b", buffering=0) as full:
        os.dup2(full.fileno(), disk.image.descriptor)
    move_all(may_move)

    assert client.answer() == (77, errno.ENOSPC)
    client.close()
    disk.close()


def test_a_copy_that_a_death_stopped_on_its_way_to_the_device_is_moved_by_the_next_host(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fresh_module.DeviceCopy, "move", lambda *_: True)
        disk = copied(device, {2: 7}, kept=tuple(range(32, 64)))
        disk.completed()
        disk.close()
    assert device.read_bytes() == b"o" * SIZE

    Disk(str(device), boots=True).close()

    assert pages_of(device.read_bytes()) == [0, 0, 7, *[0] * 29, *[ord("o")] * 32]


def test_a_machine_whose_disk_is_memory_has_a_device_too(device: Path) -> None:
    disk = KeptDisk(str(device), boots=False)
    disk.discarded()
    disk.held()
    disk.offer(0, PAGES)
    disk.keep(0, PAGES, range(32, 64))
    change(disk, 2, fill=7)
    disk.committed([2])
    disk.completed()
    disk.image.sync()
    change(disk, 3, fill=3)
    disk.committed([3])
    disk.image.sync()
    disk.committed([2])
    wanted = [0, 0, 7, 3, *[0] * 28, *[ord("o")] * 32]

    assert pages_of(disk.memory.buffer) == wanted
    disk.close()
    assert pages_of(device.read_bytes()) == wanted


def test_what_a_device_says_of_itself_is_found_by_each_of_its_paths(device: Path) -> None:
    Disk(str(device), boots=True).close()

    label = read_label(device)

    assert label is not None
    assert label == read_label(Path(os.path.realpath(device)))
    assert label.runs


def test_all_of_a_device_counts_as_there_while_part_of_it_is_its_copy(device: Path) -> None:
    disk = copied(device, {2: 7}, kept=tuple(range(32, 64)))

    assert disk.present() == bytearray(b"\xff" * (PAGES // 8))
    disk.close()


def test_what_is_committed_while_a_copy_is_moved_is_shown_though_the_device_has_it(
    device: Path, may_move: Queue[bool]
) -> None:
    disk = copied(device, {2: 7})
    disk.completed()
    change(disk, 3, fill=3)
    disk.committed([3])
    told: Queue[str | None] = Queue()
    disk.persist(told.put)
    move_some(may_move, 4)  # the step goes by in one of the first turns
    assert told.get(timeout=60) is None

    disk.committed([4])

    assert pages_of(disk.buffer)[:5] == [0, 0, 7, 3, 0]
    move_all(may_move)
    disk.close()
    assert pages_of(device.read_bytes())[:5] == [0, 0, 7, 3, 0]


def test_a_copy_that_is_begun_while_another_is_moved_is_offered_nothing_and_takes_its_place(
    device: Path, may_move: Queue[bool]
) -> None:
    disk = copied(device, dict.fromkeys(range(PAGES), 7))
    disk.completed()
    move_some(may_move, 1)

    disk.discarded()
    assert disk.held() == []
    change(disk, 1, fill=1)
    disk.committed([1])
    disk.completed()
    move_all(may_move)
    disk.image.sync()
    disk.committed([1])

    wanted = [0, 1, *[0] * (PAGES - 2)]
    assert pages_of(disk.buffer) == wanted
    disk.close()
    assert pages_of(device.read_bytes()) == wanted


def test_what_a_machine_has_written_and_nobody_has_taken_stays_when_its_memory_shows_the_device(device: Path) -> None:
    disk = KeptDisk(str(device), boots=False)
    disk.discarded()
    change(disk, 2, fill=7)
    disk.committed([2])
    disk.completed()
    disk.image.sync()
    change(disk, 9, fill=9)
    disk.memory.flags[9] = 1

    disk.committed([2])

    assert pages_of(disk.memory.buffer)[:10] == [0, 0, 7, *[0] * 6, 9]
    disk.close()


def test_a_devices_folder_keeps_its_name_whatever_the_system_calls_the_device(device: Path) -> None:
    assert side_path(device) == side_path(Path(os.path.realpath(device)))
    assert side_path(device).parent.parent == Path(os.environ["FTVM_DISKS"])


def test_nothing_of_a_device_is_offered_while_a_copy_is_on_its_way_to_it(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_module.DeviceCopy, "move", lambda *_: True)
    disk = copied(device, {2: 7})
    disk.completed()
    while not list(tmp_path.glob("state/*/disk.stage")):
        time.sleep(0.001)

    disk.discarded()

    assert disk.held() == []
    disk.close()


def test_a_newer_copy_lets_go_of_one_that_was_on_its_way_to_the_device(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has no name any more, and would take its room until the host ends."""
    monkeypatch.setattr(fresh_module.DeviceCopy, "move", lambda *_: True)
    disk = copied(device, {2: 7})
    disk.completed()
    while not side_path(device).with_name("disk.stage").exists():
        time.sleep(0.001)
    first = disk.image._moving
    assert first is not None

    disk.discarded()
    disk.committed([2])
    disk.completed()
    while disk.image._moving is first:
        time.sleep(0.001)
    disk.close()

    deleted = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if is_open(number)]
    assert [name for name in deleted if name.startswith(f"{side_path(device)}.stage")] == []


def is_open(number: str) -> bool:
    return Path(f"/proc/self/fd/{number}").is_symlink()


def test_a_device_that_is_not_whole_without_its_copy_is_not_to_be_copied(
    device: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says of itself holds for both together."""
    with monkeypatch.context() as patch:
        patch.setattr(fresh_module.DeviceCopy, "move", lambda *_: True)
        disk = copied(device, {2: 7})
        disk.completed()
        disk.stands(Footing(lineage="a" * 16, generation=3, epoch=5, runs=False))
        while read_label(device) == disk.image.label.blank():
            time.sleep(0.001)
        disk.close()
    show.callback((str(device),), False)
    told = capsys.readouterr().out

    Disk(str(device), boots=False).close()
    show.callback((str(device),), False)

    assert "generation 3: a standby's, whole" in told
    assert told.endswith("not all of it is on the device yet: the next host that opens it moves the rest first\n")
    assert "not all of it" not in capsys.readouterr().out
