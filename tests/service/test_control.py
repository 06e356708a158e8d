"""The control socket, stepped by hand: requests are answered, nobody can hold it up or fill it up."""

import contextlib
import json
import os
import resource
import select
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import TransportError
from ftvm.events import Solo
from ftvm.runtime.status import FIRST_FIELDS, Status
from ftvm.service.control import EVENTS_WAITING_MAX, LOOK_NS, REQUESTS_WAITING_MAX, ControlSocket, _Dialogue
from ftvm.service.requests import LINE_BYTES_MAX
from ftvm.service.server import CONNECTIONS_MAX, UNSENT_BYTES_MAX
from ftvm.units import Nanos

from .fakes import STATUS, FakeHost, LaterStatus

WAIT_SECONDS = 20.0


class Operator:
    """A client that speaks raw bytes, and has the socket stepped until it is answered."""

    def __init__(self, control: ControlSocket, path: Path) -> None:
        self._control = control
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(WAIT_SECONDS)
        self._rest = b""
        self.step()

    def step(self, times: int = 3) -> None:
        for now in range(times):
            self._control.step(Nanos(now))

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)
        self.step()

    def insist(self, data: bytes, times: int) -> None:
        for _ in range(times):
            self.say(data)

    def ask(self, **request: object) -> Any:
        self.say(json.dumps(request).encode() + b"\n")
        return self.answer()

    def answer(self) -> Any:
        while b"\n" not in self._rest:
            self.step()
            data = self._socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def try_answer(self) -> Any:
        """Raise BlockingIOError unless an answer is there now."""
        self._socket.setblocking(False)
        try:
            return self.answer()
        finally:
            self._socket.settimeout(WAIT_SECONDS)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm1.sock"


@pytest.fixture
def control(host: FakeHost, path: Path) -> Iterator[ControlSocket]:
    made = ControlSocket(f"ipc://{path}")
    made.begin(host)
    yield made
    made.close()


@pytest.fixture
def operator(control: ControlSocket, path: Path) -> Iterator[Operator]:
    made = Operator(control, path)
    yield made
    made.close()


def solo(generation: int) -> Solo:
    return Solo(at=Nanos(0), guest_id="vm1", generation=generation, reason="")


def test_guests_are_listed_with_their_status(operator: Operator, host: FakeHost) -> None:
    assert operator.ask(do="guests", speaks=2) == {"ok": [json.loads(json.dumps(host.now.as_dict()))]}


@pytest.mark.parametrize("order", [{"do": "guests"}, {"do": "status"}, {"do": "engine", "interval": 1}, {"do": "stop"}])
def test_each_asker_is_told_what_the_version_that_he_speaks_has(
    operator: Operator, host: FakeHost, order: dict[str, object]
) -> None:
    host.now = LaterStatus(**{known.name: getattr(STATUS, known.name) for known in fields(Status)}, memory_bytes=7)

    answers = [operator.ask(**order), operator.ask(**order, speaks=2), operator.ask(**order, speaks=3)]

    told = [answer["ok"][0] if order["do"] == "guests" else answer["ok"] for answer in answers]
    assert ["memory_bytes" in each for each in told] == [False, True, True]
    assert set(told[0]) == set(FIRST_FIELDS)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2", None])
def test_a_version_that_is_none_is_refused(operator: Operator, version: object) -> None:
    assert "a version is a whole number" in operator.ask(do="status", speaks=version)["error"]["message"]


def test_fields_of_a_request_that_are_not_known_are_ignored(operator: Operator) -> None:
    assert "ok" in operator.ask(do="status", what_a_later_release_asks=[1, 2])


def test_requests_are_answered_in_order_however_they_are_cut(operator: Operator) -> None:
    operator.say(b'{"do": "guests"}\n{"do": "nonsense"}\n{"do": "sta')
    operator.say(b'tus"}\n')

    answers = [operator.answer() for _ in range(3)]

    assert [next(iter(answer)) for answer in answers] == ["ok", "error", "ok"]


