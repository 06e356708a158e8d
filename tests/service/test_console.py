"""A guest's console for people: they see what was released, what they type is input, and none of them holds a host."""

import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ftvm.checkpoint import Output
from ftvm.errors import TransportError
from ftvm.guests.datagram import DatagramCounters
from ftvm.service import console as module
from ftvm.service.console import ConsoleWorld, console_path


class Inner:
    """A world of which a test sees everything."""

    counters: DatagramCounters

    def __init__(self) -> None:
        self.inputs: list[tuple[str, bytes]] = []
        self.released: list[bytes] = []
        self.told: list[str] = []
        self.warnings: list[str] = []

    def fds(self) -> tuple[int, ...]:
        return ()

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        taken, self.inputs = self.inputs[:limit], self.inputs[limit:]
        return taken

    def release(self, output: Output) -> None:
        self.released.append(output.payload)

    def news(self) -> str | None:
        return self.warnings.pop() if self.warnings else None

    def announce(self) -> None:
        self.told.append("announce")

    def close(self) -> None:
        self.told.append("close")


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "vm.1.sock"


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def world(inner: Inner, control: Path) -> Iterator[ConsoleWorld]:
    made = ConsoleWorld(inner, f"ipc://{control}")
    yield made
    made.close()


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for client in made:
        client.close()


def connect(world: ConsoleWorld, control: Path, clients: list[socket.socket]) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    clients.append(client)
    client.settimeout(20)
    client.connect(str(console_path(control)))
    assert list(world.receive(9)) == []
    return client


def say(world: ConsoleWorld, text: bytes, channel: str = "console") -> None:
    world.release(Output(number=1, channel=channel, payload=text))


def test_what_the_guest_says_goes_to_all_and_on_to_the_world(
    world: ConsoleWorld, inner: Inner, control: Path, clients: list[socket.socket]
) -> None:
    say(world, b"login: ")
    first, second = (connect(world, control, clients) for _ in range(2))

    say(world, b"root\n")
    say(world, b"a frame", channel="net0")

    assert [client.recv(99) for client in (first, second)] == [b"login: root\n"] * 2
    assert inner.released == [b"login: ", b"root\n", b"a frame"]


def test_a_world_with_a_console_tells_what_the_world_within_counted(world: ConsoleWorld, inner: Inner) -> None:
    inner.counters = DatagramCounters(frames_sent=3)

    assert world.counters == DatagramCounters(frames_sent=3)


def test_a_world_with_a_console_warns_of_what_the_world_within_warns_of(world: ConsoleWorld, inner: Inner) -> None:
    inner.warnings = ["the cable is gone"]

    assert [world.news(), world.news()] == ["the cable is gone", None]


def test_a_world_that_counts_nothing_counts_nothing_with_a_console(world: ConsoleWorld) -> None:
    assert world.counters is None


def test_what_is_typed_is_input_of_the_console_beside_that_of_the_world(
    world: ConsoleWorld, inner: Inner, control: Path, clients: list[socket.socket]
) -> None:
    client = connect(world, control, clients)
    inner.inputs = [("net0", b"frame")]

    client.sendall(b"ls\r")

    assert len(world.fds()) == 2
    assert list(world.receive(1)) == [("net0", b"frame")]
    assert list(world.receive(9)) == [("console", b"ls\r")]
    assert list(world.receive(9)) == []


def test_who_comes_later_sees_what_was_said_last_and_no_more_than_is_kept(
    world: ConsoleWorld, control: Path, clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCROLL_BACK_BYTES", 10)
    say(world, b"long ago, and ")
    say(world, b"just now")

    assert connect(world, control, clients).recv(99) == b"d just now"


def test_who_only_looks_on_is_shown_everything(
    world: ConsoleWorld, control: Path, clients: list[socket.socket]
) -> None:
    client = connect(world, control, clients)
    client.shutdown(socket.SHUT_WR)
    world.receive(9)

    say(world, b"hello")

    assert len(world.fds()) == 1
    assert client.recv(99) == b"hello"


def test_who_does_not_read_is_hung_up_on_and_holds_nobody_up(
    world: ConsoleWorld, control: Path, clients: list[socket.socket]
) -> None:
    connect(world, control, clients)
    other = connect(world, control, clients)

    for _ in range(64):
        say(world, b"x" * 65_536)
        assert len(other.recv(65_536, socket.MSG_WAITALL)) == 65_536

    assert len(world.fds()) == 2


def test_who_has_gone_is_forgotten(world: ConsoleWorld, control: Path, clients: list[socket.socket]) -> None:
    connect(world, control, clients).close()
    world.receive(9)

    say(world, b"is anybody there?")

    assert len(world.fds()) == 1


def test_one_client_too_many_takes_the_place_of_the_first(
    world: ConsoleWorld, control: Path, clients: list[socket.socket]
) -> None:
    first = connect(world, control, clients)
    for _ in range(module.CLIENTS_MAX):
        connect(world, control, clients)

    assert first.recv(9) == b""
    assert len(world.fds()) == 1 + module.CLIENTS_MAX


def test_only_the_owner_may_type_and_nothing_is_left_behind(control: Path, inner: Inner) -> None:
    world = ConsoleWorld(inner, f"ipc://{control}")
    mode = stat.S_IMODE(console_path(control).stat().st_mode)

    world.announce()
    world.close()
    world.close()

    assert mode == 0o600
    assert not console_path(control).exists()
    assert inner.told[:2] == ["announce", "close"]


def test_a_console_cannot_be_where_there_is_no_folder(tmp_path: Path, inner: Inner) -> None:
    with pytest.raises(TransportError):
        ConsoleWorld(inner, f"ipc://{tmp_path}/none/vm.1.sock")
