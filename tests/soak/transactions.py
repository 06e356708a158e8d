"""A database in a QEMU guest whose hosts die, or lose their power: what a client was told is committed stays.

    python -m tests.soak.transactions --engine kemari --journal wal --acts 8

The guest runs SQLite on ext4 (transactions.c). Clients outside have numbered entries committed over TCP. Each host has
its image on a separate file system, from which a power cut takes what was not synced (EXT4_IOC_SHUTDOWN, as xfstests
do). At moments of chance one of these is done, and wherever the guest goes on it must have all that was acknowledged:

* `kill`: the active is killed, or its power cut; the standby takes over, and the other comes back;
* `move`: the guest is switched over first;
* `alone`: the standby's power is cut, and after some more commits the active's;
* `both`: both are cut, in either order, at once or one after the other; `join`: while the standby comes back,
  perhaps with a new image.

After the last three the guest boots from the image that `ftvm disk show` names, once its file system, and the database
in it, were checked. Needs root, gcc, libsqlite3-dev, e2fsprogs, iproute2, and what the demo of a QEMU needs. Prints one
JSON line.
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Final

from ftvm.errors import FtvmError
from ftvm.guests.disk.journal import finish_journal
from ftvm.lab import qemuimage
from ftvm.lab.chaos.namespace import isolate
from ftvm.lab.hostprocesses import HostProcesses
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Children
from ftvm.lab.stage import HOSTS, HostCommands, Stage
from ftvm.units import PAGE_BYTES, seconds_to_nanos

from .bridge import guest_files, run

__all__ = ["main"]

GUEST: Final = ("10.77.0.2", 7)
CLIENTS: Final = 4
WAIT_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 2.0
ENTRIES_BETWEEN: Final = 20
DISK_BYTES: Final = 64 << 20
DEVICE_BYTES: Final = 512 << 20
SHUTDOWN, WITHOUT_LOG = 0x8004587D, struct.pack("I", 2)
OPTIONS: Final = ("--disk", "{image}", "--nic", "tap:tap{host}", "--silence", "1000")
"""A busy machine is no dead host."""
SOURCE: Final = Path(__file__).with_name("transactions.c")
INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
ip link set eth0 up
ip addr add 10.77.0.2/24 dev eth0
mkdir /disk
mount -t ext4 /dev/vda /disk
exec /transactions $ftvm_journal
"""
LOOK: Final = """\
SELECT client, count(*), max(number), sum(text IS NOT printf('%0*d', 64 + number * 37 % 6000, number))
FROM entries GROUP BY client"""


def lay_network() -> None:
    run("ip", "link", "add", "lan", "type", "bridge")
    run("ip", "addr", "add", "10.77.0.1/24", "dev", "lan")
    run("ip", "link", "set", "lan", "up")
    for host in HOSTS:
        run("ip", "tuntap", "add", "dev", f"tap{host}", "mode", "tap")
        run("ip", "link", "set", f"tap{host}", "master", "lan", "up")


def make_guest(folder: Path) -> qemuimage.QemuImage:
    """Build what the guest boots."""
    (kernel, files), program, ramdisk = guest_files(INIT), folder / "transactions", folder / "ird.gz"
    run("gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", f"{SOURCE}", "-o", f"{program}", "-lsqlite3", "-lm")
    files["transactions"] = program.read_bytes()
    ramdisk.write_bytes(qemuimage.ramdisk_of(files))
    return qemuimage.QemuImage(kernel=kernel, ramdisk=ramdisk)


def make_file(path: Path, size_bytes: int) -> str:
    path.touch()
    os.truncate(path, size_bytes)
    return str(path)


