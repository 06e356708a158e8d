import json
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest

from ftvm.guests.datagram import DatagramPort, cable_ends
from ftvm.lab.client import Client
from ftvm.lab.load import Workload
from ftvm.lab.stage import free_ports
from ftvm.lab.station import Station
from ftvm.units import Nanos

MS = 1_000_000
START = Nanos(9_000 * MS)
JsonLine = dict[str, Any]


class Guest(Protocol):
    values: dict[bytes, bytes]

    def answer(self, payload: bytes) -> bytes: ...


def serve(port: DatagramPort, station: Station, guest: Guest, now: Nanos) -> None:
    """Answer what has come, as a guest behind its network card."""
    for frame in port.receive(100):
        heard = station.hear(frame)
        answers = [answer for payload in heard.payloads for answer in station.send(guest.answer(payload), now)]
        for reply in (*heard.frames, *answers):
            port.send(reply)


@pytest.fixture
def ports() -> Iterator[tuple[DatagramPort, DatagramPort]]:
    first, second = free_ports(socket.SOCK_DGRAM, 2)
    ends = cable_ends(f"udp:{first}:{second}")
    here, there = DatagramPort(*ends), DatagramPort(*reversed(ends))
    yield here, there
    here.close()
    there.close()


def test_client_finds_its_guest_and_keeps_it_busy(
    ports: tuple[DatagramPort, DatagramPort], client_station: Station, guest_station: Station, guest: Guest
) -> None:
    load = Workload(START, seed=1, clients=4)
    client = Client(ports[0], client_station, load)

    for ms in range(200):
        now = Nanos(START + ms * MS)
        client.step(now)
        serve(ports[1], guest_station, guest, now)

    assert load.counters.acknowledged >= 4 * 15
    assert load.counters.refused == 0
    assert client.status(Nanos(START + 200 * MS))["requests_acknowledged"] == load.counters.acknowledged


def test_first_answer_after_a_silence_is_told(
    ports: tuple[DatagramPort, DatagramPort], client_station: Station, guest_station: Station, guest: Guest
) -> None:
    client = Client(ports[0], client_station, Workload(START, seed=1, clients=2))
    for ms in range(500):
        now = Nanos(START + ms * MS)
        client.step(now)
        if not 200 <= ms < 400:
            serve(ports[1], guest_station, guest, now)

    killed_at = START + 210 * MS
    answered_at = client.first_answer_since(killed_at)

    assert answered_at is not None
    assert answered_at >= START + 400 * MS
    assert client.first_answer_since(START + 500 * MS) is None


def test_longest_gap_counts_the_time_before_the_first_answer_and_after_the_last(
    ports: tuple[DatagramPort, DatagramPort], client_station: Station, guest_station: Station, guest: Guest
) -> None:
    client = Client(ports[0], client_station, Workload(START, seed=1, clients=2))
    for ms in range(500):
        now = Nanos(START + ms * MS)
        client.step(now)
        if 100 <= ms < 300:
            serve(ports[1], guest_station, guest, now)

    within, answers = client.longest_gap(START + 200 * MS, Nanos(START + 250 * MS))
    after, _ = client.longest_gap(START + 200 * MS, Nanos(START + 500 * MS))

    assert answers > 0
    assert within <= 50 * MS
    assert after >= 199 * MS


class Driven:
    """A client process, with a guest on the other end of its cable."""

    def __init__(self, process: subprocess.Popen[bytes], port: DatagramPort, station: Station, guest: Guest) -> None:
        self.process = process
        self.port = port
        self.station = station
        self.guest = guest
        self._unread = b""

    def tell(self, **command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def lines_until(self, key: str) -> list[JsonLine]:
        """Serve the guest until the client printed a line with `key`, or went silent for long."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.port, selectors.EVENT_READ)
            selector.register(self.process.stdout, selectors.EVENT_READ)
            seen: list[JsonLine] = []
            for _ in range(200_000):
                if not selector.select(10):
                    break
                serve(self.port, self.station, self.guest, START)
                for ready, _ in selector.select(0):
                    if ready.fileobj is self.process.stdout:
                        seen += self._read_lines()
                if any(key in line for line in seen):
                    return seen
        raise AssertionError(f"no line with {key!r} among {seen[-5:]}")

    def _read_lines(self) -> list[JsonLine]:
        assert self.process.stdout is not None
        *lines, self._unread = (self._unread + self.process.stdout.read1(65_536)).split(b"\n")  # type: ignore[attr-defined]
        return [json.loads(line) for line in lines]


@contextmanager
def driven_client(guest_station: Station, guest: Guest) -> Iterator[Driven]:
    here, there = free_ports(socket.SOCK_DGRAM, 2)
    port = DatagramPort(*cable_ends(f"udp:{there}:{here}"))
    command = [
        sys.executable,
        "-P",
        "-m",
        "ftvm.lab.client",
        "--nic",
        f"udp:{here}:{there}",
        "--driven",
        "--clients",
        "2",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield Driven(process, port, guest_station, guest)
        finally:
            process.kill()
            port.close()


def test_driven_client_answers_a_watch_and_judges_when_stopped(guest_station: Station, guest: Guest) -> None:
    with driven_client(guest_station, guest) as driven:
        driven.lines_until("status")
        driven.tell(watch=0)
        watched = driven.lines_until("watch")[-1]
        driven.tell(stop=True)
        verdict = driven.lines_until("verdict")[-1]["verdict"]

        assert driven.process.wait(30) == 0

    assert watched["answered_at"] > 0
    assert verdict["requests_acknowledged"] > 0
    assert (verdict["acknowledged_lost"], verdict["contradicted"], verdict["unanswered"]) == (0, 0, 0)


def test_driven_client_fails_when_the_guest_forgot(guest_station: Station, guest: Guest) -> None:
    with driven_client(guest_station, guest) as driven:
        driven.tell(watch=0)
        driven.lines_until("watch")
        for _ in range(5):
            driven.lines_until("status")
        guest.values.clear()
        driven.tell(stop=True)
        verdict = driven.lines_until("verdict")[-1]["verdict"]

        assert driven.process.wait(30) == 1

    assert verdict["acknowledged_lost"] > 0
    assert verdict["findings"]


def test_client_judges_without_an_audit_where_the_guest_is_gone(guest_station: Station, guest: Guest) -> None:
    with driven_client(guest_station, guest) as driven:
        driven.tell(watch=0)
        driven.lines_until("watch")
        driven.tell(gap=0)
        gap = driven.lines_until("gap")[-1]
        driven.tell(judge=True)
        verdict = driven.lines_until("verdict")[-1]["verdict"]

    assert gap["answers"] > 0
    assert verdict["requests_acknowledged"] > 0
    assert (verdict["acknowledged_lost"], verdict["contradicted"]) == (0, 0)


def test_client_ends_with_the_program_that_drives_it(guest_station: Station, guest: Guest) -> None:
    with driven_client(guest_station, guest) as driven:
        driven.lines_until("status")
        assert driven.process.stdin is not None
        driven.process.stdin.close()

        assert driven.process.wait(30) == 1


def test_client_ends_on_a_signal(guest_station: Station, guest: Guest) -> None:
    with driven_client(guest_station, guest) as driven:
        driven.lines_until("status")
        driven.process.send_signal(signal.SIGTERM)

        assert driven.process.wait(30) == 1


def test_malformed_cable_is_an_error_message_and_no_traceback() -> None:
    command = [sys.executable, "-P", "-m", "ftvm.lab.client", "--nic", "7001:7002"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith("client: '7001:7002' is not a cable")
    assert "Traceback" not in ended.stderr