def test_a_stop_reaches_the_host(operator: Operator, host: FakeHost) -> None:
    operator.ask(do="stop", guest="vm1")

    assert host.asked == ["stop: an operator asked this host to stop"]


def test_a_switchover_is_answered_once_it_is_done_and_what_follows_waits(operator: Operator, host: FakeHost) -> None:
    operator.say(b'{"do": "switchover", "seconds": 2}\n{"do": "dance"}\n')
    with pytest.raises(BlockingIOError):
        operator.try_answer()

    host.is_switched_over = True

    assert [next(iter(operator.answer())) for _ in range(2)] == ["ok", "error"]
    assert host.asked == ["switchover within 2000000000 ns"]


def test_a_switchover_that_came_to_nothing_is_told_of(operator: Operator, host: FakeHost) -> None:
    operator.say(b'{"do": "switchover", "seconds": 2}\n')

    host.switchover_error = "the standby does not answer"

    assert operator.answer() == {"error": {"type": "SwitchoverFailed", "message": "the standby does not answer"}}


def test_a_switchover_that_cannot_be_is_refused_at_once(operator: Operator, host: FakeHost) -> None:
    host.change(standby=None)

    assert operator.ask(do="switchover", seconds=2)["error"]["type"] == "LocalProtocolError"


def test_what_is_given_of_an_engine_is_changed(operator: Operator, host: FakeHost) -> None:
    for request in (
        {"name": "hybrid"},
        {"interval": 0.01},
        {"name": "remus", "interval": 1, "latency": 0.005},
        {"name": "kemari", "group": 0.0002},
        {"group": 0},
    ):
        assert "ok" in operator.ask(do="engine", **request)

    assert host.asked == [
        "engine hybrid None None None",
        "engine None 0.01 None None",
        "engine remus 1 0.005 None",
        "engine kemari None None 0.0002",
        "engine None None None 0",
    ]


@pytest.mark.parametrize(
    "request_", [{}, {"name": 7}, {"interval": "x"}, {"interval": 0}, {"latency": 11}, {"group": -1}, {"group": None}]
)
def test_an_engine_that_is_no_engine_is_refused(
    operator: Operator, host: FakeHost, request_: dict[str, object]
) -> None:
    assert operator.ask(do="engine", **request_)["error"]["type"] == "ConfigError"
    assert host.asked == []


@pytest.mark.parametrize("seconds", [None, True, 0, -1, "1", 1e9, float("nan")])
def test_a_switchover_without_a_bound_is_refused(operator: Operator, host: FakeHost, seconds: object) -> None:
    error = operator.ask(do="switchover", seconds=seconds)["error"]

    assert error["message"].startswith("seconds ")
    assert host.asked == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "one JSON object"),
        (b"[" * 30_000, "one JSON object"),
        (b"7", 'a text under "do"'),
        (b'{"do": 7}', 'a text under "do"'),
        (b'{"do": "dance"}', "known are: guests, status"),
        (b'{"do": "status", "guest": "vm2"}', "no guest 'vm2', only 'vm1'"),
        (b"\xff", "one JSON object"),
    ],
)
def test_a_wrong_request_is_answered_and_the_connection_goes_on(operator: Operator, line: bytes, said: str) -> None:
    operator.say(line + b"\n")

    error = operator.answer()["error"]

    assert (error["type"], said in error["message"]) == ("ConfigError", True)
    assert "ok" in operator.ask(do="status")


@given(st.lists(st.binary(max_size=200), max_size=8), st.booleans())
def test_nothing_that_is_said_breaks_a_dialogue(pieces: list[bytes], ends_lines: bool) -> None:
    dialogue = _Dialogue(FakeHost())

    said = b"".join(dialogue.take(piece + b"\n" * ends_lines) + dialogue.speak(1 << 20) for piece in pieces)

    assert all("error" in json.loads(line) for line in said.splitlines())


@given(
    st.dictionaries(
        st.sampled_from(["do", "guest", "name", "seconds", "interval", "latency", "group"]),
        st.one_of(
            st.sampled_from(["guests", "status", "engine", "switchover", "stop", "events", "vm1", "remus"]),
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.lists(st.none()),
        ),
    )
)
def test_every_request_gets_one_answer_or_is_waited_for(request_: dict[str, object]) -> None:
    dialogue = _Dialogue(FakeHost())

    said = dialogue.take(json.dumps(request_).encode() + b"\n")

    assert said.count(b"\n") == 1 or dialogue._pending is not None


