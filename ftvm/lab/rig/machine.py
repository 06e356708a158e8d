"""Boots the rig, hands on what the script in it prints, and returns how the script ended.

The machine has three serial ports: the console of its kernel (kept, to explain what went wrong), the output of the
script, and its exit status. What it writes to its disks is thrown away. It runs at the lowest priority,
and is ended with this process, however that ends.
"""

import contextlib
import ctypes
import os
import select
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm.lab.qemuimage import ramdisk_of
from ftvm.lab.rig import RigFailed
from ftvm.lab.rig.image import RigImage
from ftvm.lab.rig.packages import BACKPORTS
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import nanos_to_seconds, seconds_to_nanos

__all__ = ["QEMUS", "RigRun", "run_script"]

QEMUS: Final = {"7.2": "/usr/bin", "10.0": f"/{BACKPORTS}/usr/bin"}
"""The folders in the rig of the QEMUs that a script may find first."""

READ_BYTES: Final = 1 << 16
LAST_LINES: Final = 15
PR_SET_PDEATHSIG: Final = 1
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"

_libc: Final = ctypes.CDLL(None)
_now: Final = MonotonicClock().now


@dataclass(frozen=True, slots=True, kw_only=True)
class RigRun:
    """What to run, and in how much of a machine.

    script      a file of this machine; it is run as a program, so its first line names its interpreter
    arguments   the script's arguments
    qemu        which of QEMUS the script finds as qemu-system-x86_64
    memory_mib  memory of the rig
    cpus        its processors; with more than one, nested virtualization under this emulator resets guests, and the rig
    seconds     how long all may take
    disks       more disks, which the script finds as /dev/vdc and on; what it writes there is gone at the end
    """

    script: Path
    arguments: Sequence[str] = ()
    qemu: str = "7.2"
    memory_mib: int = 2000
    cpus: int = 1
    seconds: float = 3600.0
    disks: Sequence[Path] = ()


def run_script(image: RigImage, run: RigRun, take: Callable[[bytes], None]) -> int:
    """Run a script in the rig to its end; `take` gets what it prints, as it comes. Returns its exit status.

    Raises RigFailed, with the last lines of the kernel's console, if the rig ends without a status or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="ftvm-rig-") as name:
        folder = Path(name)
        ramdisk = folder / "ramdisk"
        ramdisk.write_bytes(image.ramdisk.read_bytes() + _extra(run))
        process = subprocess.Popen(
            _command(image, run, folder, ramdisk),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"QEMU_MODULE_DIR": str(image.tree / BACKPORTS / LIBRARIES / "qemu"), "TMPDIR": name},
            start_new_session=True,  # Ctrl-C is for this process; it ends the machine
            preexec_fn=_be_humble,
        )
        try:
            _hand_on(process, run.seconds, take)
        except TimeoutError as late:
            raise RigFailed(f"the rig was not done in {run.seconds:g} s; {_last_lines(folder)}") from late
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return _status(folder)


def _extra(run: RigRun) -> bytes:
    """Return the ramdisk that has what to run, to be put behind the first."""
    command = f"""\
export PATH={QEMUS[run.qemu]}:/usr/local/bin:/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8
export PYTHONPATH=/work/site PYTHONDONTWRITEBYTECODE=1
cd /work
chmod +x /run/script
exec /run/script {shlex.join(run.arguments)}
"""
    return ramdisk_of({"script": run.script.read_bytes(), "command": command.encode()})


def _command(image: RigImage, run: RigRun, folder: Path, ramdisk: Path) -> list[str]:
    """Return the outer QEMU: the newer one, as the older one's emulator cannot boot the newer kernel.

    It is run with the libraries and the loader of the tree, so that it does not matter what is installed here.
    """
    newer = image.tree / BACKPORTS
    libraries = ":".join(str(tree / LIBRARIES) for tree in (newer, image.tree))
    firmware = [word for name in ("qemu", "seabios") for word in ("-L", str(newer / "usr" / "share" / name))]
    serials = [
        *("-serial", f"file:{folder}/console", "-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"),
        *("-serial", f"file:{folder}/status"),
    ]
    disks = [
        word
        for disk in (*image.disks, *run.disks)
        for word in ("-drive", f"file={str(disk.absolute()).replace(',', ',,')},format=raw,if=virtio,snapshot=on")
    ]
    return [
        *(str(image.tree / "lib64" / "ld-linux-x86-64.so.2"), "--library-path", libraries),
        *(str(newer / "usr" / "bin" / "qemu-system-x86_64"), *firmware, "-nodefaults", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(run.cpus), "-m", str(run.memory_mib)),
        *("-display", "none", "-monitor", "none", *serials, *disks),
        *("-kernel", str(image.kernel), "-initrd", str(ramdisk), "-append", "console=ttyS0 panic=-1 rdinit=/init"),
    ]


def _be_humble() -> None:
    """In the new process: take what others leave, and end when the parent does.

    The kernel shares time among sessions first, so the session's own weight must be lowered, too.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(19)
    with contextlib.suppress(OSError):  # a kernel that does not group by session
        Path("/proc/self/autogroup").write_text("19")


def _hand_on(process: subprocess.Popen[bytes], seconds: float, take: Callable[[bytes], None]) -> None:
    """Hand on all that comes until the end of it. Raises TimeoutError."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    ends_at = _now() + seconds_to_nanos(seconds)
    while True:
        left = nanos_to_seconds(ends_at - _now())
        if left <= 0 or not select.select((output,), (), (), left)[0]:
            raise TimeoutError
        data = os.read(output, READ_BYTES)
        if not data:
            return
        take(data)


def _status(folder: Path) -> int:
    said = _read(folder / "status").strip()
    if not said.isdigit():
        raise RigFailed(f"the rig ended before its script did; {_last_lines(folder)}")
    return int(said)


def _last_lines(folder: Path) -> str:
    lines = _read(folder / "console").splitlines()[-LAST_LINES:]
    return "\n  ".join(["its console said last:", *lines])


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
