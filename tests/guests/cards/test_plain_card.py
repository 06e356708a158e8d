"""A pumped card of datagrams, which needs no rights; what emulates it is the test."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ftvm.errors import ConfigError, TransportError
from ftvm.guests.cards import PumpedCard, PumpWorld
from ftvm.guests.cards.batch import decode_batch
from ftvm.guests.cards.card import HELD_BYTES_MAX, SHIPPED_BYTES
from ftvm.guests.cards.ends import check_cable
from ftvm.guests.datagram import announcement_frames, mac_bytes
from ftvm.lab.stage import free_ports

from ...leftovers import nothing_left_behind

MAC = "52:54:00:12:34:56"
PATIENCE_S = 30.0


def frame(name: str, size: int = 60) -> bytes:
    return (b"\xff" * 6 + mac_bytes(MAC) + b"\x88\xb5" + name.encode()).ljust(size, b".")


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S * 100)):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


class Stand:
    """A card, and the far end of its cable."""

    def __init__(self, folder: Path, name: str) -> None:
        self.world = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.world.bind(str(folder / f"{name}-far"))
        self.world.settimeout(PATIENCE_S)
        self.place = folder / name
        self.card = PumpedCard(f"unix:{self.place}:{folder / name}-far")

    def say(self, sent: bytes) -> None:
        """Send a frame as the guest."""
        os.write(self.card.wire, sent)

    def is_quiet(self) -> bool:
        return not select.select([self.world], [], [], 0.1)[0]

    def close(self) -> None:
        self.card.close()
        self.world.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with closing(Stand(tmp_path, "here")) as made:
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Stand]:
    with closing(Stand(tmp_path, "there")) as made:
        yield made


def test_what_the_guest_sends_leaves_when_its_output_is_released_and_not_before(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("hello"))
    output = stand.card.take()

    assert output is not None
    assert stand.is_quiet()
    stand.card.release(output)
    assert stand.world.recv(2_000) == frame("hello")
    assert (stand.card.counters.frames_sent, stand.card.counters.bytes_sent) == (1, 60)


def test_frames_come_to_a_guest_that_runs_and_wait_for_one_that_stands_still(stand: Stand) -> None:
    stand.card.flow()
    stand.world.sendto(frame("at once"), str(stand.place))
    wait_until(lambda: bool(select.select([stand.card.wire], [], [], 0)[0]))
    assert os.read(stand.card.wire, 2_000) == frame("at once")

    stand.card.hold()
    stand.world.sendto(frame("later"), str(stand.place))
    assert not select.select([stand.card.wire], [], [], 0.1)[0]
    stand.card.flow()

    wait_until(lambda: bool(select.select([stand.card.wire], [], [], 0)[0]))
    assert os.read(stand.card.wire, 2_000) == frame("later")


def test_a_host_that_takes_over_sends_what_travelled_and_counts_the_rest(stand: Stand, other: Stand) -> None:
    stand.card.flow()
    sent = [frame(str(number), 1_500) for number in range(SHIPPED_BYTES // 1_500 + 5)]
    outputs = []
    for each in sent:
        stand.say(each)
        outputs.append(stand.card.take())

    came = []
    for output in outputs:
        assert output is not None
        other.card.release(output)
        if decode_batch(output).packed_frames:
            came.append(other.world.recv(2_000))

    assert came == sent[: len(came)]
    assert 0 < other.card.counters.frames_lost == len(sent) - len(came)
    assert stand.is_quiet()


def test_a_guest_sends_no_more_than_may_be_held_and_nothing_of_that_is_lost(stand: Stand) -> None:
    stand.card.flow()
    sent = 0
    while select.select([], [stand.card.wire], [], 1.0)[1]:
        stand.say(frame(str(sent), 60_000))
        sent += 1
    assert sent * 60_000 < HELD_BYTES_MAX + (1 << 21)

    arrived = 0
    while arrived < sent:
        output = stand.card.take()
        assert output is not None
        left = decode_batch(output).frames
        releasing = threading.Thread(target=stand.card.release, args=(output,))
        releasing.start()
        releasing.join(PATIENCE_S)
        arrived += left

    told = stand.card.counters
    assert told.frames_sent + told.sends_dropped == sent  # the far end queues a few, and refuses the others


def test_a_guest_waits_once_16_mib_are_held_and_nothing_has_left_by_then(stand: Stand) -> None:
    stand.card.flow()
    sent = 0

    while select.select([], [stand.card.wire], [], 1.0 if sent >= 16 << 20 else PATIENCE_S)[1]:
        stand.say(frame("held", 60_000))
        sent += 60_000

    assert 16 << 20 <= sent < 18 << 20  # with what waits in the socket
    assert stand.is_quiet()
    told = stand.card.counters
    assert (told.frames_sent, told.sends_dropped, told.card_dropped) == (0, 0, 0)


def test_a_card_that_has_a_cable_of_udp_hears_its_other_end_alone() -> None:
    with ExitStack() as undo:
        world, stranger = (undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for end in (world, stranger):
            end.bind(("127.0.0.1", 0))
        here = ("127.0.0.1", *free_ports(socket.SOCK_DGRAM, 1))
        card = undo.enter_context(closing(PumpedCard(f"udp:{here[1]}:{world.getsockname()[1]}")))
        card.flow()

        stranger.sendto(frame("of a stranger"), here)
        world.sendto(frame("wanted"), here)
        wait_until(lambda: card.counters.frames_received + card.counters.strangers_refused == 2)

        assert card.counters.strangers_refused == 1
        assert os.read(card.wire, 2_000) == frame("wanted")


def test_another_machine_gets_nothing_that_was_for_the_one_before(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("of the one before"))
    stand.world.sendto(frame("for the one before"), str(stand.place))
    wait_until(lambda: stand.card.counters.frames_received == 1)

    stand.card.begin()
    stand.card.flow()

    assert stand.card.take() is None
    assert not select.select([stand.card.wire], [], [], 0.1)[0]


def test_a_world_announces_the_card_by_plain_frames(stand: Stand) -> None:
    world = PumpWorld({"card0": (stand.card, MAC)})

    world.announce()

    assert [stand.world.recv(2_000) for _ in range(2)] == list(announcement_frames(mac_bytes(MAC)))


def test_a_closed_card_gives_its_place_back_and_keeps_its_counters(stand: Stand) -> None:
    stand.card.send(frame("counted"))

    stand.card.close()
    stand.card.close()

    assert not stand.place.exists()
    assert stand.card.wire == -1
    assert stand.card.counters.frames_sent == 1


WITHOUT_RIGHTS = """
import encodings.idna, os, socket
from ftvm.guests.cards import PumpedCard
from ftvm.lab.stage import free_ports
from ftvm.lab.stage import free_ports
os.setuid(65_534)
(port,) = free_ports(socket.SOCK_DGRAM, 1)
PumpedCard(f"udp:{port}:9")
"""


def test_a_user_without_rights_has_such_a_card() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")

    ran = subprocess.run([sys.executable, "-P", "-c", WITHOUT_RIGHTS], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("cable", ["udp:1", "udp:0:7", "unix:a", "tap:", "tap:sixteen-letters-", "tcp:1:2", "a/b"])
def test_a_cable_that_cannot_be_is_refused_by_name(cable: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a cable: write|is not the name of an interface: write pump:NAME"):
        check_cable(cable)


def test_an_address_that_is_in_use_is_refused_and_leaves_nothing_open(stand: Stand) -> None:
    with nothing_left_behind(), pytest.raises(TransportError, match="cannot bind"):
        PumpedCard(f"unix:{stand.place}:elsewhere")
