"""A pumped card, between its own tap and one of this host; what emulates it is the test."""

import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fcntl import ioctl
from itertools import count

import pytest

from ftvm._native.netpump import make_card
from ftvm.checkpoint import Output
from ftvm.errors import ConfigError, TransportError
from ftvm.guests.cards import PumpedCard, PumpWorld
from ftvm.guests.cards.batch import decode_batch
from ftvm.guests.cards.card import HELD_BYTES_MAX, SHIPPED_BYTES
from ftvm.guests.cards.ends import check_cable
from ftvm.guests.datagram import announcement_frames, mac_bytes

MAC = "52:54:00:12:34:56"
HEADER = bytes(10)
PATIENCE_S = 30.0
SET_FLAGS, UP = 0x8914, 1
ALL_PROTOCOLS = 3
NUMBERS = count()


def frame(name: str, size: int = 60, kind: bytes = b"\x88\xb5") -> bytes:
    return b"\xff" * 6 + mac_bytes(MAC) + kind + name.encode().ljust(size - 14, b".")


def needs_root() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root, and /dev/net/tun")


class Stand:
    """A card, its tap as what emulates it has it, and the host's side of the tap outside, where a bridge would be."""

    def __init__(self, stack: ExitStack) -> None:
        self.name = f"ftc{os.getpid()}x{next(NUMBERS)}"
        self.card = PumpedCard(self.name)
        stack.callback(self.card.close)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            ioctl(asking, SET_FLAGS, struct.pack("16sH22x", self.name.encode(), UP))
        self.wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)))
        self.wire.bind((self.name, 0))
        self.wire.settimeout(PATIENCE_S)

    def say(self, sent: bytes, header: bytes = HEADER) -> None:
        """Send a frame as the guest."""
        os.write(self.card.wire, header + sent)

    def hear(self, wanted: bytes) -> bytes:
        """Return the first frame on the wire that begins as wanted; the host itself speaks on a new interface, too."""
        while True:
            found = self.wire.recv(1 << 17)
            if found.startswith(wanted):
                return found

    def wait_read(self) -> None:
        """Wait until the pump has read all that came on the wire, and done what it does with it."""
        wait_until(lambda: not select.select([self.card._ends.outside], [], [], 0)[0])
        self.card._pump.failure  # noqa: B018 - asks the pump, which is busy until then

    def is_quiet(self, wanted: bytes) -> bool:
        """Tell that no frame comes to the wire that begins so."""
        while select.select([self.wire], [], [], 0.1)[0]:
            if self.wire.recv(1 << 17).startswith(wanted):
                return False
        return True

    def has_got(self, wanted: bytes) -> bool:
        """Tell whether a frame that begins so has come to the guest, among what the host itself said."""
        while select.select([self.card.wire], [], [], 0.1)[0]:
            if os.read(self.card.wire, 1 << 17)[len(HEADER) :].startswith(wanted):
                return True
        return False

    def got(self, wanted: bytes) -> bytes:
        """Return the first frame that comes to the guest, with its header, that begins as wanted."""
        while select.select([self.card.wire], [], [], PATIENCE_S)[0]:
            found = os.read(self.card.wire, 1 << 17)
            if found[len(HEADER) :].startswith(wanted):
                return found
        raise AssertionError("the guest got nothing")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def stand(stack: ExitStack) -> Stand:
    needs_root()
    return Stand(stack)


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S * 100)):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


def test_what_the_guest_sends_leaves_when_its_output_is_released_and_not_before(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("hello"))
    output = stand.card.take()

    assert output is not None
    assert stand.is_quiet(frame("hello"))
    stand.card.release(output)
    assert stand.hear(frame("hello")) == frame("hello")
    assert stand.card.counters.frames_sent == 1


def test_a_new_card_hears_the_first_frame_at_once() -> None:
    """A packet socket on a device that is down has an error to tell first, in place of a frame."""
    needs_root()
    tap, ours = make_card()

    with socket.socket(fileno=ours) as heard, pytest.raises(BlockingIOError):
        heard.recv(1)

    os.close(tap)


def test_frames_come_to_a_guest_that_runs_and_wait_for_one_that_stands_still(stand: Stand) -> None:
    stand.card.flow()
    stand.wire.send(frame("at once"))
    assert stand.got(frame("at once")).endswith(frame("at once"))

    assert stand.card.hold() is None, "what goes to the guest is not heard as its own"
    stand.wire.send(frame("later"))
    assert not stand.has_got(frame("later"))
    stand.card.flow()

    assert stand.got(frame("later")).endswith(frame("later"))


