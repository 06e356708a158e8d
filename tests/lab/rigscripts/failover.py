#!/usr/bin/env python3
"""In the rig: a stock Debian kernel under KVM, in a stock QEMU or in our own monitor, whose hosts are killed in turn.

Each kill is SIGKILL to the host of the guest, which dies with it; then that host is started again as the standby.
At the end the guest's console, as it left both hosts, must show one boot, no wrong word of memory, no beat lost, and no
clock that goes back or jumps: uptime (monotonic), the kernel's own stamps (printk), and the time of day.

    python -m ftvm.lab.rig tests/lab/rigscripts/failover.py -- --engine kemari --smp 2 --kills 5
    python -m ftvm.lab.rig tests/lab/rigscripts/failover.py -- --kind kvm --kills 5

With --image the guest is the Debian of debianimage.py, with its disk and a network card: its records must all be on the
disk, and no client may see an acknowledged request lost.

    python -m ftvm.lab.rig --disk IMAGE tests/lab/rigscripts/failover.py -- --image /dev/vdc --kills 5

The last line is JSON: what was seen. Exit status: 0 if all of it held.
"""

import argparse
import itertools
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ftvm.lab.qemuimage import BUSYBOX, MODULES, PROGRAMS, find_kernel, ramdisk_of
from ftvm.lab.rig.image import load_order
from ftvm.lab.stage import free_ports

SLOW = ("--silence", "60000", "--heartbeat", "1000", "--interval", "500")
PATIENCE_S = 1200.0
EVENT_CHARS_MAX = 160
NOT_TOLD = ("CopyProgress", "RecordLearned", "EngineInForce")
STEP_S_MAX = 30.0
"""Between two beats, which are 0.2 s apart: the guest's processor waits for its turn, but not for that long."""

STAMP_S_BACK = 1.0
"""Two processors write their stamped lines as they come to it: by so little may a later line have the earlier stamp."""

BEATS = """\
/work 64 &
beat=0
while :; do
  beat=$((beat + 1))
  read up idle </proc/uptime
  echo "beat $beat up $up real $(date +%s) end"
  echo "<4>stamp $beat end" >/dev/kmsg
  usleep 200000
done
"""
"""What a guest says and does, and a judge reads: beats, clocks, and looks at its memory."""

INIT = f"""\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
echo "boot $(cat /proc/sys/kernel/random/boot_id) $source $(nproc)"
{BEATS}"""
DEBIAN_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
mount -t ext4 /dev/vda /tmp
for each in dev proc sys; do mount -o move /$each /tmp/$each; done
exec switch_root /tmp /sbin/init
"""
DEBIAN_MODULES = ("virtio_blk", "virtio_net", "crc32c_generic", "ext4", "autofs4")
BUS_MODULES = {"qemu": "virtio_pci", "kvm": "virtio_mmio"}
APPEND = "console=ttyS0 printk.time=1"
CLIENT_WORDS = ("--driven", "--clients", "2", "--pace", "500", "--patience", "4000", "--audit", "300")

BEAT = re.compile(r"beat (\d+) up ([\d.]+) real (\d+) end")
STAMP = re.compile(r"\[ *([\d.]+)\] stamp (\d+) end")
WORK = re.compile(r"work: \d+ bad (\d+)")
DISK = re.compile(r"disk (\d+) records (\w+)")
BOOT = re.compile(r"boot ([0-9a-f-]{36}) (\S+) (\d+)")
ANSWERS = re.compile(r'"requests_acknowledged": ?(\d+)')
KERNEL = re.compile(r"\[ *\d+\.\d{6}\] .*\n")
"""What the kernel says, which may come in the middle of a line: the port takes 16 bytes of that at a time."""

LINE = re.compile(r"^\[ *(\d+\.\d{6})\] .*\n", re.MULTILINE)
"""A whole line of the kernel's, with its stamp."""


def say(text: str) -> None:
    print(f"{Path('/proc/uptime').read_text().split()[0]:>8} {text}", flush=True)