def test_a_line_without_end_is_refused_and_hung_up_on(operator: Operator) -> None:
    operator.say(b"x" * LINE_BYTES_MAX)
    operator.say(b"x")

    assert operator.answer()["error"]["type"] == "LimitExceeded"
    with pytest.raises(EOFError):
        operator.answer()


def test_more_requests_than_may_wait_are_refused_and_hung_up_on(operator: Operator, host: FakeHost) -> None:
    operator.say(b'{"do": "switchover", "seconds": 2}\n')
    operator.say(b'{"do": "status"}\n' * REQUESTS_WAITING_MAX)

    operator.say(b'{"do": "status"}\n')

    assert operator.answer()["error"]["type"] == "LimitExceeded"
    with pytest.raises(EOFError):
        operator.answer()
    assert host.asked == ["switchover within 2000000000 ns"]


def test_no_more_events_are_told_at_once_than_there_is_room_for(host: FakeHost) -> None:
    dialogue = _Dialogue(host)
    dialogue.take(b'{"do": "events"}\n')
    for generation in range(100):
        dialogue.note(solo(generation))

    assert 1 <= dialogue.speak(room_bytes=1000).count(b"\n") < 20


def test_events_come_as_they_happen_to_those_who_asked(operator: Operator, control: ControlSocket) -> None:
    control.note(solo(1))
    operator.ask(do="events")

    control.note(solo(2))
    operator.step()

    told = operator.answer()
    del told["time"]
    assert told == {"event": "Solo", "at": 0, "guest_id": "vm1", "generation": 2, "reason": ""}


