"""Sockets, doors and monitors for tests; all are ended behind each test."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvm.guests.vmm import MonitorDoor, VmmGuest

from .monitors import FakeMonitor, build, hello, memfd, shared_folder

MakeFake = Callable[..., tuple[VmmGuest, FakeMonitor]]
MakeTiny = Callable[..., VmmGuest]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(shared_folder(tmp_path_factory), is_sanitized=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def door(tmp_path: Path, stack: ExitStack) -> MonitorDoor:
    return stack.enter_context(MonitorDoor(tmp_path / "door"))


@pytest.fixture
def make_fake(door: MonitorDoor, stack: ExitStack) -> MakeFake:
    """Returns a guest and the monitor in Python behind it; `serves=False` for one that does not answer by itself."""

    def make(*, serves: bool = True, boots: bool = True, **said: object) -> tuple[VmmGuest, FakeMonitor]:
        fake = FakeMonitor(door.path)
        stack.callback(fake.close)
        fake.greet(hello(**said), [memfd()])
        guest = fake.make_guest(door, boots=boots, connect_seconds=30, answer_seconds=1)
        stack.callback(guest.close)
        assert [told[:2] for told in fake.heard] == [("welcome", [1, boots]), ("pause", [1])]
        fake.heard.clear()
        if serves:
            fake.serve()
        return guest, fake

    return make


@pytest.fixture
def processes(stack: ExitStack) -> list["subprocess.Popen[bytes]"]:
    """The monitors that `make_tiny` started, in order; killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in started:
            process.kill()
            process.wait()

    stack.callback(end)
    return started


@pytest.fixture
def make_tiny(door: MonitorDoor, stack: ExitStack, tiny: Path, processes: list["subprocess.Popen[bytes]"]) -> MakeTiny:
    def make(*, boots: bool = True, tracking: str = "bitmap", program: Path = tiny) -> VmmGuest:
        processes.append(subprocess.Popen([program, door.path, tracking]))
        guest = VmmGuest(door, boots=boots)
        stack.callback(guest.close)
        return guest

    return make
