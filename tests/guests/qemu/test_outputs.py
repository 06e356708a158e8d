"""The gate between QEMU's sockets and the sink."""

import os
import socket
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from ftvm.guests.cards import PumpedCard
from ftvm.guests.disk.disk import Disk
from ftvm.guests.qemu.outputs import OutputGate

from .conftest import Ear

PATIENCE_S = 30.0


class Ends:
    """A gate, and the ends of QEMU."""

    def __init__(self) -> None:
        self.ear = Ear()
        self.console, console = socket.socketpair()
        self.network, network = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (console, network):
            end.setblocking(False)
        self._ours = (console, network)
        self.gate = OutputGate(self.ear, {"console": console, "net0": network})

    def wait_for(self, console: bytes, frames: list[bytes]) -> None:
        for _ in range(int(PATIENCE_S * 100)):
            if (bytes(self.ear.console), self.ear.frames) == (console, frames):
                return
            threading.Event().wait(0.01)
        raise AssertionError((self.ear.console, self.ear.frames))

    def close(self) -> None:
        self.gate.close()
        for end in (self.console, self.network, *self._ours):
            end.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_nothing_passes_before_it_flows_or_while_it_is_held(ends: Ends) -> None:
    ends.console.send(b"early ")
    threading.Event().wait(0.1)
    assert bytes(ends.ear.console) == b""
    ends.gate.flow()
    ends.wait_for(b"early ", [])

    ends.gate.hold()
    ends.console.send(b"late")
    ends.network.send(b"a frame")
    threading.Event().wait(0.1)

    assert (bytes(ends.ear.console), ends.ear.frames) == (b"early ", [])
    ends.gate.flow()
    ends.wait_for(b"early late", [b"a frame"])


def test_all_that_was_said_before_the_hold_has_passed_when_it_returns(ends: Ends) -> None:
    ends.gate.flow()
    frames = [b"frame %d" % number for number in range(100)]
    for frame in frames:
        ends.network.send(frame)
    ends.console.send(b"x" * 100_000)

    ends.gate.hold()

    assert ends.ear.frames == frames
    assert len(ends.ear.console) == 100_000


def test_an_end_that_closes_leaves_the_other_working(ends: Ends) -> None:
    ends.gate.flow()
    ends.console.send(b"last words")
    ends.console.close()
    ends.wait_for(b"last words", [])

    ends.network.send(b"still here")

    ends.wait_for(b"last words", [b"still here"])


def test_a_gate_that_is_held_can_be_closed(ends: Ends) -> None:
    ends.console.send(b"never heard")

    ends.gate.close()
    ends.gate.close()

    assert bytes(ends.ear.console) == b""


class FakeCard:
    """A card that says it has frames by a descriptor, as a pump does; a frame is a number here."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._waiting: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._waiting.append(frame)
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def begin(self) -> None:
        self.told.append("begin")

    def flow(self) -> None:
        self.told.append("flow")

    def hold(self) -> bytes | None:
        self.told.append("hold")
        return self.take()

    def is_waiting(self) -> bool:
        try:
            return os.eventfd_read(self._event) > 0
        except BlockingIOError:
            return False

    def take(self) -> bytes | None:
        taken, self._waiting = b"+".join(self._waiting), []
        return taken or None

    def close(self) -> None:
        os.close(self._event)


@pytest.fixture
def card() -> Iterator[FakeCard]:
    made = FakeCard()
    yield made
    made.close()


def test_a_pumped_cards_frames_are_one_output_and_none_is_taken_before_it_flows(card: FakeCard) -> None:
    ear = Ear()
    gate = OutputGate(ear, {}, {"card0": cast("PumpedCard", card)})
    card.send(b"early")
    threading.Event().wait(0.1)
    assert ear.frames == []

    gate.flow()
    for _ in range(int(PATIENCE_S * 100)):
        if ear.frames:
            break
        threading.Event().wait(0.01)
    gate.close()

    assert ear.frames == [b"early"]
    assert card.told == ["begin", "flow"]


def test_each_of_several_cards_flows_is_taken_from_and_is_held(card: FakeCard) -> None:
    ear, other = Ear(), FakeCard()
    gate = OutputGate(ear, {}, {"card0": cast("PumpedCard", card), "card1": cast("PumpedCard", other)})
    gate.flow()

    other.send(b"of the second alone")
    for _ in range(int(PATIENCE_S * 100)):
        if ear.frames:
            break
        threading.Event().wait(0.01)
    taken = list(ear.frames)
    gate.hold()
    gate.close()

    assert taken == ear.frames == [b"of the second alone"]
    assert card.told == other.told == ["begin", "flow", "hold"]
    other.close()


def test_a_held_gate_has_taken_all_frames_that_a_pumped_card_has(card: FakeCard) -> None:
    ear = Ear()
    gate = OutputGate(ear, {}, {"card0": cast("PumpedCard", card)})
    gate.flow()

    card.send(b"one")
    card.send(b"two")
    gate.hold()
    card.send(b"of the next epoch")
    threading.Event().wait(0.1)
    gate.close()

    assert b"+".join(ear.frames) == b"one+two"
    assert card.told == ["begin", "flow", "hold"]


class FakeDisk:
    """Asks for a cut whenever a test wants it."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ask(self) -> None:
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def is_asking(self) -> bool:
        try:
            return bool(os.eventfd_read(self._event))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._event)


def test_a_disk_that_asks_for_a_cut_is_heard_once_for_each_time() -> None:
    ear, idle, disk = Ear(), FakeDisk(), FakeDisk()
    gate = OutputGate(ear, {}, disks=[cast("Disk", idle), cast("Disk", disk)])
    gate.flow()

    for count in (1, 2):
        disk.ask()
        for _ in range(int(PATIENCE_S * 100)):
            if ear.wishes >= count:
                break
            threading.Event().wait(0.01)
    gate.close()

    assert ear.wishes == 2
    idle.close()
    disk.close()