class Host:
    """A host's process, and what it said: the guest's console and its log, each in a file."""

    def __init__(self, name: str, place: Path, command: list[str]) -> None:
        self.name = name
        self._told = 0
        self._out, self._log = place.with_suffix(".out"), place.with_suffix(".log")
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, cwd=place.parent)

    def console(self) -> str:
        return self._out.read_text(errors="replace")

    def beats(self) -> int:
        return len(BEAT.findall(self.console()))

    def lines(self) -> int:
        return len(LINE.findall(self.console()))

    def log(self) -> list[str]:
        return self._log.read_text(errors="replace").rpartition("\n")[0].splitlines()

    def count(self, event: str) -> int:
        return sum(f'"{event}"' in line for line in self.log())

    def tell_events(self) -> None:
        """Say what its log has told since the last call: a whole line of it is an event, or words of a failure."""
        for line in self.log()[self._told :]:
            self._told += 1
            event = json.loads(line) if line.startswith("{") else {"message": line}
            if event.get("event") not in NOT_TOLD:
                say(f"  {self.name}: {event['message'][:EVENT_CHARS_MAX]}")

    def said_last(self) -> str:
        """Return the ends of its log and of its console."""
        return "\n  ".join(["its log:", *self.log()[-12:], "the console:", *self.console().splitlines()[-12:]])


def children(pid: int) -> list[int]:
    """Return the processes that a process started, and that live."""
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(each) for part in found for each in part]


