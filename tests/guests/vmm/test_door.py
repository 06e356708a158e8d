"""Where monitors come in: who may, what is refused with which words, and that nothing of it is left behind."""

import fcntl
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ClosedError, ConfigError, GuestError
from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.guests.vmm import door as door_module
from ftvm.guests.vmm.messages import frame

from ...leftovers import nothing_left_behind
from .monitors import PAGES, SEALS, FakeMonitor, hello, memfd

MIB = 1 << 20


def knock(
    door: MonitorDoor, header: Sequence[Any], descriptors: Sequence[int], payload: bytes = b"", most: int = MIB
) -> str:
    """Come in with this hello, which must be refused; return the reason, of which the monitor was told, too."""
    fake = FakeMonitor(door.path)
    try:
        fake.greet(header, descriptors, payload)
        with pytest.raises(GuestError) as refused:
            VmmGuest(door, connect_seconds=30, memory_bytes_max=most)
        told = fake.hear()
        assert told is not None
        assert told[0] == "refused"
        assert str(told[1][0])[:900] in str(refused.value)
        assert fake.hear() is None
        return str(refused.value)
    finally:
        fake.close()


def pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


def ordinary_file() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGES * 4096)
        return os.dup(file.fileno())


def pagemap() -> int:
    return os.open("/proc/self/pagemap", os.O_RDONLY)


def test_only_its_user_can_reach_the_socket_and_it_is_gone_at_the_end(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        door = MonitorDoor(tmp_path / "door")
    finally:
        os.umask(before)

    mode = os.stat(door.path).st_mode
    door.close()
    door.close()

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not os.path.exists(door.path)


@pytest.mark.parametrize(
    ("passed", "named"),
    [
        (lambda: [memfd(seals=0)], "region ram is not sealed against shrinking"),
        (lambda: [memfd(seals=fcntl.F_SEAL_GROW)], "region ram is not sealed against shrinking"),
        (lambda: [memfd(pages=PAGES - 1)], "is said to have 32768 bytes, its memory has 28672"),
        (lambda: [memfd(seals=SEALS | fcntl.F_SEAL_WRITE)], "cannot be mapped for writing"),
        (lambda: [memfd(pages=0, seals=SEALS, flags=os.MFD_HUGETLB)], "huge pages cannot be protected"),
        (lambda: [pipe()], "region ram is no memfd"),
        (lambda: [ordinary_file()], "region ram is n"),
        (list, "0 descriptors were passed for 1 regions"),
        (lambda: [memfd(), memfd()], "2 descriptors were passed for 1 regions"),
        (lambda: [memfd() for _ in range(19)], "more than 18 descriptors were passed"),
    ],
)
def test_memory_that_could_hurt_this_host_is_refused_by_name(
    door: MonitorDoor, passed: Callable[[], list[int]], named: str
) -> None:
    with nothing_left_behind():
        reason = knock(door, hello(), passed())

    assert named in reason
    assert f"process {os.getpid()}" in reason


@pytest.mark.parametrize(
    ("passed", "named"),
    [
        (lambda: [memfd()], "1 descriptors were passed for 1 regions, a userfaultfd and a pagemap"),
        (lambda: [memfd(), pipe(), pagemap()], "what was passed as the userfaultfd is 'pipe:"),
    ],
)
def test_what_is_no_userfaultfd_is_refused(door: MonitorDoor, passed: Callable[[], list[int]], named: str) -> None:
    assert named in knock(door, hello(tracking="userfault"), passed())


def test_more_memory_than_is_allowed_is_refused_with_the_setting_that_allows_it(door: MonitorDoor) -> None:
    reason = knock(door, hello(regions=[("ram", 257, 0)]), [memfd(257)])

    assert "the monitor hands over 2 MiB of memory, 1 MiB are allowed here: raise `memory`" in reason


def test_one_memory_for_two_regions_is_refused(door: MonitorDoor) -> None:
    one = memfd()

    reason = knock(door, hello(regions=[("ram", PAGES, 0), ("rom", PAGES, 0)]), [one, os.dup(one)])

    assert "two regions are one and the same memory" in reason


@pytest.mark.parametrize(
    ("header", "payload", "named"),
    [
        (["output", 1, "net0"], b"", "the first message is 'output'"),
        (hello(), b"x", "1 bytes behind a header are more than the limit of 0"),
        (hello(version=7), b"", "speaks version [7] of the protocol"),
    ],
)
def test_what_is_no_hello_is_refused(door: MonitorDoor, header: list[Any], payload: bytes, named: str) -> None:
    assert named in knock(door, header, [memfd()], payload)


def test_a_monitor_that_speaks_before_it_is_welcome_is_refused(door: MonitorDoor) -> None:
    fake = FakeMonitor(door.path)
    fake.socket.sendall(frame(hello()) + frame(["output", 1, "net0"]))

    with pytest.raises(GuestError, match="it spoke before it was welcome"):
        VmmGuest(door)
    fake.close()


def test_a_monitor_that_goes_away_before_it_said_hello_is_named(door: MonitorDoor) -> None:
    fake = FakeMonitor(door.path)
    fake.socket.sendall(frame(hello())[:9])
    fake.close()

    with pytest.raises(GuestError, match="closed the connection before it said hello"):
        VmmGuest(door)


def test_a_monitor_that_never_comes_is_waited_for_so_long_and_its_socket_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "door"

    with pytest.raises(GuestError, match=r"no monitor connected to .*/door within 0\.01 s"):
        VmmGuest(path, connect_seconds=0.01)

    assert not path.exists()


def test_a_path_that_somebody_else_uses_is_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    file, used, folder = tmp_path / "file", tmp_path / "used", tmp_path / "no folder" / "x"
    file.write_text("kept")
    stack.enter_context(MonitorDoor(used))

    for path, named in (
        (file, "is no socket"),
        (used, "another process waits for monitors"),
        (folder, "No such file or directory"),
        (tmp_path / ("x" * 200), "1 to 107 bytes"),
    ):
        with pytest.raises(ConfigError, match=named):
            MonitorDoor(path)

    assert file.read_text() == "kept"
    assert used.exists()


def test_the_socket_of_a_process_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    MonitorDoor(path).close()

    assert not path.exists()


def test_a_closed_door_says_so(tmp_path: Path) -> None:
    door = MonitorDoor(tmp_path / "door")
    door.close()

    with pytest.raises(ClosedError):
        VmmGuest(door)


def test_an_unknown_tracker_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'magic'"):
        VmmGuest(tmp_path / "door", tracker="magic")

    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_at_the_door_are_refused_and_leave_nothing(said: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, MonitorDoor(f"{folder}/door") as door, nothing_left_behind():
        fake = FakeMonitor(door.path)
        fake.socket.sendall(said)
        fake.socket.shutdown(socket.SHUT_WR)

        with pytest.raises(GuestError, match="is refused"):
            VmmGuest(door)

        fake.socket.close()


def test_a_monitor_that_says_hello_byte_by_byte_is_refused_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "_HELLO_SECONDS", 0.3)
    is_over = threading.Event()

    def trickle(path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
            slow.connect(path)
            with suppress(OSError):
                for byte in b"\xff\x0f\0\0\0\0\0\0" + bytes(300):
                    slow.send(bytes([byte]))
                    if is_over.wait(0.05):
                        return

    with MonitorDoor(tmp_path / "door") as door:
        monitor = threading.Thread(target=trickle, args=(door.path,))
        monitor.start()

        with pytest.raises(GuestError, match="did not say hello within"):
            door.receive(boots=True, seconds=30, memory_bytes_max=MIB)

        is_over.set()
        monitor.join()
