"""Many datagrams by one call, against a plain socket at the other end."""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftvm._native.datagrams import Datagrams

LONGEST = 65_507
"""What UDP over IPv4 carries."""


class Ends:
    """One port with two sockets: ours, which Datagrams uses, and the other's."""

    def __init__(self) -> None:
        self.ours, self.others = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for each in (self.ours, self.others):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            each.bind(("127.0.0.1", 0))
            each.settimeout(30)
        port = self.others.getsockname()[1]
        address = struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
        self.datagrams = Datagrams(address, from_there_alone=True)
        self.here = self.ours.getsockname()

    def close(self) -> None:
        self.ours.close()
        self.others.close()

    def receive(self, limit: int) -> tuple[list[bytes], int]:
        return self.datagrams.receive(self.ours.fileno(), limit)

    def send(self, *contents: bytes) -> tuple[int, int]:
        return self.datagrams.send(self.ours.fileno(), b"".join(contents), [len(content) for content in contents])


@pytest.fixture
def ends() -> Iterator[Ends]:
    opened = Ends()
    yield opened
    opened.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(contents=st.lists(st.binary(max_size=300), max_size=150))
def test_datagrams_cross_whole_and_in_order_both_ways(ends: Ends, contents: list[bytes]) -> None:
    sent = ends.send(*contents)
    arrived = [ends.others.recv(1 << 16) for _ in contents]
    for content in contents:
        ends.others.sendto(content, ends.here)

    received = ends.receive(1_000)

    assert sent == (len(contents), sum(map(len, contents)))
    assert arrived == contents
    assert received == (contents, 0)


def test_no_more_is_taken_than_was_asked_for(ends: Ends) -> None:
    for number in range(150):
        ends.others.sendto(bytes([number]), ends.here)

    taken = [len(ends.receive(limit)[0]) for limit in (1, 100, 0, 100)]

    assert taken == [1, 100, 0, 49]


def test_what_is_too_long_is_dropped_and_what_follows_it_leaves(ends: Ends) -> None:
    sent = ends.send(b"first", bytes(LONGEST + 1), b"second", bytes(LONGEST + 1))

    assert sent == (2, 11)
    assert [ends.others.recv(64) for _ in range(2)] == [b"first", b"second"]


def test_the_longest_datagram_comes_whole(ends: Ends) -> None:
    content = bytes(range(251)) * (LONGEST // 251)
    ends.others.sendto(content, ends.here)

    assert ends.receive(8) == ([content], 0)


def test_datagrams_of_others_are_refused_and_count_towards_the_limit(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(3):
            stranger.sendto(b"x", ends.here)
    ends.others.sendto(b"ours", ends.here)

    assert ends.receive(2) == ([], 2)
    assert ends.receive(2) == ([b"ours"], 1)


def test_an_error_of_an_earlier_send_does_not_hide_what_has_come(ends: Ends) -> None:
    ends.others.sendto(b"before it went", ends.here)
    ends.others.close()
    ends.send(b"to nobody")

    assert ends.receive(8)[0] == [b"before it went"]


def test_nothing_leaves_to_an_address_that_is_none(ends: Ends) -> None:
    assert Datagrams(bytes(500), from_there_alone=False).send(ends.ours.fileno(), b"xy", [1, 1]) == (0, 0)
