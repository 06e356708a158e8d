"""Two machines on one LAN, set up as the manual says: a QEMU guest on a bridge, and a TCP connection that lives on.

    python -m tests.soak.bridge --network "$(the commands of docs/setup.md for a bridge and a tap)"

The machines and the LAN are network namespaces of this process; nothing of this machine's own network is touched. The
commands of the manual are run on each machine, `ftvm setup` writes the files, and a client on the LAN sends a word and
waits for its echo, again and again, on one connection to each card in turn. Meanwhile the guest is switched over, its
host is killed, and its machine is cut off. Needs root, iproute2, QEMU, and what the demo of a QEMU needs. Prints one
JSON line.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ftvm.lab import qemuimage
from ftvm.lab.chaos.namespace import isolate, mount_disk

LAN: Final = "lan"
MACHINES: Final = {"192.168.50.1": "first", "192.168.50.2": "second"}
FIRST_PORT: Final = 7
WAIT_SECONDS: Final = 90.0
ECHOES_BETWEEN: Final = 20
FTVM: Final = (sys.executable, "-P", "-m", "ftvm")
INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
card=0
while ip link set eth$card up; do
  ip addr add 10.77.$card.2/24 dev eth$card
  port=$((7 + card))
  while :; do nc -l -p $port -e /bin/cat; done &
  card=$((card + 1))
done
wait
"""


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def until(is_so: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > ends_at:
            raise SystemExit(f"never came: {what}")
        time.sleep(0.2)


def lay_network(commands: str, nics: Sequence[str]) -> None:
    """Make the LAN, and two machines on it whose bridge and first tap are made by the manual's commands."""
    for name in (LAN, *MACHINES.values()):
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", LAN, "link", "add", "switch", "type", "bridge")
    run("ip", "-n", LAN, "link", "set", "switch", "up")
    for number in range(len(nics)):
        run("ip", "-n", LAN, "addr", "add", f"10.77.{number}.1/24", "dev", "switch")
    for address, name in MACHINES.items():
        run("ip", "link", "add", name, "netns", LAN, "type", "veth", "peer", "name", "eno1", "netns", name)
        run("ip", "-n", LAN, "link", "set", name, "master", "switch")
        run("ip", "-n", LAN, "link", "set", name, "up")
        run("ip", "-n", name, "link", "set", "eno1", "up")
        run("ip", "netns", "exec", name, "bash", "-euo", "pipefail", "-c", commands)
        for nic in nics[1:]:
            tap = nic.partition(":")[2]
            run("ip", "-n", name, "tuntap", "add", "dev", tap, "mode", "tap")
            run("ip", "-n", name, "link", "set", tap, "master", "br0", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "br0")


def guest_files(init: str) -> tuple[Path, dict[str, bytes]]:
    """Return the kernel that a guest boots, and the files of its ramdisk."""
    kernel = qemuimage.find_kernel()
    modules = qemuimage.MODULES / kernel.name.removeprefix("vmlinuz-") / "kernel"
    files = {f"modules/{at:02}.ko": (modules / f"{name}.ko").read_bytes() for at, name in enumerate(qemuimage.LOADED)}
    return kernel, files | {"bin/busybox": qemuimage.BUSYBOX.read_bytes(), "init": init.encode()}


def write_guest(folder: Path, nics: Sequence[str]) -> None:
    """Write what the guest boots, and the files of both hosts."""
    kernel, files = guest_files(INIT)
    (folder / "shared").mkdir()
    nodes = [word for address in MACHINES for word in ("--node", f"{address}:7778")]
    said = ["--guest", "vm2", "--kind", "qemu", *nodes, "--set", "memory=256M", "--set", f"nic={','.join(nics)}"]
    said += ["--set", "silence=1000"]  # a busy machine is no dead one: the guest is to be where this script moved it
    booted = ["-cpu", "qemu64", "-kernel", "vmlinuz", "-initrd", "ird.gz", "-append", "console=ttyS0 quiet"]
    place = ["--arbiter", f"file://{folder}/shared", "--folder", str(folder / "vm2")]
    run(*FTVM, "setup", "--batch", *said, *place, "--", *booted)
    for address in MACHINES:
        shutil.copy(kernel, folder / "vm2" / address / "vmlinuz")
        (folder / "vm2" / address / "ird.gz").write_bytes(qemuimage.ramdisk_of(files))


class Machine:
    """One of the two: starts its host, and asks it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.name = MACHINES[address]
        self._file = folder / "vm2" / address / "vm2.toml"
        self._log = folder / f"{self.name}.log"
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder / self.name)}
        (folder / self.name).mkdir()
        self._host: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        command, *options = words
        with self._log.open("ab") as log:
            self._host = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *FTVM, command, str(self._file), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def ask(self, *words: str) -> str:
        command = [*FTVM, *words]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        return asked.stdout

    def status(self) -> dict[str, Any]:
        told = json.loads(self.ask("status", "--json") or "[]")
        return dict(told[0]) if told else {}

    def is_protected(self) -> bool:
        now = self.status()
        return now.get("role") == "active" and now.get("standby") is not None

    def kill(self) -> None:
        """Kill the host: `ip netns exec` becomes it."""
        if self._host is not None:
            self._host.kill()
            self._host.wait()

    def cut(self, *, is_off: bool) -> None:
        run("ip", "-n", LAN, "link", "set", self.name, "down" if is_off else "up")


def connect(number: int) -> socket.socket:
    """Return a connection to a card of the guest, as soon as it is up."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            link = socket.create_connection((f"10.77.{number}.2", FIRST_PORT + number), 2)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
    link.settimeout(WAIT_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def wait_for_echoes(cards: int) -> int:
    """Be the client, on the LAN: print one JSON line of how many echoes came, and the longest wait for one.

    While it runs, the file `echoes` is as many bytes long as echoes came.
    """
    links = [connect(number) for number in range(cards)]
    echoes, worst = 0, 0.0
    while not Path("over").exists():
        began = time.monotonic()
        word = b"%08d" % echoes
        link = links[echoes % cards]
        link.sendall(word)
        if (came := link.recv(len(word), socket.MSG_WAITALL)) != word:
            raise SystemExit(f"sent {word!r}, got {came!r}")
        echoes, worst = echoes + 1, max(worst, time.monotonic() - began)
        with Path("echoes").open("ab") as heard:
            heard.write(b".")
    print(json.dumps({"echoes": echoes, "worst_seconds": round(worst, 2)}))
    return 0


@contextmanager
def client(folder: Path, cards: int) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", LAN, sys.executable, str(Path(__file__).resolve()), "--client", str(cards)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as asking:
        yield asking
        asking.kill()


def hear_more(folder: Path) -> None:
    """Wait until some echoes came from now on: the connection is made, and lives where the guest is now."""
    heard = folder / "echoes"
    enough = heard.stat().st_size + ECHOES_BETWEEN
    until(lambda: heard.stat().st_size >= enough, "echoes for the client")


def play(folder: Path, cards: int) -> dict[str, object]:
    """Start the pair, do to it what can be done, and return what the client saw."""
    first, second = (Machine(folder, address) for address in MACHINES)
    with ExitStack() as stack:
        for machine in (first, second):
            stack.callback(machine.kill)
        first.start("run", "--create")
        second.start("standby")
        until(first.is_protected, "a first copy")
        (folder / "echoes").touch()
        asking = stack.enter_context(client(folder, cards))
        hear_more(folder)
        first.ask("ctl", "switchover", "--guest", "vm2")
        until(second.is_protected, "the switchover")
        hear_more(folder)
        second.kill()
        until(lambda: first.status().get("role") == "active", "the takeover from a killed host")
        second.start("standby")
        until(first.is_protected, "a new standby")
        hear_more(folder)
        first.cut(is_off=True)
        until(lambda: second.status().get("role") == "active", "the takeover from a machine that is cut off")
        first.cut(is_off=False)
        until(second.is_protected, "the return of the machine that was cut off")
        hear_more(folder)
        (folder / "over").touch()
        said, _ = asking.communicate(timeout=WAIT_SECONDS)
        if asking.returncode != 0:
            raise SystemExit("a connection did not live on")
        return {**json.loads(said), "cards": cards, "moves": 3, "generation": second.status()["generation"]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.bridge", description=__doc__)
    parser.add_argument("--network", default="")
    parser.add_argument("--nic", action="append", help="a card of the guest: tap:vm2 (if none is given) or pump:vm2")
    parser.add_argument("--client", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.client:
        return wait_for_echoes(options.client)
    nics = options.nic or ["tap:vm2"]
    if refused := isolate():
        raise SystemExit(f"this needs network namespaces: {refused}")
    mount_disk(Path("/run"), 16 << 20)  # where `ip netns` keeps its names: those here end with this process
    with TemporaryDirectory() as folder:
        lay_network(options.network, nics)
        write_guest(Path(folder), nics)
        print(json.dumps(play(Path(folder), len(nics))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
