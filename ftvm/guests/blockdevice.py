"""Block devices as guests' disks (a partition, an LVM volume, a LUN): their size, their name for good, their folder.

A device has no file beside it: what a file of an image has there (journal, label, a copy that grows) is in a folder of
this host's own, in FTVM_DISKS or /var/lib/ftvm/disks, under a name that the device keeps when the system starts again.

Source: of the names, the kernel's Documentation/ABI/stable/sysfs-block, and device-mapper's dm/uuid; of multipath's,
udev's scsi_id (page 0x83, the type of a designator before it), and kpartx's partN- before a partition.
"""

import fcntl
import os
import re
import stat
import struct
from pathlib import Path
from typing import Final

import xxhash

from ftvm.errors import ConfigError

__all__ = [
    "data_bytes",
    "device_bytes",
    "hold_folder",
    "image_name",
    "is_device",
    "is_read_only",
    "lasting_name",
    "require_folder",
    "side_path",
]

_SYSFS: Final = "/sys/dev/block"
_FOLDER: Final = "/var/lib/ftvm/disks"
_REMEDY: Final = "set FTVM_DISKS to a folder of this host that lasts"
_GET_SIZE: Final = 0x8008_1272
"""BLKGETSIZE64 of linux/fs.h."""
_GET_READ_ONLY: Final = 0x125E
"""BLKROGET of linux/fs.h."""
_NAMES: Final = ("dm/uuid", "wwid", "device/wwid")
_WORLDWIDE: Final = ("naa.", "eui.", "uuid.", "LVM-", "CRYPT-")
"""What names one device in the world. The others are a vendor's serial number, and all emulated disks may share one."""

_SEVERAL_WAYS: Final = re.compile(r"(part(?P<number>\d+)-)?mpath-(?P<kind>3|2|(?=eui\.|uuid\.))(?P<name>.+)")
_KINDS: Final = {"3": "naa.", "2": "eui.", "": ""}
"""A LUN, or a partition of it, found by several ways: multipath puts the kind of a WWID before it, as a digit."""


def is_device(status: os.stat_result) -> bool:
    """Tell whether a file is a block device."""
    return stat.S_ISBLK(status.st_mode)


def device_bytes(descriptor: int) -> int:
    """Return the size of an open block device. Raises OSError."""
    return int(struct.unpack("=Q", fcntl.ioctl(descriptor, _GET_SIZE, bytes(8)))[0])


def is_read_only(descriptor: int) -> bool:
    """Tell whether an open block device takes no writes: Linux opens one for writing nevertheless. Raises OSError."""
    return bool(struct.unpack("=i", fcntl.ioctl(descriptor, _GET_READ_ONLY, bytes(4)))[0])


def data_bytes(status: os.stat_result, size_bytes: int) -> int:
    """Return how much of a disk's file may be data and no hole: all of a device."""
    return size_bytes if is_device(status) else status.st_blocks * 512


def image_name(descriptor: int) -> str | None:
    """Return the name, 16 hex digits, that a device has on each host that sees it; None where nothing tells one."""
    status = os.fstat(descriptor)
    name = _told_name(status) if is_device(status) else ""
    return xxhash.xxh3_64(name.encode()).hexdigest() if name.startswith(_WORLDWIDE) else None


def lasting_name(path: Path, status: os.stat_result) -> str:
    """Return what tells a device from others of this host, also when it is found under another path: what the system
    says; else of a loop device its file; else the path."""
    place = _place_of(status)
    behind = _text(place / "loop/backing_file")
    return _told_name(status) or (f"{behind}@{_text(place / 'loop/offset')}" if behind else os.path.realpath(path))


def side_path(path: Path) -> Path:
    """Return the path that the names of the files beside an image begin with: its own, or one in a device's folder."""
    place = Path(os.path.realpath(path))
    try:
        status = os.stat(place)
    except OSError:
        return place
    if not is_device(status):
        return place
    name = lasting_name(place, status)
    folder = re.sub(r"[^\w.-]+", "-", name).strip("-")[-64:] + "-" + xxhash.xxh3_64(name.encode()).hexdigest()
    return Path(os.environ.get("FTVM_DISKS") or _FOLDER) / folder / "disk"


def hold_folder(path: Path, side: Path) -> int:
    """Make the folder of a device, and return its descriptor, locked: a device may be found by several ways, each of
    which can be opened alone. Raises ConfigError."""
    try:
        side.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(side.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as wrong:
        raise ConfigError(
            f"the disk {path} is a block device, and its folder {side.parent} cannot be made: {wrong.strerror}; "
            f"{_REMEDY}"
        ) from wrong
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as wrong:
        os.close(descriptor)
        raise ConfigError(
            f"the disk {path} is in use: another host of a guest has the same device, perhaps by another way to it, "
            f"and its folder {side.parent}"
        ) from wrong
    return descriptor


def require_folder(path: Path, side: Path) -> None:
    """Raise ConfigError if nothing can be written to the folder of a device, made or not."""
    place = next(folder for folder in side.parents if folder.exists())
    is_full = os.statvfs(place).f_bavail == 0
    if is_full or not os.access(place, os.W_OK | os.X_OK):
        why = "its file system is full" if is_full else "this user may not, or it is read-only"
        raise ConfigError(
            f"the disk {path} is a block device, and its folder {side.parent} cannot be written: {why}; {_REMEDY}"
        )


def _told_name(status: os.stat_result) -> str:
    """Return what the system says that a device is; "" if it does not. A partition is a number on its disk."""
    place = _place_of(status)
    number = _text(place / "partition")
    whole = Path(os.path.realpath(place)).parent if number else place
    name = next((told for told in (_text(whole / leaf) for leaf in _NAMES) if told), "")
    if ways := _SEVERAL_WAYS.fullmatch(name):
        number, name = number or ways["number"] or "", _KINDS[ways["kind"]] + ways["name"]
    return f"{name}@{number}" if name and number else name


def _place_of(status: os.stat_result) -> Path:
    return Path(_SYSFS) / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _text(path: Path) -> str:
    """Return what a file of the system's says, "" if it has no such file, or the device has gone."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
