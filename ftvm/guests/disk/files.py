"""The file of a disk's image, opened and locked, or made like another one. Knows nothing of its content.

A block device is locked by the kernel: who opens it for itself alone gets none that is mounted, or part of another.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import is_device, require_folder, side_path
from ftvm.guests.imagefile import cannot_be_opened, require_raw
from ftvm.units import PageCount, bytes_to_pages

__all__ = ["FULL", "make_image", "open_image", "require_free", "with_cause"]

FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def open_image(path: Path) -> tuple[int, PageCount]:
    """Open and lock an image; return its descriptor and its pages."""
    try:
        alone = os.O_EXCL if is_device(os.stat(path)) else 0
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | alone)
    except OSError as wrong:
        raise cannot_be_opened(path, wrong) from wrong
    try:
        return descriptor, bytes_to_pages(_locked_size(descriptor, path))
    except BaseException:
        os.close(descriptor)
        raise


def require_free(path: Path) -> None:
    """Raise ConfigError if `path` is a block device that no host could open here, as it is now. Changes nothing."""
    descriptor, _ = open_image(path)
    os.close(descriptor)
    require_folder(path, side_path(path))


def _locked_size(descriptor: int, path: Path) -> int:
    if is_device(os.fstat(descriptor)):
        return require_raw(descriptor, path)  # a lock of the file would keep udev from it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as wrong:
        raise ConfigError(f"the disk {path} is in use: each host of a guest needs its own image") from wrong
    return require_raw(descriptor, path)


def make_image(path: Path, model: int, size_bytes: int) -> int:
    """Make a locked file of zeros, another than one that is there, with the owner and mode of `model`, if that is a
    file."""
    status = os.fstat(model)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, size_bytes)
        if not is_device(status):
            _dress(descriptor, status)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _dress(descriptor: int, status: os.stat_result) -> None:
    """Give a file the owner and mode of another; if the owner cannot be set, nobody gets more rights than before."""
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    except PermissionError:  # not root: a group of ours may be given still
        try:
            os.fchown(descriptor, -1, status.st_gid)
        except PermissionError:
            mode &= ~stat.S_IRWXG
    os.fchmod(descriptor, mode)


def with_cause(wrong: OSError, held: int, folder: Path) -> OSError:
    """Return an error with what it does not tell: that the folder of the files beside a disk is gone; or, of a device,
    whose folder is `held` open, that it is full."""
    if wrong.errno == errno.ENOENT and not folder.exists():
        return OSError(wrong.errno, f"its folder {folder} is gone")
    if wrong.errno not in FULL or held < 0 or os.fstatvfs(held).f_bavail:
        return wrong
    return OSError(wrong.errno, f"the file system of {folder} is full: free some space, its copy and journal are there")
