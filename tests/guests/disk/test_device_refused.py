"""A block device that cannot be a guest's disk, or not now, is refused by name, and what is wrong with it is told."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import side_path
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.imagefile import image_bytes
from ftvm.service import checks


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
    assert f"the file system of {folder} is full" in disk._unreadable(1)
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
