"""A block device as a guest's disk: what a file can do is done for it, and nothing lies beside it."""

import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest

from ftvm.checkpoint import Footing
from ftvm.cli.disk import show
from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import side_path
from ftvm.guests.disk import fresh as fresh_module
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.disk.label import read_label
from ftvm.guests.imagefile import image_bytes
from ftvm.service import checks
from ftvm.units import PAGE_BYTES

from .nbd import FLUSH, TRIM, Client

PAGES = 64
SIZE = PAGES * PAGE_BYTES


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A link to a loop device whose every page says `o`; its folder is in `state`."""
    monkeypatch.setenv("FTVM_DISKS", str(tmp_path / "state"))
    file = tmp_path / "behind"
    file.write_bytes(b"o" * SIZE)
    try:
        made = subprocess.run(["losetup", "-f", "--show", str(file)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as wrong:
        pytest.skip(f"needs a loop device, and root: {wrong}")
    link = tmp_path / "links" / "disk"
    link.parent.mkdir()
    link.symlink_to(made.stdout.strip())
    yield link
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


def change(disk: Disk | KeptDisk, *pages: int, fill: int) -> None:
    """Write pages as a commit does: behind the disk's back."""
    buffer = disk.buffer if isinstance(disk, Disk) else disk.memory.buffer
    for page in pages:
        buffer[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes([fill]) * PAGE_BYTES


def pages_of(content: bytes | memoryview) -> list[int]:
    """Return the first byte of each page."""
    return list(bytes(content)[::PAGE_BYTES])


def copied(device: Path, pages: dict[int, int], *, kept: tuple[int, ...] = ()) -> Disk:
    """Return a standby's disk that has been copied: these pages, and those that it kept."""
    disk = Disk(str(device), boots=False)
    disk.discarded()
    assert list(disk.held()) == [(0, PAGES)]
    disk.offer(0, PAGES)
    disk.keep(0, PAGES, list(kept))
    for page, fill in pages.items():
        change(disk, page, fill=fill)
    disk.committed(sorted(pages))
    return disk


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


def test_a_device_that_is_in_use_is_refused_by_name(device: Path) -> None:
    disk = Disk(str(device), boots=False)

    with pytest.raises(ConfigError, match=rf"the disk {device} is in use: it is mounted, .* lsblk {device} tells"):
        Disk(str(device), boots=False)

    disk.close()


def test_a_device_that_is_mounted_is_refused_by_name(device: Path, tmp_path: Path) -> None:
    mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if mkfs is None:
        pytest.skip("needs mkfs.ext4: apt install e2fsprogs")
    (tmp_path / "mount").mkdir()
    subprocess.run([mkfs, "-q", "-F", str(device)], check=True, capture_output=True)
    if subprocess.run(["mount", str(device), str(tmp_path / "mount")], check=False, capture_output=True).returncode:
        pytest.skip("needs to mount: no rights, or no ext4")
    try:
        with pytest.raises(ConfigError, match=rf"the disk {device} is in use: it is mounted"):
            Disk(str(device), boots=True)
    finally:
        subprocess.run(["umount", str(tmp_path / "mount")], check=True)


def test_a_device_whose_folder_cannot_be_made_is_refused_and_let_go(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTVM_DISKS", str(tmp_path / "behind"))

    with pytest.raises(ConfigError, match=r"is a block device, and its folder .* cannot be made: .*; set FTVM_DISKS"):
        Disk(str(device), boots=True)

    monkeypatch.setenv("FTVM_DISKS", str(tmp_path / "state"))
    Disk(str(device), boots=True).close()


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


def test_a_device_that_takes_no_writes_is_refused(device: Path) -> None:
    """Linux opens it for writing, and fails each write."""
    place = os.path.realpath(device)
    subprocess.run(["blockdev", "--setro", place], check=True)
    try:
        with pytest.raises(ConfigError, match=f"the disk {device} is read-only"):
            image_bytes(str(device))
        with pytest.raises(ConfigError, match=f"the disk {device} is read-only"):
            KeptDisk(str(device), boots=False)
    finally:
        subprocess.run(["blockdev", "--setrw", place], check=True)


def test_a_device_that_is_found_by_two_ways_is_one_hosts(device: Path, tmp_path: Path) -> None:
    """Each way can be opened alone; the second host would take the journal of the first for a crash's."""
    other = subprocess.run(
        ["losetup", "-f", "--show", str(tmp_path / "behind")], capture_output=True, text=True, check=True
    ).stdout.strip()
    disk = KeptDisk(str(device), boots=True)
    try:
        with pytest.raises(ConfigError, match=f"the disk {other} is in use: another host .* by another way"):
            KeptDisk(other, boots=False)
        disk.close()
        KeptDisk(other, boots=False).close()
    finally:
        subprocess.run(["losetup", "-d", other], check=True)


def test_a_folder_that_takes_no_label_is_named(device: Path) -> None:
    side = side_path(device)
    side.parent.mkdir(parents=True)
    side.with_name("disk.label").mkdir()

    with pytest.raises(ConfigError, match=f"the disk {device}, or its folder {side.parent}, cannot be written: .*"):
        KeptDisk(str(device), boots=True)


def test_a_name_that_no_device_has_is_not_to_be_made_a_file() -> None:
    """A file in /dev would be in memory, and gone with the host."""
    with pytest.raises(ConfigError, match=r"the disk /dev/none-of-this-name cannot be opened: .*; lsblk tells"):
        image_bytes("/dev/none-of-this-name")


def test_a_check_opens_a_device_as_a_host_would(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = checks.check_device(str(device))
    assert found.level is checks.Level.OK
    assert not (tmp_path / "state").exists()

    disk = KeptDisk(str(device), boots=True)
    (found,) = checks.check_device(str(device))
    assert (found.level, f"the disk {device} is in use" in found.text) == (checks.Level.FAILURE, True)
    disk.close()

    (tmp_path / "file").touch()
    monkeypatch.setenv("FTVM_DISKS", str(tmp_path / "file"))
    (found,) = checks.check_device(str(device))
    assert (found.level, f"its folder {side_path(device).parent} cannot be written" in found.text) == (
        checks.Level.FAILURE,
        True,
    )
    assert list(checks.check_device(str(tmp_path / "behind"))) == []


def test_a_full_folder_is_not_told_as_a_full_device(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = KeptDisk(str(device), boots=True)
    folder = side_path(device).parent
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(f_bavail=0))
    monkeypatch.setattr(image_module, "write_journal", fill)

    disk.memory.write(0, b"written")
    disk.take()
    with pytest.raises(OSError, match="full"):
        disk.image.sync()

    assert f"{device} cannot be written: the file system of {folder} is full: free some space" in str(disk.news())
    assert f"the file system of {folder} is full" in disk.image.unreadable(1)
    disk.close()


def fill(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_device_that_is_full_itself_is_told_as_it_is(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thin volume may be."""
    disk = KeptDisk(str(device), boots=True)
    monkeypatch.setattr(image_module, "write_pages", fill)

    disk.memory.write(0, b"written")
    disk.take()
    with pytest.raises(OSError, match="No space left"):
        disk.image.sync()

    assert f"{device} cannot be written: No space left on device; the guest goes on" in str(disk.news())
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
