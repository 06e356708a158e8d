"""The public face on the real parts: ZeroMQ with CURVE on loopback, the built-in machine with its key-value server."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict
from unittest import mock

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.checkpoint import Output
from ftvm.config import Timing
from ftvm.engines.remus import Remus
from ftvm.errors import (
    ClosedError,
    ConfigError,
    Fenced,
    FtvmError,
    GuestEnded,
    GuestError,
    InternalError,
    LocalProtocolError,
    SwitchoverFailed,
    TransportError,
)
from ftvm.events import GuestFinished, JoinRefused, SessionEnded, SwitchedHere, TookOver
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.interfaces import Record
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.names import node_of
from ftvm.runtime.node import Node
from ftvm.runtime.protection import HostHandle, Protection, Standby, protect
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.transport.keys import Keys, generate_keys
from ftvm.units import Nanos

from ..guests.programs.conftest import Peer, Reply
from ..leftovers import nothing_left_behind
from .live import PATIENT, kill

MS = 1_000_000
WAIT_SECONDS = 60.0
PUT, GET = 1, 2
TIMING = Timing(heartbeat_ns=Nanos(100 * MS), backup_limit_ns=Nanos(1_500 * MS), primary_limit_ns=Nanos(2_500 * MS))
"""Slow suspicion: these tests share their processors."""

PATIENTLY: Any = {"listen": "tcp://127.0.0.1:0", "timing": PATIENT}

PEER = Peer()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


class Outside:
    """A client on the guest's network: asks until it is answered, as UDP clients do."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.came = threading.Event()
        self.world = CallbackWorld(self._take)
        self.protection: Protection | None = None

    def _take(self, output: Output) -> None:
        if output.channel == "net0" and output.payload[:6] == PEER.mac:
            self.answers.append(output.payload)
            self.came.set()

    def ask(self, operation: int, key: bytes, value: bytes = b"", *, number: int) -> Reply:
        frame = PEER.request(operation, key, value, number=number)
        for _ in range(200):
            self.came.clear()
            self.world.put("net0", PEER.arp())
            self.world.put("net0", frame)
            self.came.wait(0.1)
            for answer in self.answers:
                if answer[12:14] == b"\x08\0" and (reply := PEER.reply_in(answer)).number == number:
                    return reply
        raise AssertionError("the guest does not answer")


class Options(TypedDict):
    keys: Keys
    engine: Remus
    guest_id: str
    timing: Timing
    world: CallbackWorld


def options(keys: Keys, outside: Outside) -> Options:
    return {
        "keys": keys,
        "engine": Remus(interval=0.02),
        "guest_id": "vm",
        "timing": TIMING,
        "world": outside.world,
    }


def machine(*, boots: bool) -> RiscvGuest:
    program = read_program("kv") if boots else None
    return RiscvGuest(program, clock=MonotonicClock(), memory_bytes=16 << 20, mac=PEER.guest_mac)


def endpoint_of(host: HostHandle) -> str:
    return str(host._node._transport.endpoint)  # type: ignore[attr-defined]


def test_a_killed_primary_is_taken_over_and_no_answer_is_lost_or_contradicted(tmp_path: Path) -> None:
    keys = generate_keys(2)
    arbiter = f"file://{tmp_path}"
    here, there = Outside(), Outside()
    primary = protect(
        machine(boots=True), listen="tcp://127.0.0.1:0", arbiter=arbiter, create=True, **options(keys[0], here)
    )
    with Standby(
        machine(boots=False),
        listen="tcp://127.0.0.1:0",
        peers=[endpoint_of(primary)],
        arbiter=arbiter,
        **options(keys[1], there),
    ) as standby:
        assert primary.wait_protected(WAIT_SECONDS)
        acknowledged = [here.ask(PUT, b"key%d" % number, b"value%d" % number, number=number) for number in (1, 2, 3)]

        kill(primary)
        protection = standby.wait(WAIT_SECONDS)

        assert protection is not None
        answers = [there.ask(GET, b"key%d" % number, number=10 + number).value for number in (1, 2, 3)]
        assert answers == [b"value1", b"value2", b"value3"]
        assert {reply.boot for reply in acknowledged} == {there.ask(GET, b"key1", number=20).boot}
        status = protection.status()
        assert (status.role, status.standby, status.takeovers) == ("active", None, 1)
        assert any(isinstance(event, TookOver) for event in protection.events())


