"""Makes what the rig boots, once, in a folder that is kept: disks and ramdisks.

    base-DIGEST/tree        Debian's packages, unpacked; the outer QEMU runs from there, too
    base-DIGEST/disk.img    the same as a file system: the rig's root
    base-DIGEST/manifest    the packages, one a line
    base-DIGEST/KERNEL/     kernel and ramdisk for each of the two kernels
    checkout-DIGEST.img     this checkout, mounted at /work

The digests are of what goes in, so nothing is made twice, and a change in the checkout makes only the last again.
"""

import fcntl
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from ftvm.lab.qemuimage import ramdisk_of
from ftvm.lab.rig import RigFailed, RigMissing
from ftvm.lab.rig import packages as packages_module
from ftvm.lab.rig.checkout import SITE, compile_tree, gather, require_python
from ftvm.lab.rig.packages import BACKPORTS, find_tool, make_tree, require_tools

__all__ = ["KERNELS", "RigImage", "default_folder", "make_rig"]

Say = Callable[[str], None]

KERNELS: Final = {"6.1": "", "6.12": BACKPORTS}
"""Each kernel that the rig boots, and the folder of the tree that has it."""

MODULES: Final = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "tun", "bridge", "veth", "kvm_amd")
"""What the kernel must load, besides what these need. The checksum is asked for by name while ext4 loads."""

DISK_MIB: Final = {"base": 1400, "checkout": 700}
"""Sizes of the file systems; what is not used takes no space."""

KEPT: Final = {"base-*": 2, "checkout-*": 4}
"""How many of each are kept: a machine that runs has its own open, and two checkouts may be used in turn."""

KMOD_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")

INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module || echo "rig: $module cannot be loaded"; done
mkdir /disk
mount -t ext4 /dev/vda /disk && mount -t ext4 /dev/vdb /disk/work || { echo "rig: no disks"; poweroff -f; }
mount -t tmpfs tmp /disk/tmp
mount -t tmpfs run /disk/run
cp /script /command /disk/run/
for each in proc sys dev; do mount -o bind /$each /disk/$each; done
mkdir /disk/dev/shm
mount -t tmpfs shm /disk/dev/shm
ifconfig lo 127.0.0.1 up
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
chroot /disk /bin/sh /run/command >/dev/ttyS1 2>&1 </dev/null
echo $? >/dev/ttyS2
poweroff -f
"""
"""The first program. The console is for the kernel and itself, ttyS1 for the script, ttyS2 for the script's status."""

FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "usr/local/bin/ftvm": '#!/bin/sh\nexec python3 -m ftvm "$@"\n',
    "usr/local/bin/python": '#!/bin/sh\nexec python3 "$@"\n',
}
"""What no package has: accounts, and programs by the names that scripts use."""

