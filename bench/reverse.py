"""QEMU's own reverse-stepi, for bench/timetravel.py: a run is recorded, replayed to its end, and stepped back from.

QEMU keeps a snapshot of where the recording began, and goes back by executing from there to the instruction before.
Source: QEMU, docs/system/replay.rst; the packets are gdb's remote protocol, "Packets": bs is a step backwards.
"""

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("qemu-system-riscv64", "qemu-img")
_SECONDS_MAX: Final = 120


def missing() -> str:
    """Return which program is not installed, "" if all are."""
    return next((name for name in PROGRAMS if shutil.which(name) is None), "")


def qemu_step_back_seconds(folder: Path, program: Path, written: int, rounds: int) -> list[float]:
    """Return what each of so many steps back took, from where the program writes to the address `written`."""
    disk, listening = folder / "snapshots.qcow2", folder / "gdb"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    subprocess.run(_command(folder, program, "record"), check=True, timeout=_SECONDS_MAX)
    stub = ["-S", "-chardev", f"socket,path={listening},server=on,wait=off,id=gdb", "-gdb", "chardev:gdb"]
    with subprocess.Popen([*_command(folder, program, "replay"), *stub]) as qemu:
        try:
            gdb = _Stub(listening)
            gdb.ask("qSupported:")
            gdb.ask(f"Z2,{written:x},8")
            gdb.ask("c")
            gdb.ask(f"z2,{written:x},8")
            return [_step_back(gdb) for _ in range(rounds)]
        finally:
            qemu.kill()


def _step_back(gdb: "_Stub") -> float:
    begun = time.perf_counter()
    gdb.ask("bs")
    return time.perf_counter() - begun


def _command(folder: Path, program: Path, mode: str) -> list[str]:
    recorded = f"shift=7,rr={mode},rrfile={folder / 'recorded'},rrsnapshot=begin"
    disk = f"file={folder / 'snapshots.qcow2'},if=none,id=snapshots,format=qcow2"
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none", "-net", "none"]
    board = ["-machine", "virt", "-bios", "none", "-m", "16M", "-kernel", str(program)]
    return ["qemu-system-riscv64", *board, *quiet, "-icount", recorded, "-drive", disk]


class _Stub:
    """The gdb stub of a QEMU, as far as a step back needs it."""

    def __init__(self, path: Path) -> None:
        until = time.monotonic() + _SECONDS_MAX
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.02)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_SECONDS_MAX)
        self._socket.connect(str(path))
        self._read = b""

    def ask(self, text: str) -> str:
        """Send a packet and return the answer."""
        packet = text.encode()
        self._socket.sendall(b"$%s#%02x" % (packet, sum(packet) & 255))
        while (answer := re.search(rb"\$([^#]*)#..", self._read)) is None:
            content = self._socket.recv(4096)
            if not content:
                raise RuntimeError(f"QEMU ended at gdb's packet {text!r}")
            self._read += content
        self._read = self._read[answer.end() :]
        self._socket.sendall(b"+")
        return answer[1].decode()
