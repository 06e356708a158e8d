"""The client in C says what the lab's protocol says, and counts what it has to ask twice."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest
import wire
from figures import between, bucket_of, middle_of, percentile

from ftvm.lab.kv import KV_PORT, Operation, Reply, ReplyStatus, Request
from ftvm.lab.packets import PROTOCOL_UDP, EtherType, Frame, Ipv4, Udp
from ftvm.lab.stage import free_ports

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc was not found")
SECONDS = 60


@contextmanager
def started(*words: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([wire.wire_program(), *words], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_of(process: "subprocess.Popen[str]") -> Iterator[dict[str, object]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def request_in(frame: bytes) -> tuple[Frame, Ipv4, Request]:
    ethernet = Frame.decode(frame)
    assert ethernet.ethertype == EtherType.IPV4
    packet = Ipv4.decode(ethernet.payload)
    assert packet.protocol == PROTOCOL_UDP
    datagram = Udp.decode(packet.payload, packet.source, packet.destination)
    assert datagram.destination_port == KV_PORT
    return ethernet, packet, Request.decode(datagram.payload)


def answer_to(frame: bytes) -> bytes:
    ethernet, packet, request = request_in(frame)
    reply = Reply(status=ReplyStatus.OK, client=request.client, number=request.number, uptime=1, boot=2, writes=3)
    datagram = Udp(source_port=KV_PORT, destination_port=40_000, payload=reply.encode())
    content = datagram.encode(packet.destination, packet.source)
    back = Ipv4(source=packet.destination, destination=packet.source, protocol=PROTOCOL_UDP, payload=content)
    ends = {"destination": ethernet.source, "source": ethernet.destination}
    return Frame(**ends, ethertype=EtherType.IPV4, payload=back.encode()).encode()


@contextmanager
def asked_guest(clients: int) -> Iterator[tuple["subprocess.Popen[str]", socket.socket]]:
    """Start clients, and give the socket at which they ask."""
    client_port, guest_port = free_ports(socket.SOCK_DGRAM, 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        guest.bind(("127.0.0.1", guest_port))
        guest.settimeout(SECONDS)
        with started("kv", str(client_port), str(guest_port), str(clients)) as process:
            yield process, guest


@needs_compiler
def test_its_requests_are_what_the_lab_s_decoders_take() -> None:
    with asked_guest(2) as (_, guest):
        seen = []
        for _ in range(12):
            frame, sender = guest.recvfrom(2048)
            seen.append(request_in(frame))
            guest.sendto(answer_to(frame), sender)

    assert {packet.source for _, packet, _ in seen} == {IPv4Address("10.77.0.9")}
    assert {request.operation for *_, request in seen} == {Operation.PUT, Operation.GET}
    for client in {request.client for *_, request in seen}:
        numbers = [request.number for *_, request in seen if request.client == client]
        assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))


@needs_compiler
def test_a_request_that_is_not_answered_is_repeated_as_it_was_and_counted() -> None:
    with asked_guest(1) as (process, guest):
        first, again = guest.recv(2048), guest.recv(2048)
        repeated = next(line["repeated"] for line in lines_of(process) if line["repeated"])

    assert first == again
    assert repeated


@needs_compiler
def test_each_answer_is_counted_once_and_its_latency_with_it() -> None:
    with asked_guest(1) as (process, guest):
        for _ in range(5):
            frame, sender = guest.recvfrom(2048)
            for _ in range(2):  # an answer that comes twice
                guest.sendto(answer_to(frame), sender)
        line = next(line for line in lines_of(process) if line["answered"] == 5)

    latencies = line["latencies"]
    assert isinstance(latencies, dict)
    assert sum(latencies.values()) == 5


@needs_compiler
def test_requests_follow_a_guest_to_the_port_that_it_speaks_from() -> None:
    with asked_guest(1) as (_, guest), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as moved:
        moved.bind(("127.0.0.1", 0))
        moved.settimeout(SECONDS)
        _, sender = guest.recvfrom(2048)

        moved.sendto(b"\xff" * 60, sender)  # as a host announces a guest after a takeover
        frame = moved.recv(2048)

    assert request_in(frame)[2].number == 1


@needs_compiler
def test_its_histograms_are_those_of_the_statistics() -> None:
    with started("tcp-echo") as echo:
        port = str(next(lines_of(echo))["port"])
        with started("tcp-ping", port, "50") as ping:
            told = next(lines_of(ping))["round_trips"]

    assert isinstance(told, dict)
    counts = between({}, told)
    assert sum(counts.values()) == 50
    median = percentile(counts, 50)
    assert median is not None
    assert bucket_of(int(median)) in counts
    assert middle_of(min(counts)) > 1000, "no round trip takes less than a microsecond: the buckets are of nanoseconds"


@needs_compiler
@pytest.mark.parametrize("words", [(), ("kv", "1"), ("kv", "x", "1", "1"), ("kv", "70000", "1", "1")])
def test_what_it_does_not_understand_it_refuses(words: tuple[str, ...]) -> None:
    done = subprocess.run([wire.wire_program(), *words], capture_output=True, check=False, timeout=SECONDS)

    assert done.returncode == 2
    assert done.stderr


def test_without_a_compiler_the_reason_is_named() -> None:
    with pytest.raises(wire.NotBuiltError, match="no C compiler: no-such-cc was not found"):
        wire.wire_program("no-such-cc")


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FLAGS", ["-DBUILT_BY_NOBODY"])

    with pytest.raises(wire.NotBuiltError, match="false failed"):
        wire.wire_program("false")
