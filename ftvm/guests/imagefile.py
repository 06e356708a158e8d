"""Which files can be a disk's image: raw ones, regular or block devices, of whole pages.

An image of another format would look to the guest like a broken disk, and its first writes would ruin it; so it is
known by its first bytes and refused by name. Opens nothing for writing, and locks nothing.

Source: of each magic, the format's specification; QEMU, block/*.c (`*_probe`).
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import device_bytes, is_device, is_read_only
from ftvm.units import PAGE_BYTES

__all__ = ["cannot_be_opened", "image_bytes", "require_raw"]

_FORMATS: Final = (
    ("qcow2", 0, b"QFI\xfb"),
    ("qed", 0, b"QED\0"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("luks", 0, b"LUKS\xba\xbe\0\1"),
)
"""QEMU's name, where in the file, and the bytes there. LUKS of version 1 alone: QEMU makes no other as an image, while
a guest that encrypts its whole disk makes version 2, and may."""
_HEAD_BYTES: Final = 128


def image_bytes(path: str) -> int:
    """Return the size of the image at `path`. Raises ConfigError if it cannot be a disk."""
    try:
        if not _is_odd(os.stat(path)):  # opening these may wait, or do something
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        else:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as wrong:
        raise cannot_be_opened(path, wrong) from wrong
    try:
        return require_raw(descriptor, Path(path))
    finally:
        os.close(descriptor)


def cannot_be_opened(path: Path | str, wrong: OSError) -> ConfigError:
    """Return what an operator is told of an image that cannot be opened."""
    if wrong.errno == errno.EBUSY:
        return ConfigError(
            f"the disk {path} is in use: it is mounted, part of another device, or another host's of a guest; "
            f"lsblk {path} tells"
        )
    if not isinstance(wrong, FileNotFoundError):
        return ConfigError(f"the disk {path} cannot be opened: {wrong.strerror}")
    if Path(path).is_relative_to("/dev"):
        return ConfigError(f"the disk {path} cannot be opened: {wrong.strerror}; lsblk tells which devices there are")
    return ConfigError(
        f"the disk {path} cannot be opened: {wrong.strerror}; make one, equally large on both hosts, "
        f"e.g. with truncate -s 1G {path}"
    )


def require_raw(descriptor: int, path: Path) -> int:
    """Return the size of an open image. Raises ConfigError unless it is a raw one of whole pages."""
    status = os.fstat(descriptor)
    if _is_odd(status):
        raise ConfigError(f"the disk {path} is not a file: it must be a raw image, or a block device")
    if is_device(status) and is_read_only(descriptor):
        raise ConfigError(f"the disk {path} is read-only, and a guest writes to it: see blockdev --setrw {path}")
    size_bytes = device_bytes(descriptor) if is_device(status) else status.st_size
    if (found := _format_of(os.pread(descriptor, _HEAD_BYTES, 0))) is not None:
        raise ConfigError(
            f"the disk {path} is a {found} image: it must be a raw one, e.g. "
            f"qemu-img convert -f {found} -O raw {path} {path.with_suffix('.raw')}"
        )
    if not size_bytes or size_bytes % PAGE_BYTES:
        raise ConfigError(f"the disk {path} has {size_bytes} bytes: its size must be a multiple of {PAGE_BYTES}, not 0")
    return size_bytes


def _is_odd(status: os.stat_result) -> bool:
    return not stat.S_ISREG(status.st_mode) and not is_device(status)


def _format_of(head: bytes) -> str | None:
    return next((name for name, at, magic in _FORMATS if head[at : at + len(magic)] == magic), None)