def test_a_switchover_moves_the_guest_to_the_standby_and_back_and_a_client_sees_one_history(tmp_path: Path) -> None:
    keys = generate_keys(2)
    here, there = Outside(), Outside()
    arbiter = f"file://{tmp_path}"
    with (
        protect(
            machine(boots=True), listen="tcp://127.0.0.1:0", arbiter=arbiter, create=True, **options(keys[0], here)
        ) as primary,
        Standby(
            machine(boots=False),
            listen="tcp://127.0.0.1:0",
            peers=[endpoint_of(primary)],
            arbiter=arbiter,
            **options(keys[1], there),
        ) as standby,
    ):
        assert primary.wait_protected(WAIT_SECONDS)
        before = here.ask(PUT, b"key1", b"value1", number=1)

        primary.switchover(WAIT_SECONDS)
        protection = standby.wait(WAIT_SECONDS)
        assert protection is not None
        seen_there = there.ask(GET, b"key1", number=2)
        there.ask(PUT, b"key2", b"value2", number=3)
        protection.switchover(WAIT_SECONDS)
        assert primary.wait_active(WAIT_SECONDS)
        seen_back = here.ask(GET, b"key2", number=4)

        assert (seen_there.value, seen_back.value) == (b"value1", b"value2")
        assert before.boot == seen_there.boot == seen_back.boot
        assert (primary.status().role, protection.status().role) == ("active", "standby")
        assert primary.status().generation == 4
        assert primary.status().takeovers == protection.status().takeovers == 0


