"""The pump between a card and the world, each a datagram socket here."""

import errno
import os
import select
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from fcntl import ioctl
from pathlib import Path

import pytest

from ftvm._native.netpump import FRAME_BYTES_MAX, HEADER_BYTES, RING_BYTES_MIN, Inputs, NetPump, Peer
from ftvm.errors import ClosedError

PATIENCE_S = 30.0
PACKED_MAX = 1 << 16
IP_RECVERR = 11
"""Errors of what was sent are reported, as poll does for ever; the module socket has no name for it."""


def frame(name: str, size: int = 60) -> bytes:
    return bytes(HEADER_BYTES) + name.encode().ljust(size, b".")


def connected(_: Path) -> tuple[socket.socket, socket.socket, Peer | None]:
    world, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return world, outside, None


def addressed(folder: Path) -> tuple[socket.socket, socket.socket, Peer | None]:
    """Two sockets with names, as a cable of datagrams has them."""
    ends = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for end, name in zip(ends, ("world", "outside"), strict=True):
        end.bind(str(folder / name))
    ends[0].connect(str(folder / "outside"))
    address = struct.pack("=H", socket.AF_UNIX) + os.fsencode(folder / "world") + b"\0"
    return ends[0], ends[1], Peer(address, is_alone=False)


class Ends:
    """A pump, and what stands at its two sides: the guest's card, and the world."""

    def __init__(self, world: socket.socket, outside: socket.socket, peer: Peer | None) -> None:
        self.guest, self._card = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.world, self._outside = world, outside
        self.outside = self._outside.fileno()
        for end in (self.guest, self.world):
            end.settimeout(PATIENCE_S)
        for end in (self._card, self._outside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # a whole ring
            end.setblocking(False)
        self.pump = NetPump(
            self._card.fileno(),
            self._outside.fileno(),
            ring_bytes=RING_BYTES_MIN,
            packed_bytes_max=PACKED_MAX,
            peer=peer,
        )

    def close(self) -> None:
        self.pump.close()
        for end in (self.guest, self.world, self._card, self._outside):
            end.close()


@pytest.fixture(params=[connected, addressed])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    made = Ends(*request.param(tmp_path))
    yield made
    made.close()


def is_readable(descriptor: socket.socket | NetPump) -> bool:
    return bool(select.select([descriptor], [], [], 0.05)[0])


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S * 100)):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came")


def test_nothing_leaves_before_its_mark_is_released_and_then_all_in_order(ends: Ends) -> None:
    for name in ("one", "two", "three"):
        ends.guest.send(frame(name))
    mark = ends.pump.mark(PACKED_MAX)
    ends.guest.send(frame("later"))
    later = ends.pump.mark(PACKED_MAX)

    assert mark is not None
    assert later is not None
    assert (mark.frames, later.frames, is_readable(ends.world)) == (3, 1, False)
    assert ends.pump.release(mark.number) == 3
    assert [ends.world.recv(1000) for _ in range(3)] == [frame("one"), frame("two"), frame("three")]
    assert not is_readable(ends.world)
    assert ends.pump.release(later.number) == 1
    assert ends.world.recv(1000) == frame("later")


def test_a_mark_that_is_passed_over_never_leaves(ends: Ends) -> None:
    """Whoever had it has thrown it away: its frames belong to a guest that went elsewhere."""
    ends.guest.send(frame("thrown away"))
    first = ends.pump.mark(PACKED_MAX)
    ends.guest.send(frame("wanted"))
    second = ends.pump.mark(PACKED_MAX)
    assert first is not None
    assert second is not None

    assert ends.pump.release(second.number) == 1

    assert ends.world.recv(1000) == frame("wanted")
    assert ends.pump.release(first.number) is None
    assert not is_readable(ends.world)
    assert ends.pump.counters.frames_forgotten == 1


def test_a_mark_leaves_once(ends: Ends) -> None:
    ends.guest.send(frame("once"))
    mark = ends.pump.mark(PACKED_MAX)
    assert mark is not None

    left = [ends.pump.release(mark.number), ends.pump.release(mark.number)]

    assert left == [1, None]
    assert (ends.pump.counters.frames_sent, ends.pump.counters.bytes_sent) == (1, 60)


def test_what_is_packed_is_the_first_of_what_is_marked(ends: Ends) -> None:
    ends.guest.send(frame("small"))
    ends.guest.send(frame("large", 900))
    mark = ends.pump.mark(200)

    assert mark is not None
    assert (mark.frames, mark.packed_frames) == (2, 1)
    assert mark.packed == len(frame("small")).to_bytes(4, "little") + frame("small")


