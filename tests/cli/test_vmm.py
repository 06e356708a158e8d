"""Anybody's monitor from the command line: its hosts as processes, killed with their monitors; and the check."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ftvm.transport.keys import write_keypair

from ..guests.vmm.monitors import build, reply, request, shared_folder
from .conftest import Run
from .hostpair import WAIT_SECONDS, host, port_of_nobody, wait_for

FAST = ("--heartbeat", "50", "--silence", "1000")


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(shared_folder(tmp_path_factory))


class Side:
    """One host that is started again and again in either role, each time with a new monitor."""

    def __init__(self, folder: Path, name: str, other: str, monitor: Path, engine: str, ports: dict[str, int]) -> None:
        self.port = port_of_nobody(socket.SOCK_DGRAM)
        self._socket = folder / f"{name}.sock"
        self._monitor = monitor
        self._arguments = (
            "--kind", "vmm", "--socket", str(self._socket), "--engine", engine, "--control", "none", *FAST,
            "--listen", f"tcp://127.0.0.1:{ports[name]}", "--peer", f"tcp://127.0.0.1:{ports[other]}",
            "--key", f"{folder / name}.key", "--allow", f"{folder / other}.pub",
            "--arbiter", f"file://{folder / 'record'}", "--nic", f"udp:{self.port}:{ports['client']}",
        )  # fmt: skip

    def start(self, stack: ExitStack, *command: str) -> None:
        self.process = stack.enter_context(host(*command, *self._arguments))
        self.monitor = subprocess.Popen([self._monitor, self._socket], stderr=subprocess.DEVNULL)
        stack.callback(self.monitor.wait, WAIT_SECONDS)
        stack.callback(self.monitor.kill)


class Client:
    """Puts and gets, until it is answered; `kept` is what was acknowledged."""

    def __init__(self, port: int, sides: list[Side]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.socket.settimeout(0.1)
        self.kept: dict[int, int] = {}
        self._sides, self._number = sides, 0

    def ask(self, operation: bytes, key: int, value: int = 0) -> int:
        self._number += 1
        for _ in range(WAIT_SECONDS * 10):
            for side in self._sides:
                self.socket.sendto(request(operation, self._number, key, value), ("127.0.0.1", side.port))
            with suppress(TimeoutError, ConnectionRefusedError):
                told = reply(self.socket.recv(2048))
                if told is not None and told[1] == self._number:
                    return told[3]
        raise AssertionError(f"no answer to {operation!r} {key}")

    def put(self, count: int) -> None:
        for key in range(len(self.kept), len(self.kept) + count):
            assert self.ask(b"P", key, 3 * key + 1) == 3 * key + 1
            self.kept[key] = 3 * key + 1

    def require_all(self) -> None:
        assert {key: self.ask(b"G", key) for key in self.kept} == self.kept


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("engine", ["remus", "kemari"])
def test_nothing_acknowledged_is_lost_when_host_and_monitor_are_killed_in_turn(
    engine: str, monitor: Path, tmp_path: Path, stack: ExitStack
) -> None:
    (tmp_path / "record").mkdir()
    for name in ("a", "b"):
        write_keypair(tmp_path / name)
    ports = {"a": port_of_nobody(), "b": port_of_nobody(), "client": port_of_nobody(socket.SOCK_DGRAM)}
    a, b = (Side(tmp_path, *names, monitor, engine, ports) for names in (("a", "b"), ("b", "a")))
    client = Client(ports["client"], [a, b])
    stack.callback(client.socket.close)
    a.start(stack, "run", "--create")
    b.start(stack, "standby")
    wait_for(a.process, "Protected")
    client.put(20)

    a.process.send_signal(signal.SIGKILL)
    wait_for(b.process, "TookOver")
    assert a.monitor.wait(WAIT_SECONDS) == 1  # told by the end of its connection
    client.require_all()
    a.start(stack, "standby")
    wait_for(b.process, "Protected")
    client.put(20)
    b.monitor.send_signal(signal.SIGKILL)
    wait_for(a.process, "TookOver")
    client.put(5)

    client.require_all()
    assert b.process.wait(WAIT_SECONDS) == 1
    assert not (tmp_path / "b.sock").exists()


def test_the_check_says_what_it_found_and_its_status(ftvm: Run, monitor: Path, tmp_path: Path) -> None:
    door = tmp_path / "door"
    quick = ("--examples", "1", "--moment", "10", "--input", "net0=x")

    kept = ftvm("vmm", "check", "--socket", door, *quick, "--json", "--", monitor, door)
    broken = ftvm("vmm", "check", "--socket", door, *quick, "--wait", "1", "--json", "--", "true")
    told = ftvm("vmm", "check", "--socket", door, *quick, "--wait", "1", "--", "true")

    assert (kept.status, json.loads(kept.out)) == (0, {"kept": True, "promise": None, "seen": None})
    assert broken.status == 1
    assert json.loads(broken.out) == {
        "kept": False,
        "promise": "A monitor hands over what can be protected",
        "seen": f"no monitor connected to {door} within 1 s; the command had ended with status 0",
    }
    assert (told.status, told.out.splitlines()[0]) == (1, "broken: A monitor hands over what can be protected")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--moment", "0"), "--moment is more than 0"),
        (("--input", "net0"), "--input net0: write CHANNEL=TEXT"),
        (("--memory", "much"), "memory 'much'"),
        (("--", "no/such/program"), "no/such/program: no such program"),
    ],
)
def test_wrong_usage_of_the_check_is_named(ftvm: Run, tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    outcome = ftvm("vmm", "check", "--socket", tmp_path / "door", *arguments)

    assert outcome.status == 2
    assert named in outcome.err
    assert os.listdir(tmp_path) == []


def test_a_host_whose_monitor_does_not_come_says_where_it_waits_and_can_be_stopped(tmp_path: Path) -> None:
    where = ("--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}", "--socket", str(tmp_path / "door"))
    with host("run", "--kind", "vmm", "--control", "none", *where, "--create") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"ftvm: waiting for a monitor at {tmp_path / 'door'}\n"

        process.send_signal(signal.SIGTERM)

        assert process.wait(WAIT_SECONDS) in (0, 130)
    assert not (tmp_path / "door").exists()
