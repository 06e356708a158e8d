"""Recordings for the tests: of a few instructions, and of the kv guest serving requests."""

import random
import shutil
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, MachineShape, StopReason
from ftvm.guests.riscv.programs import read_program
from ftvm.history.recording import RecordedMachine, Recording
from ftvm.lab.kv import KV_PORT, Operation, Request
from ftvm.lab.packets import (
    ARP_REQUEST,
    BROADCAST,
    PROTOCOL_UDP,
    Arp,
    EtherType,
    Frame,
    Ipv4,
    Udp,
)

from ..guests.riscv.assembly import SMALL, elf, to_bytes

GUESTS = Path(__file__).parents[2] / "examples" / "guests"
COMPILER = "riscv64-unknown-elf-gcc"
MAC = bytes.fromhex("525400123456")
CLIENT_MAC = bytes.fromhex("020000000001")
CLIENT_IP, GUEST_IP = IPv4Address("10.77.0.9"), IPv4Address("10.77.0.2")
NET = MachineShape(ram_bytes=16 << 20, mac=MAC)


def recorded(image: bytes, shape: MachineShape) -> RecordedMachine:
    machine = RecordedMachine(shape)
    machine.boot(parse_elf(image, ram_base=RAM_BASE, ram_bytes=shape.ram_bytes))
    machine.begin()
    return machine


def recorded_words(words: Sequence[int]) -> RecordedMachine:
    return recorded(elf(to_bytes(words)), SMALL)


def request_frame(request: Request) -> bytes:
    udp = Udp(source_port=5000, destination_port=KV_PORT, payload=request.encode())
    payload = udp.encode(CLIENT_IP, GUEST_IP)
    packet = Ipv4(source=CLIENT_IP, destination=GUEST_IP, protocol=PROTOCOL_UDP, payload=payload)
    frame = Frame(destination=MAC, source=CLIENT_MAC, ethertype=EtherType.IPV4, payload=packet.encode())
    return frame.encode()


def arp_frame() -> bytes:
    question = Arp(
        operation=ARP_REQUEST, sender_mac=CLIENT_MAC, sender_ip=CLIENT_IP, target_mac=bytes(6), target_ip=GUEST_IP
    )
    frame = Frame(destination=BROADCAST, source=CLIENT_MAC, ethertype=EtherType.ARP, payload=question.encode())
    return frame.encode()


def kv_past(requests: int, *, image: bytes | None = None, seed: int = 1) -> Recording:
    """Record the kv guest answering so many requests, one after the other, with a wait before each."""
    machine = recorded(image or read_program("kv"), NET)
    rng = random.Random(seed)
    frames = [arp_frame(), *kv_requests(requests, rng)]
    while True:
        stop = machine.run(1_000_000)
        machine.take_outputs()
        if stop is not StopReason.IDLE:
            assert stop in (StopReason.LIMIT, StopReason.OUTPUT), stop
            continue
        if not frames:
            return machine.recording()
        ticks = rng.randrange(2_000, 40_000)
        most = machine.idle_max()
        machine.idle(ticks if most is None else min(ticks, most))
        assert machine.receive_frame(frames.pop(0))


def kv_requests(count: int, rng: random.Random | None = None) -> list[bytes]:
    """Return the frames of so many requests."""
    rng = rng or random.Random(1)
    return [request_frame(_request(rng, number)) for number in range(1, count + 1)]


def _request(rng: random.Random, number: int) -> Request:
    is_put = rng.random() < 0.5
    return Request(
        operation=Operation.PUT if is_put else Operation.GET,
        client=rng.randrange(16),
        number=number,
        key=b"key%d" % rng.randrange(300),
        value=rng.randbytes(rng.randrange(1, 200)) if is_put else b"",
    )


def built_with_symbols(folder: Path, name: str = "kv") -> Path:
    """Build a guest program with symbols and line numbers; skip where no compiler is."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"needs {COMPILER} (Debian: gcc-riscv64-unknown-elf)")
    subprocess.run(
        ["make", "-s", "-C", GUESTS, "DEBUG=1", f"OUT={folder}", f"{folder}/{name}.elf"], check=True, timeout=300
    )
    return folder / f"{name}.elf"