def test_a_guest_that_ends_before_its_start_is_noticed_has_been_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: on a busy machine `ftvm run` of a short program failed, and told none of its events."""
    wait_for = Node.wait_for

    def come_late(node: Node, is_true: Callable[[], bool], timeout: float | None) -> bool:
        node.changed.wait_for(lambda: node.driver.stopped is not None, WAIT_SECONDS)
        return wait_for(node, is_true, timeout)

    guest = RiscvGuest(read_program("hello"), clock=MonotonicClock(), memory_bytes=8 << 20)
    monkeypatch.setattr(Node, "wait_for", come_late)

    with protect(guest, listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True) as protection:
        told = [type(event) for event in protection.events()]
        with pytest.raises(GuestEnded):
            protection.check()

    assert GuestFinished in told


def test_a_switchover_without_a_standby_is_refused_and_the_guest_goes_on() -> None:
    with protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True) as primary:
        with pytest.raises(LocalProtocolError, match="cannot switch over: no standby is connected"):
            primary.switchover()

        assert primary.status().role == "active"


def test_a_switchover_that_the_standby_cannot_follow_says_why_and_the_guest_goes_on() -> None:
    class Unloadable(SimGuest):
        def load_devices(self, devices: bytes) -> None:
            raise GuestError(f"{len(devices)} bytes of another machine")

    store = MemoryRecordStore()
    blank = Unloadable(page_count=24, pages_per_step=2, output_every=4, boots=False)
    with (
        protect(sim(), arbiter=store.another(), create=True, **PATIENTLY) as primary,
        Standby(blank, peers=[endpoint_of(primary)], arbiter=store.another(), **PATIENTLY),
    ):
        assert primary.wait_protected(WAIT_SECONDS)
        with pytest.raises(SwitchoverFailed, match=r"cannot run the guest: .* bytes of another machine"):
            primary.switchover(WAIT_SECONDS)

        assert primary.status().role == "active"
        assert primary.status().link == "protected"


def test_a_switchover_that_a_full_disk_of_the_arbiter_prevents_says_so_and_the_guest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: an arbiter that can be read but not written made a healthy guest stand still without limit."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arbiter = f"file://{tmp_path}"
    blank = SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=False)
    with (
        protect(sim(), arbiter=arbiter, create=True, **PATIENTLY) as primary,
        Standby(blank, peers=[endpoint_of(primary)], arbiter=arbiter, **PATIENTLY) as standby,
    ):
        assert primary.wait_protected(WAIT_SECONDS)
        with monkeypatch.context() as full:
            full.setattr("ftvm.arbiters.file._write_aside", fail)
            with pytest.raises(SwitchoverFailed, match=r"certainly not changed: .* the disk is full: free some space"):
                primary.switchover(WAIT_SECONDS)
            after = primary.status()

        primary.switchover(WAIT_SECONDS)
        taken = standby.wait(WAIT_SECONDS)

        assert (after.role, after.link, after.generation) == ("active", "protected", 2)
        assert taken is not None


def test_a_primary_that_is_closed_hands_over_without_waiting_for_silence(tmp_path: Path) -> None:
    keys = generate_keys(2)
    here, there = Outside(), Outside()
    with protect(
        machine(boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=f"file://{tmp_path}",
        create=True,
        **options(keys[0], here),
    ) as primary:
        standby = Standby(
            machine(boots=False),
            listen="tcp://127.0.0.1:0",
            peers=[endpoint_of(primary)],
            arbiter=f"file://{tmp_path}",
            **options(keys[1], there),
        )
        assert primary.wait_protected(WAIT_SECONDS)

    with standby:
        protection = standby.wait(WAIT_SECONDS)

        assert protection is not None
        told = list(protection.events())
        assert any(isinstance(event, SwitchedHere) for event in told)
        assert not any(isinstance(event, TookOver) for event in told)


def sim(*, boots: bool = True, pages: int = 24) -> SimGuest:
    return SimGuest(page_count=pages, pages_per_step=2, output_every=4, boots=boots)


class Closing(SimGuest):
    """Remembers that it was closed."""

    is_closed = False

    def __init__(self) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=4, boots=True)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def test_a_guest_of_another_shape_is_refused_with_the_reason_on_both_sides() -> None:
    store = MemoryRecordStore()
    with (
        protect(sim(), listen="tcp://127.0.0.1:0", arbiter=store.another(), create=True) as primary,
        Standby(
            sim(boots=False, pages=25),
            listen="tcp://127.0.0.1:0",
            node="slim",
            peers=[endpoint_of(primary)],
            arbiter=store.another(),
        ) as standby,
    ):
        with pytest.raises(ConfigError, match="the guests differ"):
            standby.wait(WAIT_SECONDS)

        refusals: list[JoinRefused] = []
        while not refusals:
            refusals += [event for event in primary.events(WAIT_SECONDS) if isinstance(event, JoinRefused)]
        assert all("the guests differ" in refusal.reason for refusal in refusals)
        assert [node_of(refusal.peer) for refusal in refusals] == ["slim"]
        primary.check()


def test_a_standby_whose_guest_fails_while_it_commits_tells_the_active_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: of a standby whose disk was full the active said only that it was silent."""
    store = MemoryRecordStore()
    with (
        protect(sim(), arbiter=store.another(), create=True, **PATIENTLY) as primary,
        Standby(sim(boots=False), peers=[endpoint_of(primary)], arbiter=store.another(), **PATIENTLY) as standby,
    ):
        assert primary.wait_protected(WAIT_SECONDS)

        monkeypatch.setattr(standby._node.driver, "receive", mock.Mock(side_effect=GuestError("the disk is full")))
        with pytest.raises(GuestError, match="the disk is full"):
            standby.wait(WAIT_SECONDS)

        assert primary._node.wait_for(lambda: primary._node.driver.view().record.standby is None, WAIT_SECONDS)
        (ended,) = [event for event in primary.events() if isinstance(event, SessionEnded)]
        assert ended.reason == "the standby left: its guest failed: the disk is full"


def test_another_guest_id_is_refused_with_the_names_that_are_known() -> None:
    store = MemoryRecordStore()
    with (
        protect(sim(), listen="tcp://127.0.0.1:0", arbiter=store.another(), create=True, guest_id="vm") as primary,
        Standby(
            sim(boots=False),
            listen="tcp://127.0.0.1:0",
            peers=[endpoint_of(primary)],
            arbiter=store.another(),
            guest_id="other",
        ) as standby,
        pytest.raises(ConfigError, match="this host protects no guest 'other', only 'vm'"),
    ):
        standby.wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"listen": "tcp://0.0.0.0:0"}, ConfigError),
        ({"listen": "smoke://hill"}, ConfigError),
        ({"arbiter": "smoke://hill"}, ConfigError),
        ({"arbiter": "file:///nonexistent/directory"}, FtvmError),
        ({"listen": "busy"}, TransportError),
    ],
    ids=str,
)
def test_what_cannot_start_raises_and_closes_the_guest(
    arguments: dict[str, str], error: type[FtvmError], tmp_path: Path
) -> None:
    """Regression: a busy port left the guest's thread and the arbiter's files open."""
    guest = Closing()
    with protect(sim(), listen="tcp://127.0.0.1:0", arbiter=f"file://{tmp_path}", create=True) as other:
        if arguments.get("listen") == "busy":
            arguments = {"listen": endpoint_of(other)}
        wanted = {"listen": "tcp://127.0.0.1:0", "arbiter": f"file://{tmp_path}", **arguments}

        with pytest.raises(error):
            protect(guest, create=True, guest_id="second", timeout=2.0, **wanted)  # type: ignore[arg-type]

    assert guest.is_closed


