#!/usr/bin/env python3
"""In the rig: a stock Debian kernel under KVM, in a stock QEMU or our own monitor; is each page that changed told?

Each time the guest has run for a while, what its tracker tells is compared with a comparison of all its memory.

    python -m ftvm.lab.rig tests/lab/rigscripts/epochs.py -- --epochs 500 --tracker userfault

The last line is JSON. Exit status: 0 if no page was missed.
"""

import argparse
import json
import sys
import time
from contextlib import closing
from pathlib import Path

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker
from ftvm.guests.kvm import KvmGuest, KvmSystem
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.lab.qemuimage import BUSYBOX, PROGRAMS, find_kernel, make_image, ramdisk_of
from ftvm.testing.transcript import Transcript

sys.path.insert(0, str(Path("tests/lab/rigscripts").absolute()))
from failover import APPEND, INIT

BOOT_S = 1200.0
MEMORY_BYTES = 128 << 20


class Ear(Transcript):
    """Keeps what the guest says on its console."""

    console = b""

    def emit(self, channel: str, payload: bytes, position: object = None) -> None:
        del position
        self.console += bytes(payload) if channel == "console" else b""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--tracker", default="auto")
    parser.add_argument("--kind", default="qemu", choices=["qemu", "kvm"])
    parser.add_argument("--accel", default="kvm", help="of a QEMU")
    parser.add_argument("--smp", type=int, default=1)
    parser.add_argument("--run-ms", type=float, default=50.0, help="how long the guest runs in an epoch")
    options = parser.parse_args()
    with closing(make_guest(options)) as guest:
        ear = Ear()
        guest.attach(ear)
        guest.resume()
        wait_until_it_works(ear)
        seen = compare(guest, options.epochs, options.run_ms / 1000)
    print(json.dumps(vars(options) | seen))
    return 1 if seen["missed"] or not seen["changed"] else 0


def make_guest(options: argparse.Namespace) -> QemuGuest | KvmGuest:
    if options.kind == "kvm":
        files = {"init": INIT.encode(), "bin/busybox": BUSYBOX.read_bytes(), "work": PROGRAMS["work"].read_bytes()}
        system = KvmSystem(kernel=find_kernel(), ramdisk=ramdisk_of(files), command_line=APPEND)
        return KvmGuest(system, processors=options.smp, memory_bytes=MEMORY_BYTES, tracker=options.tracker)
    image = make_image(Path("/tmp/epochs"))
    words = (*image.arguments("ftvm_write=64"), "-cpu", "qemu64", "-smp", str(options.smp))
    machine = QemuMachine(memory_bytes=MEMORY_BYTES, arguments=words, accel=options.accel)
    return QemuGuest(machine, boots=True, tracker=options.tracker)


def wait_until_it_works(ear: Ear) -> None:
    ends_at = time.monotonic() + BOOT_S
    while b"work: " not in ear.console:
        if time.monotonic() > ends_at:
            raise SystemExit(f"the guest has not booted: {ear.console[-500:]!r}")
        time.sleep(0.5)


def compare(guest: QemuGuest | KvmGuest, epochs: int, run_s: float) -> dict[str, int]:
    """Return how many pages changed, and how many of these were missed or told although they had not changed."""
    guest.pause()
    oracle = CompareTracker(NativeMemory([guest.memory[0].buffer]))
    guest.collect_dirty()
    oracle.collect()
    seen = {"changed": 0, "missed": 0, "told": 0}
    for epoch in range(epochs):
        guest.resume()
        time.sleep(run_s)
        guest.pause()
        told = int.from_bytes(guest.collect_dirty().words[0], "little")
        changed = int.from_bytes(oracle.collect().words[0], "little")
        guest.save_devices()
        seen["changed"] += changed.bit_count()
        seen["told"] += told.bit_count()
        seen["missed"] += (changed & ~told).bit_count()
        if (epoch + 1) % 50 == 0:
            print(f"{epoch + 1} epochs: {seen}", flush=True)
    return seen


if __name__ == "__main__":
    sys.exit(main())