def test_no_more_is_packed_than_the_pump_was_made_for(ends: Ends) -> None:
    for name in ("one", "two"):
        ends.guest.send(frame(name, PACKED_MAX * 2 // 3))

    mark = ends.pump.mark(4 * PACKED_MAX)

    assert mark is not None
    assert (mark.frames, mark.packed_frames) == (2, 1)


def test_nothing_sent_is_no_mark(ends: Ends) -> None:
    assert ends.pump.mark(PACKED_MAX) is None


def test_frames_that_wait_are_told_once_until_a_mark_was_released(ends: Ends) -> None:
    ends.guest.send(frame("first"))
    wait_until(lambda: is_readable(ends.pump))
    os.read(ends.pump.fileno(), 8)
    first = ends.pump.mark(PACKED_MAX)
    ends.guest.send(frame("second"))
    wait_until(lambda: ends.pump.counters.held_frames == 2)
    assert not is_readable(ends.pump)
    assert first is not None

    ends.pump.release(first.number)

    wait_until(lambda: is_readable(ends.pump))


def test_frames_that_wait_are_told_again_where_inputs_flow_or_all_was_dropped(ends: Ends) -> None:
    ends.guest.send(frame("told, and not marked"))
    wait_until(lambda: is_readable(ends.pump))
    os.read(ends.pump.fileno(), 8)

    ends.pump.inputs(Inputs.FLOW)
    wait_until(lambda: is_readable(ends.pump))
    os.read(ends.pump.fileno(), 8)
    ends.pump.drop()
    ends.guest.send(frame("of another machine"))

    wait_until(lambda: is_readable(ends.pump))


def test_inputs_are_thrown_away_then_wait_then_flow(ends: Ends) -> None:
    ends.world.send(frame("before it runs"))
    wait_until(lambda: ends.pump.counters.receives_discarded == 1)
    ends.pump.inputs(Inputs.WAIT)
    ends.world.send(frame("while it stands still"))
    ends.guest.send(frame("wakes the pump"))
    wait_until(lambda: ends.pump.counters.held_frames == 1)
    assert not is_readable(ends.guest)

    ends.pump.inputs(Inputs.FLOW)

    assert ends.guest.recv(1000) == frame("while it stands still")
    assert (ends.pump.counters.frames_received, ends.pump.counters.bytes_received) == (1, 60)


def test_a_full_ring_leaves_the_rest_in_the_socket_and_loses_nothing(ends: Ends) -> None:
    large = FRAME_BYTES_MAX - 100
    sent = [frame(str(number), large - HEADER_BYTES) for number in range(9)]
    sender = threading.Thread(target=lambda: [ends.guest.send(each) for each in sent])
    sender.start()
    arrived: list[bytes] = []

    while len(arrived) < len(sent):
        wait_until(lambda: ends.pump.counters.held_frames > 0)
        assert ends.pump.counters.held_bytes <= RING_BYTES_MIN
        mark = ends.pump.mark(0)
        assert mark is not None
        ends.pump.release(mark.number)
        arrived += [ends.world.recv(1 << 17) for _ in range(mark.frames)]

    sender.join(PATIENCE_S)
    assert arrived == sent
    assert ends.pump.counters.sends_dropped == 0


def test_what_is_too_short_to_be_a_frame_is_refused_on_both_sides(ends: Ends) -> None:
    ends.pump.inputs(Inputs.FLOW)

    ends.guest.send(bytes(HEADER_BYTES + 13))
    ends.world.send(bytes(HEADER_BYTES + 13))
    wait_until(lambda: ends.pump.counters.runts_refused == 2)

    assert ends.pump.mark(PACKED_MAX) is None
    assert not ends.pump.send(bytes(HEADER_BYTES + 13))
    assert not ends.pump.send(bytes(FRAME_BYTES_MAX + 1))
    assert not is_readable(ends.guest)


def test_a_frame_longer_than_any_is_refused_whole_and_what_is_behind_it_is_taken(ends: Ends) -> None:
    ends.guest.send(frame("longer than any", FRAME_BYTES_MAX))
    ends.guest.send(frame("behind"))
    wait_until(lambda: ends.pump.counters.held_frames > 0)

    mark = ends.pump.mark(PACKED_MAX)

    assert mark is not None
    assert (mark.frames, mark.packed[4:]) == (1, frame("behind"))
    assert ends.pump.counters.runts_refused == 1


def fill_card(ends: Ends) -> int:
    """Send to the guest, which takes nothing, until its card is full for certain; return how many frames."""
    ends.pump.inputs(Inputs.FLOW)
    sent = 0
    while ends.pump.counters.receives_dropped == 0:
        ends.world.send(frame("fills the card", 900))
        sent += 1
    return sent


def leave_on_offer(ends: Ends) -> int:
    """Have the pump hold a frame that a full card has no room for, and the guest stand still. Return how many frames
    the world has sent."""
    sent = fill_card(ends)
    for _ in range(ATTEMPTS):
        wait_counted(ends, sent)
        dropped = ends.pump.counters.receives_dropped
        ends.world.send(frame("on offer"))
        wait_until(lambda: is_taken(ends))
        ends.pump.inputs(Inputs.WAIT)
        sent += 1
        if ends.pump.counters.receives_dropped == dropped:
            return sent
        ends.pump.inputs(Inputs.FLOW)
    raise AssertionError("a card that is full for an instant has its frame dropped at once")


ATTEMPTS = 200


def counted(ends: Ends) -> int:
    told = ends.pump.counters
    return told.frames_received + told.receives_dropped + told.receives_discarded


def wait_counted(ends: Ends, sent: int) -> None:
    wait_until(lambda: counted(ends) == sent)


def is_taken(ends: Ends) -> bool:
    """Tell whether the pump has read what the world has sent."""
    return not struct.unpack("i", ioctl(ends.outside, termios.FIONREAD, bytes(4)))[0]


def test_a_frame_that_a_full_card_had_no_room_for_waits_while_its_guest_stands_still_and_comes_then(
    ends: Ends,
) -> None:
    sent = leave_on_offer(ends)

    while is_readable(ends.guest):
        assert ends.guest.recv(1000) == frame("fills the card", 900)
    ends.guest.send(frame("wakes the pump"))
    wait_until(lambda: ends.pump.counters.held_frames == 1)
    assert not is_readable(ends.guest)
    ends.pump.inputs(Inputs.FLOW)

    assert ends.guest.recv(1000) == frame("on offer")
    assert counted(ends) == sent


def test_a_frame_that_a_full_card_had_no_room_for_is_not_handed_to_another_machine(ends: Ends) -> None:
    sent = leave_on_offer(ends)
    while is_readable(ends.guest):
        ends.guest.recv(1000)

    ends.pump.inputs(Inputs.DISCARD)
    ends.pump.inputs(Inputs.FLOW)
    ends.world.send(frame("of the new one"))

    assert ends.guest.recv(1000) == frame("of the new one")
    assert counted(ends) == sent + 1
    assert ends.pump.counters.receives_discarded == 1


def test_what_is_dropped_never_leaves_and_marks_go_on(ends: Ends) -> None:
    ends.guest.send(frame("marked"))
    gone = ends.pump.mark(PACKED_MAX)
    ends.guest.send(frame("not marked"))
    assert gone is not None

    ends.pump.drop()

    assert ends.pump.release(gone.number) is None
    assert ends.pump.mark(PACKED_MAX) is None
    ends.guest.send(frame("of another machine"))
    mark = ends.pump.mark(PACKED_MAX)
    assert mark is not None
    assert mark.number > gone.number
    assert ends.pump.counters.frames_forgotten == 2


def test_a_world_that_takes_nothing_is_a_counted_drop(ends: Ends) -> None:
    ends.guest.send(frame("to nobody"))
    mark = ends.pump.mark(PACKED_MAX)
    assert mark is not None
    ends.world.close()

    assert ends.pump.release(mark.number) == 0

    assert (ends.pump.counters.sends_dropped, ends.pump.counters.frames_sent) == (1, 0)


def test_a_card_that_takes_nothing_is_a_counted_drop(ends: Ends) -> None:
    ends.pump.inputs(Inputs.FLOW)
    ends.guest.close()

    ends.world.send(frame("to nobody"))

    wait_until(lambda: ends.pump.counters.receives_dropped == 1)


def test_an_outside_that_poll_reports_as_ended_though_nothing_is_read_from_it_is_gone() -> None:
    guest, card = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    outside, far = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with guest, card, closing(NetPump(card.fileno(), outside, ring_bytes=RING_BYTES_MIN, packed_bytes_max=0)) as pump:
        assert pump.failure is None

        os.close(far)

        wait_until(lambda: pump.failure is not None)
        assert pump.failure is not None
        assert pump.failure.errno == errno.ENODEV
    os.close(outside)


def test_frames_are_sent_in_the_guests_place(ends: Ends) -> None:
    assert ends.pump.send(frame("announced"))

    assert ends.world.recv(1000) == frame("announced")


def test_a_closed_pump_refuses_by_name_and_may_be_closed_again(ends: Ends) -> None:
    ends.pump.close()
    ends.pump.close()

    with pytest.raises(ClosedError, match="card is closed"):
        ends.pump.mark(0)


class Cable:
    """A pump of frames without a header, whose outside is a UDP socket, and what stands at its two sides."""

    def __init__(self) -> None:
        self.guest, self._card = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.world, self.stranger, self._outside = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
        for end in (self.world, self.stranger, self._outside):
            end.bind(("127.0.0.1", 0))
        for end in (self.world, self.stranger):
            end.connect(self._outside.getsockname())
        for end in (self.guest, self.world):
            end.settimeout(PATIENCE_S)
        for end in (self._card, self._outside):
            end.setblocking(False)
        self.outside = self._outside
        self.port: int = self.world.getsockname()[1]
        address = struct.pack("=H", socket.AF_INET) + self.port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
        self.pump = NetPump(
            self._card.fileno(),
            self._outside.fileno(),
            ring_bytes=RING_BYTES_MIN,
            packed_bytes_max=PACKED_MAX,
            header_bytes=0,
            peer=Peer(address, is_alone=True),
        )

    def close(self) -> None:
        self.pump.close()
        for end in (self.guest, self._card, self.world, self.stranger, self._outside):
            end.close()


@pytest.fixture
def cable() -> Iterator[Cable]:
    made = Cable()
    yield made
    made.close()


def test_frames_without_a_header_are_held_and_leave_by_udp_when_they_are_released(cable: Cable) -> None:
    sent = [b"one".ljust(14, b"."), b"two".ljust(1_514, b".")]
    for frame_sent in sent:
        cable.guest.send(frame_sent)
    mark = cable.pump.mark(PACKED_MAX)
    assert mark is not None
    assert not is_readable(cable.world)

    assert cable.pump.release(mark.number) == 2

    assert [cable.world.recv(2_000) for _ in sent] == sent
    assert (cable.pump.counters.frames_sent, cable.pump.counters.bytes_sent) == (2, 14 + 1_514)


def test_frames_of_the_other_end_alone_come_to_the_guest(cable: Cable) -> None:
    cable.pump.inputs(Inputs.FLOW)

    cable.stranger.send(b"of a stranger".ljust(60, b"."))
    cable.world.send(b"")
    cable.world.send(b"too short")
    cable.world.send(b"wanted".ljust(60, b"."))

    assert cable.guest.recv(2_000) == b"wanted".ljust(60, b".")
    told = cable.pump.counters
    assert (told.strangers_refused, told.runts_refused, told.frames_received, told.bytes_received) == (1, 2, 1, 60)


def test_a_stranger_with_the_other_ends_port_is_a_stranger(cable: Cable) -> None:
    cable.pump.inputs(Inputs.FLOW)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as impostor:
        impostor.bind(("127.0.0.2", cable.port))

        impostor.sendto(b"of a stranger".ljust(60, b"."), cable.stranger.getpeername())

    wait_until(lambda: cable.pump.counters.strangers_refused == 1)
    assert not is_readable(cable.guest)


def test_a_cable_without_anybody_at_its_other_end_fails_no_pump(cable: Cable) -> None:
    cable.world.close()
    for _ in range(2):
        cable.guest.send(b"to nobody".ljust(60, b"."))
        mark = cable.pump.mark(PACKED_MAX)
        assert mark is not None
        cable.pump.release(mark.number)

    assert cable.pump.failure is None


def test_a_cable_that_reports_an_error_goes_on(cable: Cable) -> None:
    """What a cable reports is of one datagram; a tap reports that it is gone."""
    cable.pump.inputs(Inputs.FLOW)
    cable.outside.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = nobody.getsockname()
    cable.outside.sendto(b"to nobody", gone)
    watch = select.poll()
    watch.register(cable.outside, 0)
    assert watch.poll(PATIENCE_S * 1_000) == [(cable.outside.fileno(), select.POLLERR)]

    cable.guest.send(b"has the pump look".ljust(60, b"."))
    wait_until(lambda: cable.pump.counters.held_frames == 1)

    assert cable.pump.failure is None
    cable.world.send(b"behind the error".ljust(60, b"."))
    assert cable.guest.recv(2_000) == b"behind the error".ljust(60, b".")