class Pair:
    """Two host slots on this machine. A context manager; `hosts` are all that were ever started, in order."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.hosts: list[Host] = []
        self._options = options
        self._network: list[subprocess.Popen[bytes]] = []
        self._cables: list[str] = []
        self._ports = dict(zip("ab", free_ports(socket.SOCK_STREAM, 2), strict=True))

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="pair-")
        self._folder = Path(self._temporary.name)
        (self._folder / "arbiter").mkdir()
        (self._folder / "guest.gz").write_bytes(ramdisk_of(self._ramdisk_files()))
        for name in "ab":
            subprocess.run(["ftvm", "keygen", name], cwd=self._folder, check=True, stdout=subprocess.DEVNULL)
        if self._options.image is not None:
            self._prepare_image(self._options.image)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._network, *(host.process for host in self.hosts)):
            process.kill()
            process.wait()
        self._temporary.cleanup()

    def _ramdisk_files(self) -> dict[str, bytes]:
        if self._options.image is None:
            return {"init": INIT.encode(), "bin/busybox": BUSYBOX.read_bytes(), "work": PROGRAMS["work"].read_bytes()}
        wanted = (BUS_MODULES[self._options.kind], *DEBIAN_MODULES)
        modules = load_order(MODULES / find_kernel().name.removeprefix("vmlinuz-"), wanted)
        files = {f"modules/{at:02}.ko": content for at, content in enumerate(modules)}
        return files | {"init": DEBIAN_INIT.encode(), "bin/busybox": BUSYBOX.read_bytes()}

    def _prepare_image(self, image: str) -> None:
        """Give each host a copy of the image, and put a switch between their cards and a client."""
        for name in "ab":
            subprocess.run(["dd", f"if={image}", f"of={self._folder / name}.img", "bs=1M", "conv=sparse"], check=True)
        ports = free_ports(socket.SOCK_DGRAM, 6)
        self._cables = [f"udp:{card}:{switch}" for card, switch in zip(ports[::2], ports[1::2], strict=True)]
        words = [
            word
            for card, switch in zip(ports[::2], ports[1::2], strict=True)
            for word in ("--port", f"udp:{switch}:{card}")
        ]
        self._network = [self._lab("switch", *words), self._lab("client", "--nic", self._cables[2], *CLIENT_WORDS)]

    def _lab(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.out").open("wb") as out:
            command = [sys.executable, "-m", f"ftvm.lab.{name}", *words]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT)

    def start(self, name: str, role: str) -> Host:
        other = "ab".replace(name, "")
        wanted = self._options
        words = ["--guest", "vm", "--node", name, *SLOW, "--memory", "128M" if wanted.image is None else "192M"]
        words += ["--listen", f"tcp://127.0.0.1:{self._ports[name]}", "--peer", f"tcp://127.0.0.1:{self._ports[other]}"]
        words += ["--key", f"{name}.key", "--allow", f"{other}.pub", "--arbiter", f"file://{self._folder}/arbiter"]
        words += ["--engine", wanted.engine, "--tracker", wanted.tracker, "--log-format", "json", "--control", "none"]
        words += ["--create"] if role == "run" else []
        if wanted.image is not None:
            words += ["--disk", f"{name}.img", "--nic", self._cables["ab".index(name)]]
        place = self._folder / f"{name}{len(self.hosts)}"
        self.hosts.append(Host(name, place, ["ftvm", role, *words, *self._machine(role)]))
        return self.hosts[-1]

    def _machine(self, role: str) -> list[str]:
        """Return what sort of machine it is, and what it boots."""
        wanted, kernel, ramdisk = self._options, str(find_kernel()), str(self._folder / "guest.gz")
        if wanted.kind == "kvm":
            boots = ["--kernel", kernel, "--ramdisk", ramdisk, "--append", APPEND] if role == "run" else []
            return ["--kind", "kvm", "--processors", str(wanted.smp), *boots]
        guest = ["-cpu", wanted.cpu, "-smp", str(wanted.smp), "-kernel", kernel, "-initrd", ramdisk, "-append", APPEND]
        return ["--kind", "qemu", "--accel", wanted.accel, "--", *guest]

    def wait_answered(self, host: Host) -> None:
        """Wait until the guest has answered the client, if there is one, once more."""
        if self._network:
            said = self._folder / "client.out"
            told = answers_in(said.read_text())
            self.wait(host, "its guest answered the client", lambda: answers_in(said.read_text()) > told)

    def verdict(self) -> dict[str, Any]:
        """Have the client read all once more, and return what it found."""
        client = self._network[1]
        assert client.stdin is not None
        client.stdin.write(b'{"stop": true}\n')
        client.stdin.flush()  # not closed: the client takes that for the end of whoever reads its verdict
        client.wait(PATIENCE_S)
        last = (self._folder / "client.out").read_text().splitlines()[-1]
        found: dict[str, Any] = json.loads(last).get("verdict", {"findings": [f"no verdict: {last}"]})
        return found

    def wait(self, host: Host, what: str, is_so: Callable[[], bool]) -> None:
        """Wait until it is so; raise SystemExit, with the host's last words, if the host ends or PATIENCE_S is over."""
        ends_at = time.monotonic() + PATIENCE_S
        while not is_so():
            if host.process.poll() is not None or time.monotonic() > ends_at:
                raise SystemExit(
                    f"host {host.name} ({host.process.poll()}): waited in vain: {what}\n  {host.said_last()}"
                )
            time.sleep(0.5)
            for each in self.hosts:
                each.tell_events()
        say(f"host {host.name}: {what}")

    def kill_booting(self, active: Host, standby: Host) -> Host:
        """Kill the active as soon as it is protected and lines of its kernel left it since; return the survivor."""
        self.wait(active, "it is protected", lambda: active.count("Protected") > 0)
        told = active.lines()
        self.wait(active, "lines of its kernel left it since", lambda: active.lines() > told)
        return self._kill(active, standby)

    def kill_active(self, active: Host) -> Host:
        """Start a standby, wait until it protects, kill the active; return the survivor, where the guest goes on."""
        beats = self._options.beats
        protected = active.count("Protected")
        standby = self.start("ab".replace(active.name, ""), "standby")
        self.wait(active, "it is protected", lambda: active.count("Protected") > protected)
        if self._options.stall:
            self._stall(active)
        told = active.beats()
        self.wait(active, f"{beats} beats left it since", lambda: active.beats() >= told + beats)
        return self._kill(active, standby)

    def _stall(self, active: Host) -> None:
        """Have the active's QEMU stand still, for less long than the standby waits, and go on."""
        told = active.beats()
        for pid in children(active.process.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(self._options.stall)
        for pid in children(active.process.pid):
            os.kill(pid, signal.SIGCONT)
        self.wait(active, f"its QEMU stood still for {self._options.stall:g} s", lambda: active.beats() > told)
        self.wait(active, "it is protected", lambda: active.count("Protected") > active.count("Solo"))

    def _kill(self, active: Host, standby: Host) -> Host:
        beats = self._options.beats
        active.process.send_signal(signal.SIGKILL)
        active.process.wait()
        say(f"host {active.name}: KILLED, its guest's last stamp is {LINE.findall(active.console())[-1:]}")
        self.wait(standby, f"took over, and {beats} beats left it", lambda: standby.beats() >= beats)
        self.wait_answered(standby)
        return standby


def judge(consoles: list[str]) -> dict[str, Any]:
    """Return what the consoles show, in the order in which the guest was there; `wrong` says what must not be so."""
    all_said = "\n".join(consoles).replace("\r", "")
    text = KERNEL.sub("", all_said)
    boots, bad = sorted(set(BOOT.findall(text))), [int(count) for count in WORK.findall(text)]
    wrong = [f"booted {len(boots)} times: {boots}"] if len(boots) != 1 else []
    wrong += [f"{max(bad, default='no look at')} words of memory are wrong"] if not bad or any(bad) else []
    up: dict[int, float] = {}
    real: dict[int, float] = {}
    for number, seconds, day in BEAT.findall(text):
        if up.setdefault(int(number), float(seconds)) != float(seconds):
            wrong.append(f"beat {number} was told twice, with {up[int(number)]} and {seconds}")
        real[int(number)] = float(day)
    missing = sorted(set(range(1, max(up, default=0))) - set(up))
    wrong += [f"beats are missing: {missing[:20]}"] if missing or not up else []
    seen: dict[str, Any] = {"boot": boots, "beats": len(up), "looks": len(bad)}
    stamps = {int(number): float(seconds) for seconds, number in STAMP.findall(all_said)}
    for clock, times in {"uptime": up, "time of day": real, "printk": stamps}.items():
        ordered = [times[number] for number in sorted(times)]
        steps = [later - earlier for earlier, later in itertools.pairwise(ordered)] or [-1.0]
        seen[clock] = {
            "from": ordered[:1],
            "to": ordered[-1:],
            "least": round(min(steps), 3),
            "max": round(max(steps), 3),
        }
        if min(steps) < 0 or max(steps) > STEP_S_MAX:
            wrong.append(f"the clock {clock} goes back or jumps: a step between beats is {seen[clock]}")
    return {**seen, "wrong": wrong + judge_lines(consoles)}


def answers_in(said: str) -> int:
    """Return how many requests were acknowledged, by what the client said last of it."""
    found = ANSWERS.findall(said)
    return int(found[-1]) if found else 0


def judge_disk(text: str) -> list[str]:
    """Return what is wrong with the looks at the records on the disk: each found all, and there was one at least."""
    looks = dict(DISK.findall(KERNEL.sub("", text.replace("\r", ""))))
    return [f"the disk's {count} records {look}" for count, look in looks.items() if look != "same"] or (
        [] if looks else ["no look at the disk"]
    )


def judge_client(verdict: dict[str, Any]) -> list[str]:
    """Return what is wrong with what the client found: an answer missing at the end, one lost, or none at all."""
    wrong = [f"client: {finding}" for finding in verdict["findings"]]
    wrong += [f"client: {verdict.get('unanswered')} requests have no answer"] if verdict.get("unanswered") else []
    return wrong + ([] if verdict.get("requests_acknowledged") else ["client: nothing was acknowledged"])


def judge_lines(consoles: list[str]) -> list[str]:
    """Return what is wrong with the stamps of the kernel's lines: each is later than the last, but for repeated lines.

    What left the last host just before its end may leave the next one again, to the letter; and a kernel says all again
    when the driver of its console comes. Only at a takeover may the next stamp not be far away: a kernel that boots may
    say nothing for long.
    """
    wrong: list[str] = []
    last, told = 0.0, set[str]()
    for number, console in enumerate(consoles):
        found = [(float(line[1]), line[0]) for line in LINE.finditer(console.replace("\r", ""))]
        latest = last + STEP_S_MAX if number else math.inf
        for stamp, line in found:
            if line in told:
                continue
            if not last - STAMP_S_BACK <= stamp <= latest:
                wrong.append(f"on host {number} the kernel's stamps go from {last} to {stamp}: {line.strip()}")
                break
            last, latest = max(last, stamp), math.inf
            told.add(line)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", default="remus")
    parser.add_argument("--kind", default="qemu", choices=list(BUS_MODULES))
    parser.add_argument("--accel", default="kvm", help="of a QEMU")
    parser.add_argument("--tracker", default="auto")
    parser.add_argument("--cpu", default="qemu64", help="of a QEMU")
    parser.add_argument("--smp", type=int, default=1)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--image", help="the disk of debianimage.py, a file or a device: the guest boots from a copy")
    parser.add_argument("--early", action="store_true", help="the first kill is while the guest boots")
    parser.add_argument(
        "--stall", type=float, default=0.0, help="for how many seconds the QEMU stands still before a kill"
    )
    parser.add_argument("--beats", type=int, default=15, help="how many before and after each kill")
    options = parser.parse_args()
    with Pair(options) as pair:
        active = pair.start("a", "run")
        if options.early:
            active = pair.kill_booting(active, pair.start("b", "standby"))
        pair.wait(active, "the guest beats", lambda: active.beats() >= 2)
        pair.wait_answered(active)
        for _ in range(options.kills - options.early):
            active = pair.kill_active(active)
        verdict = pair.verdict() if options.image is not None else None
        consoles = [host.console() for host in pair.hosts]
        seen = judge(consoles)
        if verdict is not None:
            seen |= {"client": verdict, "wrong": seen["wrong"] + judge_disk("".join(consoles)) + judge_client(verdict)}
    print(json.dumps(vars(options) | seen))
    return 1 if seen["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
