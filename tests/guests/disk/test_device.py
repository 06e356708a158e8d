"""A block device as a guest's disk: what a file can do is done for it, and nothing lies beside it."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from ftvm.errors import ConfigError
from ftvm.guests import blockdevice
from ftvm.guests.blockdevice import side_path
from ftvm.guests.disk import fresh as fresh_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.disk.label import read_label
from ftvm.guests.imagefile import image_bytes
from ftvm.units import PAGE_BYTES

from .nbd import FLUSH, TRIM, Client

PAGES = 64
SIZE = PAGES * PAGE_BYTES


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A link to a loop device whose every page says `o`; its folder is in `state`."""
    monkeypatch.setenv("FTVM_STATE", str(tmp_path / "state"))
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
    (folder,) = (tmp_path / "state/disks").iterdir()
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
    assert [path.name for path in next((tmp_path / "state/disks").iterdir()).iterdir()] == ["disk.label"]


def test_long_runs_that_are_the_same_stay_on_the_device_and_short_ones_are_copied(device: Path, tmp_path: Path) -> None:
    """A process has room for so many mappings only."""
    disk = copied(device, {63: 1}, kept=(*range(16), 20, 21, *range(32, 48)))
    disk.image.sync()

    (stage,) = tmp_path.glob("state/disks/*/disk.new")
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


def test_a_guest_that_takes_over_while_its_copy_is_moved_reads_and_writes_the_whole(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_move, move = Queue[bool](), fresh_module.DeviceCopy.move
    monkeypatch.setattr(
        fresh_module.DeviceCopy, "move", lambda stage, device: may_move.get(timeout=60) and move(stage, device)
    )
    disk = copied(device, {2: 7}, kept=tuple(range(32, 64)))
    disk.completed()
    settled: Queue[str | None] = Queue()
    disk.when_settled(settled.put)
    client = Client(disk).agree()

    client.write(3 * PAGE_BYTES, b"while it is moved")
    seen = client.read(2 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert client.read(40 * PAGE_BYTES, 2) == b"oo"
    for _ in range(PAGES):
        may_move.put(True)
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
    monkeypatch.setenv("FTVM_STATE", str(tmp_path / "behind"))

    with pytest.raises(ConfigError, match=r"is a block device, and its folder .* cannot be made: .*; set FTVM_STATE"):
        Disk(str(device), boots=True)

    monkeypatch.setenv("FTVM_STATE", str(tmp_path / "state"))
    Disk(str(device), boots=True).close()


def test_what_a_device_says_of_itself_is_found_by_each_of_its_paths(device: Path) -> None:
    Disk(str(device), boots=True).close()

    label = read_label(device)

    assert label is not None
    assert label == read_label(Path(os.path.realpath(device)))
    assert label.runs


# --- names ---


def system_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> os.stat_result:
    """Have the system say this of the device 8:3, a partition if there is a `start`, and return its status."""
    whole = folder / "devices/sda"
    place = whole / "sda3" if "start" in texts else whole
    for name, text in {**texts, **({"partition": "3"} if "start" in texts else {})}.items():
        path = (place if name in ("start", "partition") else whole) / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    place.mkdir(parents=True, exist_ok=True)
    (folder / "8:3").unlink(missing_ok=True)
    (folder / "8:3").symlink_to(place)
    monkeypatch.setattr(blockdevice, "_SYSFS", str(folder))
    status = os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9), {"st_rdev": os.makedev(8, 3)})
    monkeypatch.setattr(os, "fstat", lambda _: status)
    return status


@pytest.mark.parametrize(
    "texts",
    [
        {"wwid": "naa.600508b1001c"},
        {"device__wwid": "naa.600508b1001c"},
        {"dm__uuid": "mpath-3600508b1001c"},
    ],
    ids=["disk", "SCSI disk", "several ways"],
)
def test_a_lun_has_one_name_on_each_host_that_sees_it(
    texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts on one name are refused when they join."""
    system_of(tmp_path / "one", monkeypatch, wwid="naa.600508b1001c")
    first = blockdevice.image_name(0)

    system_of(tmp_path / "other", monkeypatch, **texts)

    assert blockdevice.image_name(0) == first
    assert first is not None
    assert len(first) == 16


def test_each_partition_of_a_lun_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for number, start in enumerate(("2048", "4096")):
        system_of(tmp_path / str(number), monkeypatch, wwid="naa.600508b1001c", start=start)
        names.add(blockdevice.image_name(0))

    assert len(names) == 2
    assert None not in names


@pytest.mark.parametrize("wwid", ["t10.QEMU    QEMU HARDDISK   drive-scsi0", "nvme.8086-6465", ""])
def test_a_serial_number_that_others_may_have_is_no_name_for_both_hosts(
    wwid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = system_of(tmp_path, monkeypatch, wwid=wwid)

    assert blockdevice.image_name(0) is None
    assert blockdevice.lasting_name(tmp_path / "sda", status) == (wwid or str(tmp_path / "sda"))


def test_a_devices_folder_keeps_its_name_whatever_the_system_calls_the_device(device: Path) -> None:
    assert side_path(device) == side_path(Path(os.path.realpath(device)))
    assert side_path(device).parent.parent == Path(os.environ["FTVM_STATE"]) / "disks"
