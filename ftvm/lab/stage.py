"""The stage of a demo: which processes there are, their addresses on this machine, and the commands that start them.

Two host slots, a switch with a port for each and one for the client, an arbiter folder, a key pair for each host.
Everything lives in one folder and on free ports of the loopback device. Starts nothing: it writes each host's guest
file, and `free_ports` looks at the machine.
"""

import json
import os
import socket
import sys
from dataclasses import dataclass
from itertools import count as count_up
from itertools import islice
from pathlib import Path
from typing import Final

from ftvm.errors import BrokenError

__all__ = ["GUEST_ID", "GUEST_MAC", "HOSTS", "HostCommands", "Stage", "free_ports"]

HOSTS: Final = ("A", "B")
GUEST_ID: Final = "demo"
GUEST_MAC: Final = "52:54:00:77:00:02"
COMMANDS: Final = {"primary": "run", "standby": "standby"}
"""The command that starts a host in a role."""
LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(10_000, 32_768)
"""Below those that Linux gives to whoever asks for any port or connects (ip(7), ip_local_port_range). Of those, a
socket that dials a host which does not listen yet may take the host's own, and even reach itself."""
PORTS_OF_A_PROCESS: Final = 128
"""Each process looks at other ports, by its id, and gives one again only when all others have had their turn."""
PYTHON: Final = (sys.executable, "-P", "-m")
"""Runs a module of the same installation as this one; -P keeps a source folder that one stands in from coming first."""
_turns: Final = count_up()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCommands:
    """How hosts are started; a test may put another program in the place of ``python -m ftvm``."""

    program: tuple[str, ...] = (*PYTHON, "ftvm")
    engine: str = "remus"
    interval_ms: float = 25.0
    latency_ms: float | None = None
    """The latency target of an engine that adapts to one."""
    memory: str = "64M"
    guest: str = "kv"
    """What the machine runs: the name of a program that comes with ftvm, or the path of an ELF file; "qemu" for a
    stock QEMU with `qemu_arguments`."""
    qemu_arguments: tuple[str, ...] = ()

    kind: str = "riscv"
    """What runs the program, unless that is a QEMU."""
    history: str | None = None
    """The folder in which each host records, in its own folder, what the guest does while it stands by."""

    @property
    def is_qemu(self) -> bool:
        """Whether hosts run QEMU, which is a separate process."""
        return self.guest == "qemu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One scene's folder and ports. A cable is two UDP ports: the switch's end and the card's.

    arbiter        its URL
    dialled_ports  where each host is dialled by the other: at its own port, or at a relay's
    """

    folder: Path
    arbiter: str
    tcp_ports: tuple[int, ...]
    dialled_ports: tuple[int, ...]
    udp_ports: tuple[int, ...]

    @classmethod
    def prepare(cls, folder: Path, *, arbiter: str | None = None, has_relay: bool = False) -> "Stage":
        """Choose free ports and, if no arbiter is given, make the folder of one."""
        if arbiter is None:
            (folder / "arbiter").mkdir()
            arbiter = f"file://{folder / 'arbiter'}"
        cables = len(HOSTS) + 1
        ports = free_ports(socket.SOCK_STREAM, 2 * len(HOSTS))
        return cls(
            folder=folder,
            arbiter=arbiter,
            tcp_ports=ports[: len(HOSTS)],
            dialled_ports=ports[len(HOSTS) :] if has_relay else ports[: len(HOSTS)],
            udp_ports=free_ports(socket.SOCK_DGRAM, 2 * cables),
        )

    def switch_port(self, host: str) -> int:
        """Return which port of the switch a host's cable is plugged into."""
        return HOSTS.index(host)

    def keygen_command(self, commands: HostCommands, host: str) -> list[str]:
        """Make a host's key pair."""
        return [*commands.program, "keygen", str(self.folder / host)]

    def host_command(self, commands: HostCommands, host: str, role: str) -> list[str]:
        """Write a host's guest file; return what runs it as primary (which makes the first record) or as standby."""
        file = self.folder / f"{host}.toml"
        settings = self._settings(commands, host)
        # What JSON writes of strings, numbers and lists of strings, TOML reads.
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        words = ["--create", "--json"] if role == "primary" else ["--json"]
        return [*commands.program, COMMANDS[role], str(file), *words]

    def _settings(self, commands: HostCommands, host: str) -> dict[str, str | float | list[str]]:
        other = _other(host)
        settings: dict[str, str | float | list[str]] = {
            "guest": GUEST_ID,
            "node": host,
            "listen": _endpoint(self.tcp_ports[HOSTS.index(host)]),
            "peer": [_endpoint(self.dialled_ports[HOSTS.index(other)])],
            "arbiter": self.arbiter,
            "key": f"{host}.key",
            "allow": [f"{other}.pub"],
            "memory": commands.memory,
            "nic": self._cable(self.switch_port(host), from_card=True),
            "mac": GUEST_MAC,
            "interval": commands.interval_ms,
            "engine": commands.engine,
            "control": f"ipc://{self.control_path(host)}",
        }
        if commands.history is not None:
            settings["history"] = str(Path(commands.history) / host)
        if commands.latency_ms is not None:
            settings["latency"] = commands.latency_ms
        if commands.is_qemu:
            return {**settings, "kind": "qemu", "arguments": list(commands.qemu_arguments)}
        return {**settings, "kind": commands.kind, "program": commands.guest}

    def control_path(self, host: str) -> Path:
        """Return where a host's control socket is."""
        return self.folder / f"{host}.sock"

    def switch_command(self) -> list[str]:
        """Run the switch, with a port for each host and the last one for the client."""
        ports = [word for port in range(len(HOSTS) + 1) for word in ("--port", self._cable(port, from_card=False))]
        return [*PYTHON, "ftvm.lab.switch", *ports]

    def client_command(self, seed: int, *options: str) -> list[str]:
        """Run the client, to be told what to do."""
        cable = self._cable(len(HOSTS), from_card=True)
        return [*PYTHON, "ftvm.lab.client", "--nic", cable, "--seed", str(seed), "--driven", *options]

    def init_command(self, commands: HostCommands, *, force: bool = False) -> list[str]:
        """Make the arbiter's record, or vacate it by an operator's word."""
        words = ["--arbiter", self.arbiter, "--guest", GUEST_ID, "--yes", "--json"]
        return [*commands.program, "init", *words, *(["--force"] if force else [])]

    def relay_command(self, delay_ms: float) -> list[str]:
        """Run the relay between the hosts; its way there is from the first host to the second."""
        first, second = range(len(HOSTS))
        doors = {
            "--listen": self.dialled_ports[second],
            "--target": self.tcp_ports[second],
            "--back-listen": self.dialled_ports[first],
            "--back-target": self.tcp_ports[first],
        }
        words = [word for name, port in doors.items() for word in (name, str(port))]
        return [*PYTHON, "ftvm.lab.relay", *words, "--delay-ms", f"{delay_ms:g}"]

    def _cable(self, switch_port: int, *, from_card: bool) -> str:
        switch_end, card_end = self.udp_ports[2 * switch_port : 2 * switch_port + 2]
        return f"udp:{card_end}:{switch_end}" if from_card else f"udp:{switch_end}:{card_end}"


def free_ports(kind: socket.SocketKind, count: int) -> tuple[int, ...]:
    """Return ports of the loopback device that are free now; only a program that wants just these can come first.

    Raises BrokenError if this process finds too few.
    """
    first = os.getpid() * PORTS_OF_A_PROCESS
    own = (PORTS[(first + next(_turns) % PORTS_OF_A_PROCESS) % len(PORTS)] for _ in range(PORTS_OF_A_PROCESS))
    found = tuple(islice((port for port in own if _is_free(kind, port)), count))
    if len(found) < count:
        raise BrokenError(f"{count} ports of {LOOPBACK} are needed; of {PORTS_OF_A_PROCESS}, {len(found)} are free")
    return found


def _is_free(kind: socket.SocketKind, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _endpoint(port: int) -> str:
    return f"tcp://{LOOPBACK}:{port}"


def _other(host: str) -> str:
    return HOSTS[1 - HOSTS.index(host)]
