import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvm.checkpoint import Output, OutputTable
from ftvm.errors import ClosedError, ConfigError, TransportError
from ftvm.guests.datagram import (
    DatagramPort,
    DatagramWorld,
    announcement_frame,
    announcement_frames,
    cable_ends,
    mac_bytes,
)
from ftvm.interfaces import World
from ftvm.lab.stage import free_ports

MAC = "52:54:00:12:34:56"
FRAME = bytes(range(64))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def udp_ends() -> tuple[str, str]:
    here, there = free_ports(socket.SOCK_DGRAM, 2)
    return cable_ends(f"udp:{here}:{there}")


def unix_ends(folder: Path) -> tuple[str, str]:
    return f"unix:{folder}/local", f"unix:{folder}/remote"


def output(number: int, channel: str, payload: bytes) -> Output:
    return Output(number=number, channel=channel, payload=payload)


def world_and_far_end(stack: ExitStack, local: str, remote: str) -> tuple[DatagramWorld, DatagramPort]:
    world = DatagramWorld(local, remote, mac=MAC)
    stack.callback(world.close)
    far = DatagramPort(remote, local)
    stack.callback(far.close)
    return world, far


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_frames_cross_both_ways_whole_and_in_order(kind: str, tmp_path: Path, stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *(udp_ends() if kind == "udp" else unix_ends(tmp_path)))
    frames = [bytes([n]) * 200 for n in range(10)]

    for number, frame in enumerate(frames):
        world.release(output(number, "net0", frame))
        far.send(frame)

    assert far.receive(100) == frames
    assert world.receive(100) == [("net0", frame) for frame in frames]


def test_world_keeps_the_contract_of_a_world(stack: ExitStack) -> None:
    world: World = world_and_far_end(stack, *udp_ends())[0]

    assert len(world.fds()) == 1
    assert world.receive(8) == []


def test_receive_takes_no_more_than_its_limit(stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *udp_ends())
    for _ in range(5):
        far.send(FRAME)

    taken = [len(world.receive(2)) for _ in range(4)]

    assert taken == [2, 2, 1, 0]


def test_absent_other_end_is_a_counted_drop_for_unix(tmp_path: Path, stack: ExitStack) -> None:
    world = DatagramWorld(*unix_ends(tmp_path), mac=MAC)
    stack.callback(world.close)

    world.release(output(1, "net0", FRAME))
    world.announce()

    assert world.counters.sends_dropped == 3


def test_absent_other_end_never_stops_a_udp_port(stack: ExitStack) -> None:
    world = DatagramWorld(*udp_ends(), mac=MAC)
    stack.callback(world.close)

    for number in range(3):
        world.release(output(number, "net0", FRAME))

    assert world.receive(8) == []


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_a_cable_that_leads_nowhere_any_more_is_not_readable_for_ever(
    kind: str, tmp_path: Path, stack: ExitStack
) -> None:
    here, there = udp_ends() if kind == "udp" else unix_ends(tmp_path)
    world, far = world_and_far_end(stack, here, there)

    far.close()
    if kind == "unix":
        Path(here.removeprefix("unix:")).unlink()
    for number in (1, 2, 3):
        world.release(output(number, "net0", FRAME))
        world.receive(64)

    assert select.select(world.fds(), (), (), 0)[0] == []
    assert world.news() is None


def test_slow_other_end_costs_frames_but_never_blocks(tmp_path: Path, stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *unix_ends(tmp_path))

    for number in range(5_000):
        world.release(output(number, "net0", FRAME))

    assert world.counters.sends_dropped > 0
    assert len(far.receive(10_000)) == world.counters.frames_sent


def test_datagram_from_a_stranger_is_refused(stack: ExitStack) -> None:
    local, remote = udp_ends()
    world, _ = world_and_far_end(stack, local, remote)
    stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    stranger.sendto(FRAME, ("127.0.0.1", int(local.rsplit(":", 1)[1])))

    assert world.receive(8) == []
    assert world.counters.strangers_refused == 1


def test_datagram_shorter_than_an_ethernet_header_is_refused(stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *udp_ends())

    far.send(b"short")

    assert world.receive(8) == []
    assert world.counters.runts_refused == 1


def test_console_output_goes_to_the_console_only(stack: ExitStack) -> None:
    local, remote = udp_ends()
    said: list[bytes] = []
    world = DatagramWorld(local, remote, mac=MAC, console=said.append)
    stack.callback(world.close)
    far = DatagramPort(remote, local)
    stack.callback(far.close)

    world.release(output(1, "console", b"hello\n"))

    assert said == [b"hello\n"]
    assert far.receive(8) == []


def test_outputs_that_leave_together_go_where_each_goes_alone_and_in_order(stack: ExitStack) -> None:
    said: list[bytes] = []
    local, remote = udp_ends()
    world = DatagramWorld(local, remote, mac=MAC, console=said.append)
    stack.callback(world.close)
    far = DatagramPort(remote, local)
    stack.callback(far.close)
    frames = [bytes([number]) * 60 for number in range(100)]
    outputs = [output(number, "net0", frame) for number, frame in enumerate(frames)]
    outputs[40:40] = [output(200, "console", b"hello"), output(201, "net1", FRAME)]

    world.release_all(outputs)
    world.release_all([])
    world.release_all(OutputTable.of([output(number, "net0", frame) for number, frame in enumerate(frames)]))
    world.release_all(OutputTable.of([output(1, "net0", FRAME)]))
    world.release_all(OutputTable.of([output(1, "console", b", world")]))

    assert far.receive(1_000) == [*frames, *frames, FRAME]
    assert said == [b"hello", b", world"]
    assert (world.counters.frames_sent, world.counters.bytes_sent) == (201, 12_000 + len(FRAME))
    assert world.counters.outputs_unrouted == 1