def test_the_cards_own_tap_answers_nothing_of_itself(stand: Stand) -> None:
    """A request for an address of this host, by ARP; and IPv6 would speak as soon as the device is up."""
    request = b"\xff" * 6 + mac_bytes(MAC) + bytes.fromhex("0806 0001 0800 0604 0001") + mac_bytes(MAC)

    stand.say(request + bytes([127, 0, 0, 2]) + bytes(6) + bytes([127, 0, 0, 1]) + bytes(18))
    output = stand.card.hold()

    assert output is not None
    assert not select.select([stand.card.wire], [], [], 0.5)[0]


def test_a_vlan_tag_comes_through(stand: Stand) -> None:
    tagged = frame("tagged", kind=bytes.fromhex("8100 0007 88b5"))
    stand.card.flow()
    stand.say(tagged)
    output = stand.card.take()
    assert output is not None

    assert tagged in output, "as it travels"


def test_a_large_segment_comes_through_as_one_frame_with_its_checksum_still_to_be_made(stand: Stand) -> None:
    """A TCP segment of many packets: the header says what is left to do for whoever sends it on."""
    ip = bytes.fromhex("4500") + (20 + 20 + 8_000).to_bytes(2, "big") + bytes.fromhex("0000 4000 4006 0000")
    ip += bytes([10, 77, 0, 2, 10, 77, 0, 1])
    tcp = bytes.fromhex("1000 2000 00000001 00000001 5010 ffff 0000 0000")
    segment = b"\xff" * 6 + mac_bytes(MAC) + b"\x08\x00" + ip + tcp + bytes(8_000)
    header = struct.pack("<BBHHHH", 1, 1, 14 + 20 + 20, 1_448, 14 + 20, 16)
    stand.card.flow()

    stand.say(segment, header)
    output = stand.card.take()

    assert output is not None
    batch = decode_batch(output)
    assert (batch.frames, batch.packed_frames) == (1, 1)
    assert batch.packed[4:14] == header
    stand.card.release(output)
    assert len(stand.hear(segment[:14])) == len(segment)


def test_a_tag_is_put_back_where_a_large_segment_says_what_is_left_to_do(stand: Stand) -> None:
    """The kernel takes the tag out, and counts without it: who sends the frame on must find the checksum's place."""
    ip = bytes.fromhex("4500") + (20 + 20 + 8_000).to_bytes(2, "big") + bytes.fromhex("0000 4000 4006 0000")
    ip += bytes([10, 77, 0, 2, 10, 77, 0, 1])
    tcp = bytes.fromhex("1000 2000 00000001 00000001 5010 ffff 0000 0000")
    tagged = b"\xff" * 6 + mac_bytes(MAC) + bytes.fromhex("8100 0007 0800") + ip + tcp + bytes(8_000)
    header = struct.pack("<BBHHHH", 1, 1, 18 + 20 + 20, 1_448, 18 + 20, 16)
    stand.card.flow()

    stand.say(tagged, header)
    output = stand.card.take()

    assert output is not None
    packed = decode_batch(output).packed
    assert packed[14:] == tagged
    assert packed[4:14] == header


def test_what_is_sent_beyond_what_may_be_held_is_counted_once(stand: Stand) -> None:
    """All that was sent is held, waits, or is counted as dropped by the kernel."""
    size, sent, taken = 60_000, 500, 0
    stand.card.flow()
    for _ in range(sent):
        stand.say(frame("bulk", size))
    dropped = stand.card.counters.card_dropped
    again = stand.card.counters.card_dropped

    while (output := stand.card.take()) is not None:
        taken += decode_batch(output).frames
        stand.card.release(output)

    assert sent * size > HELD_BYTES_MAX
    assert 0 < taken < sent
    assert dropped == again == sent - taken


