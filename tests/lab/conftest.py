"""A key-value guest in a few lines of Python: what the compiled one answers, for tests that need no machine."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from ftvm.lab.kv import Operation, Reply, ReplyStatus, Request
from ftvm.lab.station import Station, UdpAddress

GUEST_MAC = bytes.fromhex("525400770002")
CLIENT_MAC = bytes.fromhex("525400770009")
GUEST_END = UdpAddress(ip=IPv4Address("10.77.0.2"), port=7000)
CLIENT_END = UdpAddress(ip=IPv4Address("10.77.0.9"), port=40_000)


class FakeGuest:
    """Applies requests at most once and answers a repeated one with the bytes it gave first."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.last: dict[int, Reply] = {}
        self.uptime = 1_000
        self.writes = 0
        self.asked: list[Request] = []

    def answer(self, payload: bytes) -> bytes:
        request = Request.decode(payload)
        self.asked.append(request)
        self.uptime += 100
        last = self.last.get(request.client)
        if last is not None and last.number == request.number:
            return last.encode()
        if last is not None and last.number > request.number:
            return replace(last, status=ReplyStatus.STALE, number=request.number, value=b"").encode()
        value = b""
        status = ReplyStatus.OK
        if request.operation is Operation.PUT:
            self.values[request.key] = request.value
            self.writes += 1
        elif request.key in self.values:
            value = self.values[request.key]
        else:
            status = ReplyStatus.NOT_FOUND
        reply = Reply(
            status=status,
            client=request.client,
            number=request.number,
            uptime=self.uptime,
            boot=1,
            writes=self.writes,
            value=value,
        )
        self.last[request.client] = reply
        return reply.encode()


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture(scope="session")
def make_guest() -> Callable[[], FakeGuest]:
    return FakeGuest


@pytest.fixture
def guest_station() -> Station:
    return Station(mac=GUEST_MAC, here=GUEST_END, peer=CLIENT_END)


@pytest.fixture
def client_station() -> Station:
    return Station(mac=CLIENT_MAC, here=CLIENT_END, peer=GUEST_END)