def test_frames_together_that_nobody_takes_are_counted_drops(tmp_path: Path, stack: ExitStack) -> None:
    world = DatagramWorld(*unix_ends(tmp_path), mac=MAC)
    stack.callback(world.close)

    world.release_all([output(number, "net0", FRAME) for number in range(3)])

    assert (world.counters.sends_dropped, world.counters.frames_sent) == (3, 0)


def test_output_on_a_channel_that_leads_nowhere_is_counted(stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *udp_ends())

    world.release(output(1, "net1", FRAME))

    assert world.counters.outputs_unrouted == 1
    assert far.receive(8) == []


def test_announcement_is_a_broadcast_from_the_guests_address(stack: ExitStack) -> None:
    world, far = world_and_far_end(stack, *udp_ends())

    world.announce()

    assert far.receive(8) == list(announcement_frames(mac_bytes(MAC)))
    assert announcement_frame(mac_bytes(MAC))[:14] == b"\xff" * 6 + mac_bytes(MAC) + b"\x80\x35"
    assert len(announcement_frame(mac_bytes(MAC))) == 60


def test_the_announcement_for_ipv6_is_a_neighbour_advertisement_with_a_right_checksum() -> None:
    """As RFC 4861, 4.4 and 7.1.2 have it, checked here word by word."""
    frame = announcement_frames(mac_bytes(MAC))[1]

    ethernet, ip, message = frame[:14], frame[14:54], frame[54:]
    address = bytes.fromhex("fe80000000000000505400fffe123456")
    assert ethernet == bytes.fromhex("333300000001") + mac_bytes(MAC) + b"\x86\xdd"
    assert (ip[4:6], ip[6], ip[7]) == (len(message).to_bytes(2, "big"), 58, 255)
    assert (ip[8:24], ip[24:40]) == (address, bytes.fromhex("ff020000000000000000000000000001"))
    assert (message[:2], message[4:8], message[8:24]) == (b"\x88\x00", b"\x20\x00\x00\x00", address)
    assert message[24:] == b"\x02\x01" + mac_bytes(MAC)
    summed = ip[8:40] + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + message
    assert sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2)) % 0xFFFF == 0


def test_busy_port_is_refused_by_name(stack: ExitStack) -> None:
    local, remote = udp_ends()
    world_and_far_end(stack, local, remote)

    with pytest.raises(TransportError, match=f"cannot bind {local}: Address already in use"):
        DatagramPort(local, remote)


def test_path_left_by_a_killed_host_is_taken_over(tmp_path: Path, stack: ExitStack) -> None:
    local, remote = unix_ends(tmp_path)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(local.removeprefix("unix:"))
    dead.close()

    world, far = world_and_far_end(stack, local, remote)
    far.send(FRAME)

    assert world.receive(8) == [("net0", FRAME)]


def test_path_of_a_living_host_is_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    local, remote = unix_ends(tmp_path)
    world, far = world_and_far_end(stack, local, remote)

    with pytest.raises(TransportError, match="cannot bind"):
        DatagramPort(local, remote)
    far.send(FRAME)

    assert world.receive(8) == [("net0", FRAME)]


def test_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    local, remote = unix_ends(tmp_path)
    path = tmp_path / "local"
    path.write_text("precious")

    with pytest.raises(TransportError, match="cannot bind"):
        DatagramPort(local, remote)

    assert path.read_text() == "precious"


def test_close_gives_back_the_path_and_may_be_repeated(tmp_path: Path) -> None:
    world = DatagramWorld(*unix_ends(tmp_path), mac=MAC)

    world.close()
    world.close()

    assert os.listdir(tmp_path) == []
    with pytest.raises(ClosedError):
        world.receive(1)


@pytest.mark.parametrize(
    "text", ["", "52:54:00:12:34", "52:54:00:12:34:5x", "525400123456", "1:2:3:4:5:6", "+1:-1:02:03:04:05"]
)
def test_malformed_mac_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a MAC address"):
        mac_bytes(text)


def test_group_address_is_no_guests_mac() -> None:
    with pytest.raises(ConfigError, match="group address"):
        mac_bytes("01:00:5e:00:00:01")


@pytest.mark.parametrize(
    "text", ["", "tcp:h:1", "udp:127.0.0.1", "udp::7", "udp:127.0.0.1:0", "udp:127.0.0.1:65536", "unix:"]
)
def test_malformed_address_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="udp:HOST:PORT or unix:PATH"):
        DatagramPort(text, text)


def test_cable_of_two_kinds_is_refused() -> None:
    with pytest.raises(ConfigError, match="of one kind"):
        DatagramPort("udp:127.0.0.1:7001", "unix:/nowhere")


def test_cables_are_written_in_three_ways() -> None:
    assert cable_ends("udp:7001:7002") == ("udp:127.0.0.1:7001", "udp:127.0.0.1:7002")
    assert cable_ends("udp:0.0.0.0:7001:10.0.0.2:7002") == ("udp:0.0.0.0:7001", "udp:10.0.0.2:7002")
    assert cable_ends("unix:/a:/b") == ("unix:/a", "unix:/b")
    with pytest.raises(ConfigError, match="not a cable"):
        cable_ends("7001:7002")
