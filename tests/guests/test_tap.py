"""A tap device as a guest's cable: frames in, frames out, and clear refusals."""

import os
import select
import socket
import struct
import subprocess
from array import array
from collections.abc import Iterator
from fcntl import ioctl

import pytest

from ftvm._native.netpump import attach_tap
from ftvm.checkpoint import Output
from ftvm.errors import ClosedError, ConfigError, TransportError
from ftvm.guests.datagram import CableWorld, announcement_frame, mac_bytes
from ftvm.guests.tap import TapPort

NAME = f"ftvm{os.getpid()}"
MAC = "52:54:00:12:34:56"
SET_FLAGS, UP = 0x8914, 1
ALL_PROTOCOLS = 3
ASK_DEVICE, ASK_CHECKSUMS = 0x8946, 0x16
FRAME = b"\xff" * 6 + mac_bytes(MAC) + b"\x88\xb5" + b"hello".ljust(46, b"\0")


@pytest.fixture
def port() -> Iterator[TapPort]:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root, and /dev/net/tun")
    made = TapPort(NAME)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        ioctl(asking, SET_FLAGS, struct.pack("16sH22x", NAME.encode(), UP))
    yield made
    made.close()


@pytest.fixture
def wire(port: TapPort) -> Iterator[socket.socket]:
    """The host's side of the interface, where a bridge would be."""
    del port
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as raw:
        raw.bind((NAME, 0))
        raw.settimeout(30)
        yield raw


def hear(wire: socket.socket, wanted: bytes) -> bytes:
    """Return the first frame that begins as wanted; the host itself speaks on a new interface, too."""
    while True:
        frame = wire.recv(2_000)
        if frame.startswith(wanted):
            return frame


def test_frames_go_out_and_the_address_is_announced(port: TapPort, wire: socket.socket) -> None:
    world = CableWorld(port, mac=MAC)

    world.release(Output(number=1, channel="net0", payload=FRAME))
    world.announce()

    assert hear(wire, FRAME) == FRAME
    assert hear(wire, announcement_frame(mac_bytes(MAC))) == announcement_frame(mac_bytes(MAC))
    assert port.counters.frames_sent == 3


def test_frames_come_in(port: TapPort, wire: socket.socket) -> None:
    world = CableWorld(port, mac=MAC)

    wire.send(FRAME)
    found: list[tuple[str, bytes]] = []
    while ("net0", FRAME) not in found:
        found += world.receive(64)

    assert world.fds() == (port.fileno(),)


def test_an_interface_that_is_down_drops(port: TapPort) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        ioctl(asking, SET_FLAGS, struct.pack("16sH22x", NAME.encode(), 0))

    assert not port.send(FRAME)
    assert port.counters.sends_dropped == 1
    assert FRAME not in port.receive(8)  # the host itself may have spoken before


def test_a_deleted_tap_is_waited_for_no_more_named_once_and_a_counted_drop(port: TapPort) -> None:
    """Regression: its descriptor is readable for ever, so the host's loop never slept again, and told nobody."""
    world = CableWorld(port, mac=MAC)
    before = (world.fds(), world.news())

    subprocess.run(["ip", "link", "del", NAME], check=True)
    select.select(world.fds(), (), ())
    world.receive(64)
    waited_for, told = world.fds(), world.news()
    world.release(Output(number=1, channel="net0", payload=FRAME))

    assert before == ((port.fileno(),), None)
    assert waited_for == ()
    assert told is not None
    assert told.startswith(f"the tap device {NAME} is gone (")
    assert world.news() is None
    assert list(world.receive(64)) == []
    assert port.counters.sends_dropped == 1


def leaves_checksums_out(name: str) -> bool:
    """Tell whether this host hands frames to the device whose checksum is still to be made (ethtool(8), tx)."""
    asked = array("I", [ASK_CHECKSUMS, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        ioctl(asking, ASK_DEVICE, struct.pack("16sQ16x", name.encode(), asked.buffer_info()[0]))
    return bool(asked[1])


def test_a_tap_that_a_pump_had_before_gets_whole_frames_again() -> None:
    """A tap that stays keeps what its last user could take: TCP without checksums would get no answer."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs root, and /dev/net/tun")
    name = f"ftvp{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
    try:
        pump = attach_tap(name)
        before = leaves_checksums_out(name)
        os.close(pump)

        port = TapPort(name)

        assert (before, leaves_checksums_out(name)) == (True, False)
        port.close()
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def test_a_closed_port_says_so(port: TapPort) -> None:
    port.close()
    port.close()

    with pytest.raises(ClosedError):
        port.fileno()


def test_an_interface_in_use_is_refused_with_how_to_make_one(port: TapPort) -> None:
    del port

    with pytest.raises(TransportError, match="ip tuntap add dev"):
        TapPort(NAME)


@pytest.mark.parametrize("name", ["", "a/b", "x" * 16])
def test_names_that_no_interface_has_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="tap:NAME"):
        TapPort(name)
