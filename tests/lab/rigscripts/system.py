#!/usr/bin/env python3
"""In the rig: a stock Debian kernel in our own monitor (kind kvm), saved in mid-life and loaded into a new machine.

The guest has a file system on its disk and answers pings. It is paused, saved, and goes on in another machine, several
times; what it said over all its lives is judged as failover.py does, and its clocks must go on by the wall clock.

    python -m ftvm.lab.rig tests/lab/rigscripts/system.py -- --processors 2

The last line is JSON: what was seen. Exit status: 0 if all of it held.
"""

import argparse
import json
import struct
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ftvm.errors import BadFrame
from ftvm.guests.kvm import KvmGuest, KvmSystem
from ftvm.lab.packets import EtherType, Frame, Ipv4, checksum
from ftvm.lab.qemuimage import BUSYBOX, MODULES, PROGRAMS, find_kernel, ramdisk_of
from ftvm.lab.rig.image import load_order
from ftvm.testing.transcript import Transcript

sys.path.insert(0, str(Path("tests/lab/rigscripts").absolute()))
from failover import APPEND, BEAT, BEATS, DISK, WORK, judge, judge_disk

PATIENCE_S = 1200.0
MEMORY_BYTES = 192 << 20
DISK_BYTES = 4 << 20
APART_S = 2.0
"""How long the guest is nowhere between two of its lives."""
DRIFT_S_MAX = 0.5

GUEST_MAC = bytes.fromhex("525400123456")
OUR_MAC = bytes.fromhex("020000000001")
GUEST_IP, OUR_IP = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.1")
PROTOCOL_ICMP, ECHO_REQUEST, ECHO_REPLY = 1, 8, 0
ECHO = struct.Struct("!BBHHH")