def test_small_replies_travel_and_bulk_is_only_counted_until_the_next_pause(stand: Stand) -> None:
    size = 1_500
    stand.card.flow()
    for _ in range(SHIPPED_BYTES // size + 10):
        stand.say(frame("bulk", size))
    first = stand.card.take()
    stand.say(frame("one more", size))
    second = stand.card.hold()
    stand.card.flow()
    stand.say(frame("after", size))
    third = stand.card.take()

    assert first is not None
    assert second is not None
    assert third is not None
    batches = [decode_batch(each) for each in (first, second, third)]
    assert 0 < batches[0].packed_frames < batches[0].frames
    assert sum(len(batch.packed) for batch in batches[:2]) <= SHIPPED_BYTES
    assert (batches[2].packed_frames, batches[2].frames) == (1, 1), "each epoch has its own"


def test_after_a_takeover_what_travelled_is_sent_and_what_did_not_is_counted_as_lost(stack: ExitStack) -> None:
    needs_root()
    here, there = Stand(stack), Stand(stack)
    here.card.flow()
    for number in range(SHIPPED_BYTES // 1_500 + 10):
        here.say(frame(f"{number:04}", 1_500))
    output = here.card.hold()
    assert output is not None
    batch = decode_batch(output)

    there.card.release(output)

    assert there.hear(frame("0000")[:18])[14:18] == b"0000"
    assert there.card.counters.frames_sent == batch.packed_frames
    assert there.card.counters.frames_lost == batch.frames - batch.packed_frames > 0


def test_a_mark_of_another_host_lets_nothing_out_that_is_held_here(stack: ExitStack) -> None:
    """Marks are counted from one on each host: the number alone says nothing."""
    needs_root()
    here, there = Stand(stack), Stand(stack)
    outputs = []
    for stand, name in ((here, "of this"), (there, "of that")):
        stand.card.flow()
        stand.say(frame(name))
        outputs.append(stand.card.hold())
    assert outputs[0] is not None
    assert outputs[1] is not None
    assert decode_batch(outputs[0]).mark == decode_batch(outputs[1]).mark

    there.card.release(outputs[0])

    assert there.hear(frame("of this")) == frame("of this")
    assert there.is_quiet(frame("of that"))
    there.card.release(outputs[1])
    assert there.hear(frame("of that")) == frame("of that")


def test_another_machine_on_the_card_gets_nothing_of_what_came_for_the_one_before(stand: Stand) -> None:
    stand.card.flow()
    stand.wire.send(frame("for the old one"))
    stand.wait_read()

    stand.card.begin()
    stand.wire.send(frame("while none runs"))
    stand.wait_read()
    stand.card.flow()
    stand.wire.send(frame("for the new one"))

    heard = []
    while (found := stand.got(frame("")[:14])[len(HEADER) :]) != frame("for the new one"):
        heard.append(found)
    assert heard == []


def test_another_machine_on_the_card_sends_nothing_of_the_one_before(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("old"))
    old = stand.card.take()
    stand.say(frame("old, too"))
    assert old is not None

    stand.card.begin()
    stand.card.flow()
    stand.say(frame("new"))
    new = stand.card.hold()

    assert new is not None
    assert decode_batch(new).frames == 1
    stand.card.release(new)
    assert stand.hear(frame("new")) == frame("new")


def test_a_tap_that_vanishes_is_named_and_the_card_goes_on(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("held"))
    output = stand.card.take()
    assert output is not None
    assert stand.card.failure() is None

    subprocess.run(["ip", "link", "del", stand.name], check=True)
    wait_until(lambda: stand.card.failure() is not None)
    stand.card.release(output)
    stand.say(frame("to nobody"))

    assert f"the tap device {stand.name} is gone" in str(stand.card.failure())
    assert stand.card.hold() is not None
    assert stand.card.counters.sends_dropped == 1


def test_an_output_that_is_damaged_is_counted_and_sends_nothing(stand: Stand) -> None:
    stand.card.release(b"noise")

    assert stand.card.counters.outputs_unrouted == 1
    assert stand.card.counters.frames_sent == 0


def test_a_world_announces_its_cards_and_adds_up_what_they_count(stack: ExitStack) -> None:
    needs_root()
    first, second = Stand(stack), Stand(stack)
    console: list[bytes] = []
    macs = (MAC, "52:54:00:12:34:57")
    world = PumpWorld({"card0": (first.card, macs[0]), "card1": (second.card, macs[1])}, console=console.append)

    world.announce()
    world.release(Output(number=1, channel="console", payload=b"said"))
    world.release(Output(number=2, channel="card7", payload=b"nowhere"))

    for stand, mac in ((first, macs[0]), (second, macs[1])):
        for wanted in announcement_frames(mac_bytes(mac)):
            assert stand.hear(wanted) == wanted
    assert console == [b"said"]
    assert (world.counters.frames_sent, world.counters.outputs_unrouted) == (4, 1)
    assert (list(world.receive(8)), world.fds()) == ([], ())


def test_counters_outlive_the_card_and_what_comes_late_harms_nothing(stand: Stand) -> None:
    stand.card.flow()
    stand.say(frame("held"))
    output = stand.card.hold()
    assert output is not None
    stand.card.release(output)

    stand.card.close()
    stand.card.close()
    stand.card.release(output)
    stand.card.send(frame("late"))

    assert stand.card.counters.frames_sent == 1
    assert stand.card.failure() is None


@pytest.mark.parametrize("name", ["", "a/b", "sixteen-letters-"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an interface: write pump:NAME"):
        check_cable(name)


def test_an_interface_that_is_no_tap_is_refused_by_name() -> None:
    needs_root()

    with pytest.raises(TransportError, match=r"the tap device lo cannot be used: .*make it with: ip tuntap add dev lo"):
        PumpedCard("lo")


def test_a_user_without_the_rights_is_told_what_to_use_instead() -> None:
    needs_root()
    program = "import os; from ftvm.guests.cards import PumpedCard; os.setuid(65_534); PumpedCard('ftvmnobody')"

    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)

    assert "run as root, or write a cable of another kind, pump:tap:NAME" in ran.stderr