def test_an_engine_by_its_name_is_refused_with_what_to_write() -> None:
    wanted: Any = "remus"
    told = r"engine 'remus' is no Engine: give one, e\.g\. ftvm\.Remus\(interval=0\.025\)"
    with protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True) as primary:
        with pytest.raises(ConfigError, match=told):
            primary.set_engine(wanted)
        primary.check()
    with pytest.raises(ConfigError, match=told):
        protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True, engine=wanted)


def test_an_ipc_endpoint_leaves_no_socket_file_behind(tmp_path: Path) -> None:
    with protect(sim(), listen=f"ipc://{tmp_path}/a", arbiter=MemoryRecordStore(), create=True):
        assert (tmp_path / "a").is_socket()

    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_interrupted_leaves_no_host_and_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryRecordStore()
    wait_for = Node.wait_for

    def interrupted(node: Node, is_true: Callable[[], bool], timeout: float | None) -> bool:
        wait_for(node, is_true, timeout)
        raise KeyboardInterrupt

    monkeypatch.setattr(Node, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        protect(sim(), listen="tcp://127.0.0.1:0", arbiter=store.another(), create=True)

    assert store.read("guest") == Record(2, None, None)


def test_a_guest_that_is_in_the_record_already_is_not_started_twice() -> None:
    guest, store = Closing(), MemoryRecordStore()
    store.compare_and_set("guest", Record(1, "somebody", None))

    with pytest.raises(Fenced, match="is already in the record: generation 1, active somebody"):
        protect(guest, listen="tcp://127.0.0.1:0", arbiter=store.another(), timeout=WAIT_SECONDS)

    assert guest.is_closed


def test_a_standby_without_peers_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one peer"):
        Standby(sim(boots=False), listen="tcp://127.0.0.1:0", peers=[], arbiter="memory:x")


def test_who_waits_is_woken_when_the_loop_breaks() -> None:
    """Regression: `wait` without a time-out slept on beside a host that had stopped."""
    primary = protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            primary.wait(WAIT_SECONDS)
        except FtvmError as wrong:
            errors.append(wrong)

    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        primary._node.host._endpoint.step = None  # type: ignore[assignment, method-assign]
        waiter.join(WAIT_SECONDS / 4)
        was_woken = not waiter.is_alive()
    finally:
        primary.close()
        waiter.join(WAIT_SECONDS)

    assert was_woken
    assert isinstance(errors[0], InternalError)
    with pytest.raises(InternalError):
        primary.check()


def test_a_host_that_closes_ends_its_guest_before_what_the_guest_may_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    guest, ended = sim(), []
    host = protect(guest, listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True)
    for part in (guest, host._node._transport):
        close = part.close
        monkeypatch.setattr(part, "close", lambda part=part, close=close: (ended.append(part), close()))

    host.close()

    assert ended == [guest, host._node._transport]


def test_a_closed_host_says_so() -> None:
    primary = protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True)
    primary.close()
    primary.close()

    with pytest.raises(ClosedError):
        primary.check()

    assert primary.status().role == "empty"  # it has vacated the record


def test_events_come_in_order_and_once() -> None:
    with protect(sim(), listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True) as primary:
        names = [type(event).__name__ for event in primary.events(WAIT_SECONDS)]

        assert names[:3] == ["RecordLearned", "RecordLearned", "RoleChanged"] or names[:2] == [
            "RecordLearned",
            "RoleChanged",
        ]
        assert list(primary.events()) == []