WANTED = ("virtio_mmio", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")
INIT = (
    """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
ifconfig eth0 10.0.0.2 netmask 255.255.255.0 up
arp -s 10.0.0.1 02:00:00:00:00:01
mkdir -p /disk
mke2fs /dev/vda >/dev/null
mount -t ext2 /dev/vda /disk
source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo "boot $(cat /proc/sys/kernel/random/boot_id) $source $(nproc)"
(record=0; while :; do
  record=$((record + 1)); echo $record >>/disk/records; sync
  if [ $((record % 5)) = 0 ]; then
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(seq 1 $record)" = "$(cat /disk/records)" ] && look=same || look=differ
    echo "disk $record records $look"
  fi
  usleep 300000
done) &
"""
    + BEATS
)


class Ear(Transcript):
    """Keeps what the guest says on its console in one life, and which pings it answered."""

    def __init__(self) -> None:
        self.console = b""
        self.answered: set[int] = set()

    def emit(self, channel: str, payload: bytes, position: object = None) -> None:
        del position
        if channel == "console":
            self.console += payload
        elif channel == "net0" and (number := answered(payload)) is not None:
            self.answered.add(number)

    def text(self) -> str:
        return self.console.decode(errors="replace")


def ping(number: int) -> bytes:
    """Return the frame of an echo request."""
    plain = ECHO.pack(ECHO_REQUEST, 0, 0, 1, number) + b"is anybody there"
    message = plain[:2] + struct.pack("!H", checksum(plain)) + plain[4:]
    packet = Ipv4(source=OUR_IP, destination=GUEST_IP, protocol=PROTOCOL_ICMP, payload=message)
    frame = Frame(destination=GUEST_MAC, source=OUR_MAC, ethertype=EtherType.IPV4, payload=packet.encode())
    return frame.encode()


def answered(frame: bytes) -> int | None:
    """Return the number of the echo request that this frame answers, or None."""
    try:
        content = Frame.decode(frame)
        packet = Ipv4.decode(content.payload) if content.ethertype == EtherType.IPV4 else None
    except BadFrame:
        return None
    if packet is None or packet.protocol != PROTOCOL_ICMP or len(packet.payload) < ECHO.size:
        return None
    kind, _, _, _, number = ECHO.unpack_from(packet.payload)
    return int(number) if kind == ECHO_REPLY and checksum(packet.payload) == 0 else None


def say(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


def make_ramdisk() -> bytes:
    modules = load_order(MODULES / find_kernel().name.removeprefix("vmlinuz-"), WANTED)
    files = {f"modules/{at:02}.ko": content for at, content in enumerate(modules)}
    files |= {"init": INIT.encode(), "bin/busybox": BUSYBOX.read_bytes(), "work": PROGRAMS["work"].read_bytes()}
    return ramdisk_of(files)


def make_guest(options: argparse.Namespace, *, boots: bool) -> KvmGuest:
    system = KvmSystem(kernel=find_kernel(), ramdisk=make_ramdisk(), command_line=options.append) if boots else None
    return KvmGuest(
        system, processors=options.processors, memory_bytes=MEMORY_BYTES, disk=DISK_BYTES, tracker=options.tracker
    )


def live(guest: KvmGuest, beats: int) -> Ear:
    """Let it run until it has said so many beats, looked at disk and memory, and answered a ping; pause it."""
    ear = Ear()
    guest.attach(ear)
    guest.resume()
    ends_at = time.monotonic() + PATIENCE_S
    number, told = 0, 0
    while not has_lived(ear, beats):
        if guest.failure() is not None or time.monotonic() > ends_at:
            raise SystemExit(f"the guest ({guest.failure()}) said last:\n{ear.text()[-3000:]}")
        number += 1
        guest.deliver("net0", ping(number))
        time.sleep(0.5)
        lines = ear.text().splitlines()
        for line in lines[told:-1]:
            say(f"  {line}")
        told = max(told, len(lines) - 1)
    guest.pause()
    return ear


def has_lived(ear: Ear, beats: int) -> bool:
    text = ear.text()
    return len(BEAT.findall(text)) >= beats and bool(DISK.search(text) and WORK.search(text) and ear.answered)


def move(guest: KvmGuest, options: argparse.Namespace) -> KvmGuest:
    """Return a new machine that has become what the old one, paused, is; end the old one."""
    devices = guest.save_devices()
    if guest.save_devices() != devices:
        raise SystemExit("what was saved twice differs")
    heir = make_guest(options, boots=False)
    for old, new in zip(guest.memory, heir.memory, strict=True):
        new.buffer[:] = old.buffer[:]
    guest.close()
    time.sleep(APART_S)
    heir.load_devices(devices)
    say(f"moved, {len(devices)} bytes beside memory")
    return heir


def drift_s(earlier: tuple[float, float], later: tuple[float, float]) -> float:
    """Return by how much the guest's clock went faster than ours."""
    return (later[1] - earlier[1]) - (later[0] - earlier[0])


def clocks(guest: KvmGuest) -> tuple[float, float]:
    """Return our clock and the guest's, both in seconds."""
    return time.monotonic(), guest.clocks()[0] / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processors", type=int, default=1)
    parser.add_argument("--moves", type=int, default=3, help="how often it goes on in another machine")
    parser.add_argument("--beats", type=int, default=10, help="how many in each life")
    parser.add_argument("--tracker", default="auto")
    parser.add_argument("--append", default=APPEND, help="what the kernel is told")
    options = parser.parse_args()
    guest = make_guest(options, boots=True)
    ears = [live(guest, options.beats)]
    began = clocks(guest)
    drifts: list[float] = []
    for _ in range(options.moves):
        guest = move(guest, options)
        ears.append(live(guest, options.beats))
        drifts.append(round(drift_s(began, clocks(guest)), 3))
    tracker, state_bytes = guest.tracker, len(guest.save_devices())
    guest.close()
    said = "".join(ear.text() for ear in ears)  # each goes on where the last one was, be it in a line
    seen: dict[str, Any] = vars(options) | judge([said])
    seen |= {"drift_s": drifts, "pings": [len(ear.answered) for ear in ears], "disk": DISK.findall(said)[-1:]}
    seen |= {"tracker": tracker, "state_bytes": state_bytes}
    seen["wrong"] += judge_disk(said)
    seen["wrong"] += [f"the guest's clock drifts: {drifts} s" for each in drifts[-1:] if abs(each) > DRIFT_S_MAX]
    print(json.dumps(seen))
    return 1 if seen["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