FOLDERS: Final = ("dev", "proc", "sys", "tmp", "run", "root", "work", "etc", "usr/local/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class RigImage:
    """What to boot, and the QEMU to boot it with: all paths are absolute.

    tree     Debian's packages, unpacked
    kernel   the kernel
    ramdisk  its first programs and modules; whoever boots it adds what to run
    disks    the root and the checkout; nothing may write to them
    """

    tree: Path
    kernel: Path
    ramdisk: Path
    disks: tuple[Path, Path]


def default_folder() -> Path:
    """Return where the rig is kept if no folder is named."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ftvm-rig"


def make_rig(folder: Path, kernel: str, say: Say, *, is_fresh: bool = False) -> RigImage:
    """Return the rig with one of KERNELS; make in `folder` what is not there yet, and `say` what takes long.

    With `is_fresh` packages are fetched again. Raises RigMissing if something that is needed is not here.
    """
    require_tools()
    folder = folder.absolute()
    with _locked(folder, say):
        base = folder / f"base-{_digest(Path(__file__).parent, [Path(packages_module.__file__), Path(__file__)])}"
        if is_fresh:
            shutil.rmtree(base, ignore_errors=True)
        if not base.exists():
            _made_aside(base, lambda aside: _make_base(aside, say))
        require_python(base / "tree")
        checkout = _make_checkout(folder, say)
        _prune(folder, (base, checkout))
    of_kernel = base / kernel
    return RigImage(
        tree=base / "tree",
        kernel=of_kernel / "vmlinuz",
        ramdisk=of_kernel / "ramdisk",
        disks=(base / "disk.img", checkout),
    )


@contextmanager
def _locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder: two that start side by side must not both fetch and build."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as wrong:
        raise RigMissing(f"the rig cannot be kept in {folder}: {wrong.strerror}") from wrong
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another process builds in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made_aside(place: Path, make: Callable[[Path], None]) -> None:
    """Make a folder or file whole or not at all. Only under the lock."""
    aside = place.with_name(f"{place.name}.new")
    _remove(aside)
    try:
        make(aside)
        aside.rename(place)
    except OSError as wrong:
        raise RigFailed(f"the rig cannot be made in {place.parent}: {wrong}") from wrong
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _make_base(base: Path, say: Say) -> None:
    tree, scratch = base / "tree", base / "scratch"
    scratch.mkdir(parents=True)
    say("fetching and unpacking about 230 packages of Debian")
    names = make_tree(tree, scratch)
    shutil.rmtree(scratch)
    (base / "manifest").write_text("".join(f"{name}\n" for name in names))
    for name in FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    for each in tree.glob("usr/lib/python3.*"):
        compile_tree(each, f"/usr/lib/{each.name}")
    for kernel, where in KERNELS.items():
        say(f"making the ramdisk of Linux {kernel}")
        _make_boot(tree / where, base / kernel)
    say("making the root's file system")
    _make_disk(tree, base / "disk.img", DISK_MIB["base"])


def _make_boot(tree: Path, folder: Path) -> None:
    """Put a kernel and its ramdisk into the new folder."""
    folder.mkdir()
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, folder / "vmlinuz")
    modules = tree / "lib" / "modules" / kernel.name.removeprefix("vmlinuz-")
    files = {f"modules/{at:02}.ko": content for at, content in enumerate(load_order(modules, MODULES))}
    files |= {"init": INIT.encode(), "bin/busybox": (folder.parent / "tree" / "bin" / "busybox").read_bytes()}
    (folder / "ramdisk").write_bytes(ramdisk_of(files))


def load_order(folder: Path, names: tuple[str, ...]) -> list[bytes]:
    """Return kernel modules, unpacked, in an order in which they can be loaded: each behind what it needs.

    A name that the folder does not have is built into the kernel, or is of another version: it is left out.
    """
    paths = {path.name.partition(".ko")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in paths:
            return
        path = paths.pop(name)
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        needs = KMOD_DEPENDS.search(content)
        for needed in needs[1].decode().split(",") if needs else ():
            add(needed.replace("-", "_"))
        ordered[name] = content

    for name in names:
        add(name)
    return list(ordered.values())


def _make_checkout(folder: Path, say: Say) -> Path:
    """Return the disk with this checkout."""
    gathered = folder / "checkout.gathered"
    shutil.rmtree(gathered, ignore_errors=True)
    try:
        gather(gathered)
        place = (
            folder / f"checkout-{_digest(gathered, sorted(path for path in gathered.rglob('*') if path.is_file()))}.img"
        )
        if not place.exists():
            say("making the file system with this checkout")
            compile_tree(gathered / SITE, f"/work/{SITE}")
            _made_aside(place, lambda aside: _make_disk(gathered, aside, DISK_MIB["checkout"]))
    finally:
        shutil.rmtree(gathered, ignore_errors=True)
    return place


def _prune(folder: Path, used: tuple[Path, ...]) -> None:
    """Delete what was not used for longest, but the last few."""
    for path in used:
        os.utime(path)
    for pattern, count in KEPT.items():
        for old in sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)[:-count]:
            _remove(old)


def _make_disk(folder: Path, disk: Path, mib: int) -> None:
    """Make an ext4 file system of a folder's content, owned by root."""
    mke2fs = find_tool("mke2fs") or "mke2fs"
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0"]
    command = [mke2fs, *options, "-d", str(folder), str(disk), f"{mib}M"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RigFailed(f"the file system {disk} cannot be made: {made.stderr.strip()[-300:]}")


def _digest(folder: Path, files: list[Path]) -> str:
    digest = xxhash.xxh3_128()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
