"""A monitor's session against a stand-in for QEMU: what is asked, what is made of each answer, that no wait lasts."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ftvm.errors import GuestError, StateUnreadable
from ftvm.guests.qemu.qmp import Qmp, QmpEvent

GREETING = {"QMP": {"version": {}, "capabilities": ["oob"]}}
SOON = 60.0


class StandIn:
    """The other end: greets, then answers each command by `answer`, which returns the messages to send."""

    def __init__(self, answer: Callable[[dict[str, Any]], list[Any]], greeting: object = GREETING) -> None:
        self.commands: list[dict[str, Any]] = []
        self.files: list[int] = []
        self._answer = answer
        self._here, self.there = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(greeting,))
        self._thread.start()

    def close(self) -> None:
        self._here.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._here.close()
        self.there.close()
        for descriptor in self.files:
            os.close(descriptor)

    def _run(self, greeting: object) -> None:
        self._say(greeting)
        decoder, text = json.JSONDecoder(), ""
        while True:
            try:
                content, descriptors, _, _ = socket.recv_fds(self._here, 1 << 16, 4)
            except ConnectionResetError:
                return  # who asked has gone, and has not read all that was said
            self.files += descriptors
            if not content:
                return
            text += content.decode()
            while text:
                command, end = decoder.raw_decode(text)
                text = text[end:]
                self.commands.append(command)
                is_first = command["execute"] == "qmp_capabilities"
                for message in [{"return": {}, "id": command["id"]}] if is_first else self._answer(command):
                    self._say(message)

    def _say(self, message: object) -> None:
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        try:
            for at in range(0, len(line) + 2, 7):  # in pieces, as a stream may come
                self._here.sendall((line + b"\r\n")[at : at + 7])
        except OSError:
            return  # who asked has gone


def returns(command: dict[str, Any]) -> list[Any]:
    return [{"return": command["execute"], "id": command["id"]}]


@contextmanager
def session(answer: Callable[[dict[str, Any]], list[Any]] = returns) -> Iterator[tuple[Qmp, StandIn]]:
    with ExitStack() as stack:
        stand_in = StandIn(answer)
        stack.callback(stand_in.close)
        qmp = Qmp(stand_in.there, greeting_timeout=SOON)
        stack.callback(qmp.close)
        yield qmp, stand_in


def test_a_command_is_sent_with_its_arguments_and_its_answer_returned() -> None:
    with session() as (qmp, stand_in):
        answer = qmp.execute("migrate-set-parameters", max_bandwidth=7)

    assert answer == "migrate-set-parameters"
    assert [command["execute"] for command in stand_in.commands] == ["qmp_capabilities", "migrate-set-parameters"]
    assert stand_in.commands[1]["arguments"] == {"max-bandwidth": 7}


def test_commands_go_together_and_their_answers_come_in_the_order_of_the_commands() -> None:
    waiting: list[Any] = []

    def backwards(command: dict[str, Any]) -> list[Any]:
        waiting.insert(0, returns(command)[0])
        return waiting if len(waiting) == 2 else []

    with session(backwards) as (qmp, _):
        assert qmp.execute_all([("query-status", {}), ("stop", {})]) == ["query-status", "stop"]


def test_events_before_an_answer_are_kept_and_taken_once() -> None:
    def with_events(command: dict[str, Any]) -> list[Any]:
        return [{"event": "STOP", "data": {"why": 1}}, {"event": "RESET", "data": 5}, *returns(command)]

    with session(with_events) as (qmp, _):
        qmp.execute("stop")

        assert qmp.take_events() == [QmpEvent(name="STOP", data={"why": 1}), QmpEvent(name="RESET", data={})]
        assert qmp.take_events() == []


def test_a_refusal_names_the_command_and_the_next_one_works() -> None:
    def refuse(command: dict[str, Any]) -> list[Any]:
        if command["execute"] == "cont":
            return [{"error": {"class": "GenericError", "desc": "the guest is in its grave"}, "id": command["id"]}]
        return returns(command)

    with session(refuse) as (qmp, _):
        with pytest.raises(GuestError, match="QEMU refused stop, cont: the guest is in its grave"):
            qmp.execute_all([("stop", {}), ("cont", {})])

        assert qmp.execute("stop") == "stop"


def test_a_file_goes_along_with_its_name() -> None:
    with session() as (qmp, stand_in), open(os.devnull) as file:
        qmp.give_file("ftvm-migrate", file.fileno())

        assert stand_in.commands[-1]["arguments"] == {"fdname": "ftvm-migrate"}
        assert [os.fstat(given).st_rdev for given in stand_in.files] == [os.fstat(file.fileno()).st_rdev]


def test_an_answer_that_comes_after_its_time_is_not_taken_for_the_next_one() -> None:
    late: list[Any] = []

    def hesitate(command: dict[str, Any]) -> list[Any]:
        if command["execute"] == "slow":
            late.extend(returns(command))
            return []
        return [*late, *returns(command)]

    with session(hesitate) as (qmp, _):
        with pytest.raises(GuestError, match=r"QEMU has not answered slow for 0\.01 s: it hangs or is stopped"):
            qmp.execute("slow", timeout=0.01)

        assert qmp.execute("stop") == "stop"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"no json", "monitor broke at stop"),
        ([1, 2], "monitor broke at stop: what came is no message"),
        ({"error": {"desc": "JSON parse error"}}, "monitor broke at stop: an answer to nothing"),
    ],
)
def test_what_is_not_the_protocol_ends_the_command(message: object, reason: str) -> None:
    with session(lambda _: [message]) as (qmp, _), pytest.raises(GuestError, match=reason):
        qmp.execute("stop")


def test_a_monitor_that_talks_without_an_answer_does_not_hold_the_host_for_ever() -> None:
    with (
        session(lambda _: [{"event": "NOISE"}] * 5_000) as (qmp, _),
        pytest.raises(GuestError, match="4096 messages, and no answer among them"),
    ):
        qmp.execute("stop")


def test_whoever_runs_the_guest_may_end_a_wait_for_an_answer_and_is_told_of_it() -> None:
    asked: list[str] = []

    def may_wait(reason: str) -> bool:
        asked.append(reason)
        return len(asked) < 3

    with session(lambda _: []) as (qmp, _):
        qmp.may_wait = may_wait
        with pytest.raises(StateUnreadable, match=r"QEMU has not answered stop for 1\.5 s: it hangs or is stopped"):
            qmp.execute("stop")

    assert asked == [f"QEMU has not answered stop for {seconds} s" for seconds in ("1", "1.25", "1.5")]


def looked(qmp: Qmp, *, is_owed: bool) -> None:
    """Look until the monitor owes an answer, or owes none any more."""
    for _ in range(1_000):
        if qmp.look() is is_owed and (qmp._owed is not None) is is_owed:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"never: owes an answer: {is_owed}")


def test_a_look_asks_for_what_changes_nothing_and_the_next_one_finds_the_answer() -> None:
    with session() as (qmp, stand_in):
        qmp.look()
        qmp.look()
        looked(qmp, is_owed=False)
        assert qmp.execute("stop") == "stop"

    assert {command["execute"] for command in stand_in.commands[1:-1]} == {"query-status"}
    assert stand_in.commands[-1]["execute"] == "stop"


def test_an_event_that_a_look_reads_is_kept_for_who_needs_it() -> None:
    with session(lambda command: [{"event": "RESET"}, *returns(command)]) as (qmp, _):
        looked(qmp, is_owed=False)
        qmp.look()
        while qmp._owed is not None:
            qmp.look()

        assert {event.name for event in qmp.take_events()} == {"RESET"}


def test_a_monitor_that_hangs_owes_the_answer_to_one_look_until_it_comes() -> None:
    held: list[Any] = []

    def hangs(command: dict[str, Any]) -> list[Any]:
        held.append({"event": "RESET"})
        held.append(returns(command)[0])
        return held if command["execute"] == "stop" else []

    with session(hangs) as (qmp, stand_in):
        looked(qmp, is_owed=True)
        owed = [qmp.look() for _ in range(5)]
        assert qmp.execute("stop") == "stop"

        assert owed == [True] * 5
        assert [command["execute"] for command in stand_in.commands[1:]] == ["query-status", "stop"]
        assert qmp._owed is None
        assert [event.name for event in qmp.take_events()] == ["RESET", "RESET"]


def test_a_monitor_that_is_asked_for_something_else_is_not_looked_at() -> None:
    with session() as (qmp, stand_in):
        for _ in range(3):
            qmp.execute("stop")
            qmp.look()

    assert [command["execute"] for command in stand_in.commands[1:]] == ["stop"] * 3


def test_a_look_waits_for_nobody_and_leaves_what_is_broken_to_who_needs_it() -> None:
    with session(lambda _: [b"no json"]) as (qmp, _):
        qmp.execute_all([])
        with qmp._lock:
            assert not qmp.look()
        for _ in range(20):
            qmp.look()
            threading.Event().wait(0.01)
        qmp.close()

        assert not qmp.look()


def test_a_monitor_that_hangs_up_and_one_that_is_closed_say_so() -> None:
    with session() as (qmp, stand_in):
        stand_in._here.shutdown(socket.SHUT_RDWR)
        with pytest.raises(GuestError, match="QEMU's monitor broke at stop"):
            qmp.execute("stop")
        qmp.close()
        qmp.close()

        with pytest.raises(GuestError, match="QEMU's monitor is closed: stop was not sent"):
            qmp.execute("stop")


def test_who_does_not_greet_is_no_monitor() -> None:
    stand_in = StandIn(returns, greeting={"hello": 1})
    try:
        with pytest.raises(GuestError, match="monitor broke at its greeting: what came first is not its greeting"):
            Qmp(stand_in.there, greeting_timeout=SOON)
    finally:
        stand_in.close()
