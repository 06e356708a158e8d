"""A private network and mount table for this process and its children; they vanish with the last of them.

Nothing must be undone: there is no name to remove, whatever kills the processes. Where root is missing, or the kernel
refuses, `isolate` says why and everything stays as it is. Source: unshare(2), mount(2), netdevice(7).
"""

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from ftvm.errors import BrokenError

__all__ = ["isolate", "mount_disk", "remount_disk"]

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWNET: Final = 0x4000_0000
MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1
INTERFACE_REQUEST: Final = struct.Struct("16sh14x")

_libc: Final = ctypes.CDLL(None, use_errno=True)


def isolate() -> str | None:
    """Move this process into separate namespaces, with a loopback device; return why not, None if it worked."""
    if os.geteuid() != 0:
        return "not root"
    if _libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        return f"the kernel refused namespaces: {os.strerror(ctypes.get_errno())}"
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE, "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, INTERFACE_REQUEST.pack(b"lo", IFF_UP))
    return None


def mount_disk(path: Path, size_bytes: int) -> None:
    """Mount a small disk in memory, which can be filled. Only where `isolate` worked."""
    _mount("tmpfs", path, "tmpfs", 0, f"size={size_bytes}")


def remount_disk(path: Path, *, is_read_only: bool) -> None:
    """Let a disk of `mount_disk` be read only, or be written again."""
    _mount("tmpfs", path, None, MS_REMOUNT | (MS_RDONLY if is_read_only else 0), "")


def _mount(source: str, target: Path, kind: str | None, flags: int, data: str) -> None:
    words = (source.encode(), os.fsencode(target), None if kind is None else kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        raise BrokenError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")
