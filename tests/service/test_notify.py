"""What a service manager hears, over a real datagram socket that plays its part."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ConfigError
from ftvm.events import Halted, Protected, RoleChanged, Solo
from ftvm.runtime.protection import protect
from ftvm.service.notify import Notifier
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos

SECOND = 1_000_000_000


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        heard: list[str] = []
        while True:
            try:
                heard.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return heard


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.socket.close()


def became(role: str) -> RoleChanged:
    return RoleChanged(at=Nanos(0), guest_id="vm1", role=role, replica_id="a1", reason="so it is")


def test_a_standby_is_ready_once_its_loop_runs(manager: Manager, address: str) -> None:
    notifier = Notifier(address, None, is_ready_when_active=False)

    due = notifier.step(Nanos(0))

    assert (due, manager.heard()) == (None, ["READY=1"])
    notifier.close()


def test_a_primary_is_ready_once_the_guest_runs_and_not_before(manager: Manager, address: str) -> None:
    notifier = Notifier(address, None, is_ready_when_active=True)
    notifier.step(Nanos(0))
    before = manager.heard()

    notifier.note(became("active"))
    notifier.step(Nanos(1))

    assert (before, manager.heard()) == ([], ["STATUS=active: so it is", "READY=1"])
    notifier.close()


def test_ready_is_said_once(manager: Manager, address: str) -> None:
    notifier = Notifier(address, None, is_ready_when_active=False)

    for now in range(3):
        notifier.note(became("active"))
        notifier.step(Nanos(now))

    assert manager.heard().count("READY=1") == 1
    notifier.close()


def test_the_watchdog_is_fed_four_times_a_limit(manager: Manager, address: str) -> None:
    notifier = Notifier(address, Nanos(4 * SECOND), is_ready_when_active=True)

    dues = [notifier.step(Nanos(now)) for now in (0, SECOND - 1, SECOND, SECOND + 1)]

    assert dues == [SECOND, SECOND, 2 * SECOND, 2 * SECOND]
    assert manager.heard() == ["WATCHDOG=1"] * 2
    notifier.close()


def test_protection_is_told_of_as_a_status(manager: Manager, address: str) -> None:
    notifier = Notifier(address, None, is_ready_when_active=True)

    notifier.note(Protected(at=Nanos(0), guest_id="vm1", generation=2, standby="b1"))
    notifier.note(Halted(at=Nanos(0), guest_id="vm1", reason="b1 is silent"))
    notifier.note(Solo(at=Nanos(0), guest_id="vm1", generation=3, reason="b1 is silent"))
    notifier.step(Nanos(0))

    assert manager.heard() == [
        "STATUS=active, protected by b1 (generation 2)",
        "STATUS=active, but the guest is paused: b1 is silent",
        "STATUS=active, unprotected: b1 is silent (generation 3)",
    ]
    notifier.close()


def test_an_end_is_announced_once(manager: Manager, address: str) -> None:
    notifier = Notifier(address, None, is_ready_when_active=True)

    notifier.close()
    notifier.close()

    assert manager.heard() == ["STOPPING=1"]


def test_a_manager_that_is_busy_or_gone_breaks_nothing(manager: Manager, address: str) -> None:
    notifier = Notifier(address, Nanos(4), is_ready_when_active=True)
    for now in range(2_000):
        notifier.step(Nanos(now))
    manager.socket.close()

    notifier.step(Nanos(5_000))

    assert notifier.step(Nanos(6_000)) is not None
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "limit_ns"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "5000000"}, 5 * SECOND),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5 * SECOND),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_this_process_is_watched(
    manager: Manager, address: str, environment: dict[str, str], limit_ns: int | None
) -> None:
    notifier = Notifier.from_environment({**environment, "NOTIFY_SOCKET": address}, is_ready_when_active=True)

    assert notifier is not None
    due = notifier.step(Nanos(0))

    assert due == (None if limit_ns is None else limit_ns // 4)
    assert manager.heard() == ([] if limit_ns is None else ["WATCHDOG=1"])
    notifier.close()


def test_without_a_manager_there_is_no_notifier() -> None:
    assert Notifier.from_environment({}, is_ready_when_active=True) is None


def test_an_abstract_address_is_understood() -> None:
    manager = Manager(f"@ftvm-test-{os.getpid()}")

    Notifier(f"@ftvm-test-{os.getpid()}", None, is_ready_when_active=False).close()

    assert manager.heard() == ["STOPPING=1"]
    manager.socket.close()


def test_a_manager_that_is_not_there_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=r"NOTIFY_SOCKET=.* cannot be reached"):
        Notifier(address, None, is_ready_when_active=True)


def test_a_real_host_is_ready_feeds_its_watchdog_and_says_goodbye(manager: Manager, address: str) -> None:
    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=MemoryRecordStore(),
        create=True,
        services=[Notifier(address, Nanos(60 * SECOND), is_ready_when_active=True)],  # ten words fill the socket
    ) as protection:
        protection.status()
        protection.status()

    heard = manager.heard()
    assert [word for word in heard if not word.startswith(("STATUS", "WATCHDOG"))] == ["READY=1", "STOPPING=1"]
    assert "WATCHDOG=1" in heard