def test_an_event_has_the_time_of_day_at_which_it_happened_not_at_which_it_was_read(
    operator: Operator, control: ControlSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it had the monotonic `at` alone, which compares with nothing on another host."""
    times = iter(["2026-11-30T12:00:00.000000Z", "2026-11-30T12:00:01.000000Z"])
    monkeypatch.setattr("ftvm.service.control.wall_time", lambda: next(times))
    operator.ask(do="events")

    control.note(solo(1))
    control.note(solo(2))

    assert [operator.answer()["time"] for _ in range(2)] == [
        "2026-11-30T12:00:00.000000Z",
        "2026-11-30T12:00:01.000000Z",
    ]


def test_a_reader_that_is_too_slow_is_told_how_many_events_it_missed(
    operator: Operator, control: ControlSocket
) -> None:
    operator.ask(do="events")

    for generation in range(EVENTS_WAITING_MAX + 5):
        control.note(solo(generation))

    heard = [operator.answer() for _ in range(EVENTS_WAITING_MAX + 1)]
    assert heard[-1] == {"events_lost": 5}
    assert [event["generation"] for event in heard[:-1]] == list(range(EVENTS_WAITING_MAX))


def test_one_who_listens_may_still_ask(operator: Operator, control: ControlSocket) -> None:
    operator.ask(do="events")
    control.note(solo(1))

    told = [operator.ask(do="status"), operator.answer()]

    assert sorted(next(iter(answer)) for answer in told) == ["event", "ok"]


def test_those_who_never_speak_make_room_for_those_who_do(control: ControlSocket, path: Path) -> None:
    silent = [Operator(control, path) for _ in range(CONNECTIONS_MAX)]

    newcomer = Operator(control, path)

    assert "ok" in newcomer.ask(do="status")
    with pytest.raises(EOFError):
        silent[0].answer()
    assert "ok" in silent[1].ask(do="status")
    for each in (*silent, newcomer):
        each.close()


def test_one_who_asks_and_never_listens_is_cut_off_before_much_is_kept(
    operator: Operator, control: ControlSocket, path: Path
) -> None:
    deaf = Operator(control, path)
    answer_bytes = len(json.dumps(operator.ask(do="guests")))
    enough = 4 * UNSENT_BYTES_MAX // answer_bytes

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        deaf.insist(b'{"do": "guests"}\n', enough)

    assert "ok" in operator.ask(do="status")
    deaf.close()


def test_who_hangs_up_in_the_midst_leaves_nothing_behind(operator: Operator, control: ControlSocket) -> None:
    operator.ask(do="events")
    operator.close()
    control.note(solo(1))

    operator.step()

    assert control._dialogues == []


def test_closing_removes_the_socket_and_hangs_up(operator: Operator, control: ControlSocket, path: Path) -> None:
    control.close()
    control.close()

    assert not path.exists()
    assert control.fds() == ()
    with pytest.raises(EOFError):
        operator.answer()


def test_a_socket_that_was_removed_comes_back_within_a_second(control: ControlSocket, path: Path) -> None:
    """Regression: it never did, and the host could not be reached for the rest of its life."""
    control.step(Nanos(0))
    path.unlink()

    control.step(Nanos(LOOK_NS))

    again = Operator(control, path)
    assert "ok" in again.ask(do="guests")
    again.close()


def test_who_is_connected_stays_so_when_the_socket_comes_back(
    operator: Operator, control: ControlSocket, path: Path
) -> None:
    path.unlink()
    control.step(Nanos(10 * LOOK_NS))

    assert path.is_socket()
    assert "ok" in operator.ask(do="guests")


def test_a_socket_whose_folder_was_removed_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "ftvm"
    folder.mkdir()
    control = ControlSocket(f"ipc://{folder}/vm1.sock")
    control.step(Nanos(0))
    shutil.rmtree(folder)

    control.step(Nanos(LOOK_NS))

    assert (folder / "vm1.sock").is_socket()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    control.close()


def test_a_host_that_ends_leaves_the_socket_of_another_alone(path: Path) -> None:
    """Regression: it removed it, and nobody could reach that host."""
    first = ControlSocket(f"ipc://{path}")
    path.unlink()
    second = ControlSocket(f"ipc://{path}")
    first.step(Nanos(LOOK_NS))

    first.close()

    assert path.is_socket()
    with pytest.raises(TransportError, match="another process listens there"):
        ControlSocket(f"ipc://{path}")
    second.close()
    assert not path.exists()


class FillingTable:
    """The table of descriptors of this process, which can be filled up."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fill(self) -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, self._limits[1]))
        with contextlib.suppress(OSError):
            while True:
                self._held.append(os.dup(0))

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        while self._held:
            os.close(self._held.pop())


@pytest.fixture
def table() -> Iterator[FillingTable]:
    made = FillingTable()
    yield made
    made.empty()


def test_an_operator_is_answered_though_no_descriptor_is_left(
    control: ControlSocket, path: Path, table: FillingTable
) -> None:
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(str(path))
        operator.sendall(b'{"do": "guests"}\n')
        table.fill()

        control.step(Nanos(0))
        control.step(Nanos(1))

        assert operator.recv(1 << 16).startswith(b'{"ok"')


def test_no_descriptor_at_all_does_not_make_the_loop_spin(
    control: ControlSocket, path: Path, table: FillingTable
) -> None:
    """Regression: the socket stayed readable, and the loop turned without a rest."""
    with contextlib.ExitStack() as stack:
        operators = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for operator in operators:
            operator.connect(str(path))
            operator.sendall(b'{"do": "guests"}\n')
        table.fill()
        for now in range(4):
            control.step(Nanos(now))

        assert select.select(control.fds(), (), (), 0)[0] == []
        assert operators[0].recv(1 << 16).startswith(b'{"ok"')

        operators[0].close()
        for now in range(4):
            control.step(Nanos(LOOK_NS // 2 + now))
        assert operators[1].recv(1 << 16).startswith(b'{"ok"')


def test_a_socket_without_a_place_is_where_status_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    control = ControlSocket(guest_id="vm1")

    assert control.endpoint == f"ipc://{tmp_path}/ftvm/vm1.{os.getpid()}.sock"
    control.close()
    assert list((tmp_path / "ftvm").iterdir()) == []
