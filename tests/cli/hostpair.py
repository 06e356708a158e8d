"""Hosts of this machine as processes: one, and a protected pair with keys; and what they tell, event by event."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ftvm.lab.stage import free_ports
from ftvm.transport.keys import write_keypair

__all__ = ["WAIT_SECONDS", "Hosts", "events_until", "host", "port_of_nobody", "wait_for"]

WAIT_SECONDS = 60


@contextmanager
def host(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "ftvm", *arguments, "--memory", "8M", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_SECONDS)


def events_until(process: subprocess.Popen[str], event: str) -> list[dict[str, object]]:
    """Return what a host prints up to the first event of a kind."""
    assert process.stdout is not None
    told: list[dict[str, object]] = []
    for line in process.stdout:
        told.append(json.loads(line))
        if told[-1].get("event") == event:
            return told
    assert process.stderr is not None
    raise AssertionError(f"the host ended without {event}: {told[-3:]}, {process.stderr.read()[-2000:]}")


def wait_for(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """Return the first event of a kind that a host prints."""
    return events_until(process, event)[-1]


def port_of_nobody(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that was free just now."""
    (port,) = free_ports(kind, 1)
    return port


class Hosts:
    """A pair, each with its own port and control socket, named as by default. Ended with `stack`."""

    def __init__(self, stack: ExitStack, folder: Path, silence_ms: int = 2000) -> None:
        self.folder = folder
        self.ports = (port_of_nobody(), port_of_nobody())
        (folder / "record").mkdir()
        for name in ("a", "b"):
            write_keypair(folder / name)
        where = [f"tcp://127.0.0.1:{port}" for port in self.ports]
        shared = ("--arbiter", f"file://{folder / 'record'}", "--heartbeat", "100", "--silence", str(silence_ms))
        first = ("--listen", where[0], "--peer", where[1], *self._keys("a", "b"), *shared)
        second = ("--listen", where[1], "--peer", where[0], *self._keys("b", "a"), *shared)
        self.primary = stack.enter_context(
            host("run", *first, "--control", self.control(1), "--create", "--program", "console")
        )
        self.standby = stack.enter_context(host("standby", *second, "--control", self.control(2)))
        wait_for(self.primary, "Protected")

    def control(self, number: int) -> str:
        """Return where the first or the second host is told what to do."""
        return f"ipc://{self.folder}/guest.{number}.sock"

    def _keys(self, own: str, other: str) -> tuple[str, ...]:
        return ("--key", f"{self.folder / own}.key", "--allow", f"{self.folder / other}.pub")