class Client(Thread):
    """Has one entry after the other committed, on a connection that lives as long as the guest does."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged = 0
        self.lost: str | None = None
        self._number = number
        self._link: socket.socket | None = None

    def run(self) -> None:
        while self.lost is None:
            try:
                with socket.create_connection(GUEST, 1) as self._link:
                    self._link.settimeout(WAIT_SECONDS)
                    self._commit(self._link)
            except (OSError, ValueError):
                time.sleep(0.1)

    def _commit(self, link: socket.socket) -> None:
        replies = link.makefile()
        link.sendall(f"{self._number} 0\n".encode())
        _, count, last = map(int, replies.readline().split())
        if not count == last >= self.acknowledged:
            self.lost = f"client {self._number} was told {self.acknowledged}; there are {count}, the last {last}"
        while self.lost is None:
            line = f"{self._number} {self.acknowledged + 1}\n"
            link.sendall(line.encode())
            if (reply := replies.readline()) != line:
                raise ValueError(reply)
            self.acknowledged += 1

    def hang_up(self) -> None:
        """End a connection whose guest is gone, which TCP would find out late."""
        if self._link is not None:
            self._link.shutdown(socket.SHUT_RDWR)


class Pair:
    """Two hosts, each with its image on a separate file system, and the clients of their guest."""

    def __init__(self, folder: Path, children: Children, commands: HostCommands, chance: random.Random) -> None:
        self.boots = 0
        self._folder, self._children, self._commands, self._chance = folder, children, commands, chance
        self._clients = [Client(number) for number in range(1, CLIENTS + 1)]
        self._images = {host: folder / host / "disk.img" for host in HOSTS}
        self._stage = Stage.prepare(folder)
        self._hosts = HostProcesses(children, self._stage, meanwhile=self._look)
        self._hosts.make_keys(commands)
        for host, image in self._images.items():
            image.parent.mkdir()
            run("mke2fs", "-q", "-t", "ext4", "-F", make_file(folder / f"{host}.device", DEVICE_BYTES))
            self._mount(host)
            make_file(image, DISK_BYTES)
        run("mke2fs", "-q", "-t", "ext4", "-F", str(self._images["A"]))
        self._boot("A")
        for client in self._clients:
            client.start()
        self._rejoin("B")

    @property
    def acknowledged(self) -> int:
        return sum(client.acknowledged for client in self._clients)

    def _look(self) -> None:
        for client in self._clients:
            if client.lost is not None:
                raise SystemExit(f"LOST: {client.lost}")

    def _mount(self, host: str) -> None:
        run("mount", "-o", "loop", str(self._folder / f"{host}.device"), str(self._folder / host))

    def _on_line(self, host: str, line: JsonLine) -> None:
        name = line.get("event")
        if name in ("TookOver", "Solo"):
            self._active, self._standby = host, None
        if name in ("Protected", "SwitchedHere"):
            self._active, self._standby = host, _other(host)

    def _start(self, host: str, role: str) -> None:
        options = [option.format(host=host, image=self._images[host]) for option in OPTIONS]
        self._hosts.start(host, role, self._commands, lambda line: self._on_line(host, line), options)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        self._hosts.wait_for(lambda: is_so() or None, seconds_to_nanos(WAIT_SECONDS), what)

    def _pause(self) -> None:
        self._hosts.pass_time(self._chance.uniform(0, PAUSE_SECONDS))

    def work(self) -> None:
        """Have entries committed where the guest is now."""
        enough = self.acknowledged + ENTRIES_BETWEEN
        self._until(lambda: self.acknowledged >= enough, "entries are committed")
        self._pause()

    def _kill(self, *hosts: str, is_cut: bool = True) -> None:
        """Kill hosts with their QEMUs at the same time; take the power from their file systems, or not."""
        for host in hosts:
            self._hosts.running[host].freeze()
        for host in hosts if is_cut else ():
            folder = os.open(self._folder / host, os.O_RDONLY)
            fcntl.ioctl(folder, SHUTDOWN, WITHOUT_LOG)
            os.close(folder)
        for host in hosts:
            self._hosts.running[host].kill()
            self._hosts.wait_ended(host)
            if is_cut:
                run("umount", str(self._folder / host))
                self._mount(host)

    def _rejoin(self, host: str) -> None:
        self._start(host, "standby")
        self._until(lambda: self._standby == host, f"host {host} is the standby")

    def _boot(self, host: str) -> None:
        self._active, self._standby = host, None
        self.boots += 1
        self._start(host, "primary")

    def _recover(self) -> None:
        """Both hosts are dead: do what the manual says."""
        said = run(*self._commands.program, "disk", "show", *map(str, self._images.values()))
        named = [host for host in HOSTS if said.endswith(f"newest: {self._images[host]}\n")]
        if not named:
            raise SystemExit(f"no image is named: {said}")
        self._check(self._images[named[0]])
        for client in self._clients:
            client.hang_up()
        self._children.run("init", self._stage.init_command(self._commands, force=True), seconds_to_nanos(60))
        self._boot(named[0])
        self._rejoin(_other(named[0]))

    def _check(self, image: Path) -> None:
        """Check the file system of an image as the guest will find it, and the database that it has."""
        copy, journal, found = self._folder / "copy", self._folder / "journal", self._folder / "found"
        run("cp", "--sparse=always", str(image), str(copy))
        if (left := image.with_name(image.name + ".journal")).exists():
            shutil.copy(left, journal)
            with copy.open("r+b") as opened:
                finish_journal(journal, opened.fileno(), DISK_BYTES // PAGE_BYTES)
        subprocess.run(["e2fsck", "-p", str(copy)], check=False, capture_output=True)  # as a boot: its journal
        run("e2fsck", "-fn", str(copy))
        found.mkdir()
        run("debugfs", "-R", f"rdump / {found}", str(copy))
        database = sqlite3.connect(found / "entries.db")
        (whole,), rows = database.execute("PRAGMA integrity_check").fetchone(), database.execute(LOOK).fetchall()
        database.close()
        shutil.rmtree(found)
        there = {client: count for client, count, last, bad in rows if count == last and not bad}
        told = {number: client.acknowledged for number, client in enumerate(self._clients, 1)}
        if whole != "ok" or any(there.get(client, 0) < count for client, count in told.items()):
            raise SystemExit(f"LOST in {image}: {whole}; acknowledged {told}, there {rows}")

    # --- what is done; each begins and ends with a guest that is protected ---

    def kill(self) -> None:
        dead = self._active
        self._kill(dead, is_cut=self._chance.random() < 0.5)
        self._until(lambda: self._active != dead, "a takeover")
        self.work()
        self._rejoin(dead)

    def move(self) -> None:
        left = self._active
        run(*self._commands.program, "ctl", "switchover", "--control", f"ipc://{self._stage.control_path(left)}")
        self._until(lambda: self._standby == left, "the switchover")
        self._pause()
        self.kill()

    def alone(self) -> None:
        active = self._active
        self._kill(_other(active))
        self._until(lambda: self._standby is None, "the loss of the standby")
        self.work()
        self._kill(active)
        self._recover()

    def both(self) -> None:
        if self._chance.random() < 0.5:
            self._kill(*HOSTS)
        else:
            first = self._chance.choice(HOSTS)
            self._kill(first)
            self._pause()
            self._kill(_other(first))
        self._recover()

    def join(self) -> None:
        standby = _other(self._active)
        self._kill(standby)
        if self._chance.random() < 0.5:
            self._images[standby].unlink()
            make_file(self._images[standby], DISK_BYTES)
        self._start(standby, "standby")
        self._pause()
        self.both()


def _other(host: str) -> str:
    return HOSTS[1 - HOSTS.index(host)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.transactions", description=__doc__)
    parser.add_argument("--engine", default="remus", choices=("remus", "kemari"))
    parser.add_argument("--journal", default="wal", choices=("wal", "delete"))
    parser.add_argument("--acts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if refused := isolate():
        raise SystemExit(f"this needs namespaces: {refused}")
    lay_network()
    chance = random.Random(f"{options.engine} {options.journal} {options.seed}")
    children, done = Children(), Counter[str]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        booted = make_guest(folder).arguments(f"ftvm_journal={options.journal}")
        commands = HostCommands(guest="qemu", memory="256M", engine=options.engine, qemu_arguments=booted)
        try:
            pair = Pair(folder, children, commands, chance)
            deck: list[Callable[[], None]] = []
            for _ in range(options.acts):
                if not deck:
                    deck = [pair.kill, pair.move, pair.alone, pair.both, pair.join]
                    chance.shuffle(deck)
                act = deck.pop()
                pair.work()
                act()
                done[act.__name__] += 1
            pair.work()
        except FtvmError as wrong:
            raise SystemExit(str(wrong)) from wrong
        finally:
            children.close()
            subprocess.run(["umount", *(str(folder / host) for host in HOSTS)], check=False)
    print(json.dumps({**vars(options), "done": done, "boots": pair.boots, "acknowledged": pair.acknowledged}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
