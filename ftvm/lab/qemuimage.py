"""Makes what the demo's QEMU guest boots: Debian's cloud kernel, and a ramdisk of busybox and our own programs.

Everything comes from packages that are installed here (linux-image-cloud-amd64, busybox-static) and from service.elf
and work.elf, which come with ftvm (their sources: examples/qemu). Nothing is fetched. The ramdisk is kept in a folder
of the user's cache and made again only when something that goes in has changed.

Boot arguments that the guest understands: ``ftvm_write=N`` has it write to N random pages of 64 MiB ten times a second
and find out whether what it wrote stays, ``ftvm_spin=1`` has it compute in between (see work.c); ``ftvm_disk=1`` has it
append numbered records to its disk (which becomes an ext2 file system if it is not one yet), sync, and say so.
"""

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from ftvm.errors import ConfigError

__all__ = ["QemuImage", "find_kernel", "make_image", "ramdisk_of"]

BOOT: Final = Path("/boot")
MODULES: Final = Path("/lib/modules")
BUSYBOX: Final = Path("/bin/busybox")
PROGRAMS: Final = {name: Path(__file__).with_name(f"{name}.elf") for name in ("service", "work")}

LOADED: Final = (
    *(f"drivers/virtio/{name}" for name in ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev")),
    "drivers/virtio/virtio_pci",
    *("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net", "drivers/block/virtio_blk"),
)
"""Modules in the order in which they can be loaded: each needs some before it."""

INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in /modules/*.ko; do insmod $module; done
echo "guest: boot $(cat /proc/sys/kernel/random/boot_id)"
[ -n "$ftvm_write" ] && /work $ftvm_write $ftvm_spin &
if [ -n "$ftvm_disk" ]; then
  mkdir -p /disk
  mount -t ext2 /dev/vda /disk 2>/dev/null || { mke2fs /dev/vda >/dev/null && mount -t ext2 /dev/vda /disk; } ||
    echo "guest: no disk"
  [ -f /disk/records ] && echo "guest: disk has $(tail -n 1 /disk/records)"
  (record=0; while :; do
    record=$((record + 1)); echo "record $record" >> /disk/records; sync; echo "guest: disk record $record"
    usleep 100000
  done) &
fi
exec /service
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuImage:
    """What to boot."""

    kernel: Path
    ramdisk: Path

    def arguments(self, command_line: str = "") -> tuple[str, ...]:
        """Return QEMU's arguments for it."""
        append = f"console=ttyS0 quiet {command_line}".strip()
        return ("-kernel", str(self.kernel), "-initrd", str(self.ramdisk), "-append", append)


def find_kernel() -> Path:
    """Return the newest cloud kernel. Raises ConfigError if none is installed."""
    found = sorted(BOOT.glob("vmlinuz-*-cloud-amd64"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("the QEMU guest needs a kernel: install Debian's package linux-image-cloud-amd64")
    return found[-1]


def make_image(folder: Path | None = None) -> QemuImage:
    """Make the ramdisk in `folder` (~/.cache/ftvm if None) unless it is there; return what to boot.

    Raises ConfigError that names the packages that are missing.
    """
    kernel = find_kernel()
    modules = MODULES / kernel.name.removeprefix("vmlinuz-") / "kernel"
    inputs = {f"modules/{number:02}.ko": modules / f"{name}.ko" for number, name in enumerate(LOADED)}
    inputs |= {"bin/busybox": BUSYBOX} | PROGRAMS
    files = {name: _read(path) for name, path in inputs.items()} | {"init": INIT.encode()}
    digest = xxhash.xxh3_128()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    place = folder or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ftvm"
    ramdisk = place / f"qemu-guest-{digest.hexdigest()[:16]}.gz"
    if not ramdisk.exists():
        _publish(ramdisk, ramdisk_of(files))
    return QemuImage(kernel=kernel, ramdisk=ramdisk)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise ConfigError(
            f"the QEMU guest needs {path}, which cannot be read ({wrong.strerror}): "
            "install Debian's packages linux-image-cloud-amd64 and busybox-static"
        ) from wrong


def _publish(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: another process may be making the same."""
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as wrong:
        raise ConfigError(f"the guest's ramdisk cannot be kept at {path}: {wrong.strerror}") from wrong


def ramdisk_of(files: dict[str, bytes]) -> bytes:
    """Return a compressed ramdisk with these files; all may be executed. Two, one behind the other, are one again."""
    return gzip.compress(b"".join(_archive(files)), compresslevel=1, mtime=0)


def _archive(files: dict[str, bytes]) -> Iterator[bytes]:
    """Yield a cpio archive in the format that Linux unpacks (newc); every file may be executed."""
    folders = ("bin", "dev", "modules", "proc", "sys", "tmp")
    yield from (_entry(name, 0o040755, b"") for name in folders)
    yield _entry("dev/console", 0o020600, b"", device=(5, 1))
    yield from (_entry(name, 0o100755, content) for name, content in files.items())
    yield _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
    head = "070701" + "".join(f"{number:08x}" for number in numbers) + name
    return _padded(head.encode() + b"\0") + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
