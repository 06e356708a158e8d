"""The guest programs' network stack, built for the host: what it answers, and what it drops in silence."""

import struct
from typing import Any

import pytest

STAT = 3


def test_arp_is_answered_for_our_address_only(peer: Any, server: Any) -> None:
    ours = server.answer(peer.arp())
    other = server.answer(peer.arp(target=bytes([10, 77, 0, 9])))

    head = peer.mac + peer.guest_mac + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2)
    assert ours == head + peer.guest_mac + peer.guest_ip + peer.mac + peer.ip
    assert other == b""


def test_an_arp_reply_is_not_answered(peer: Any, server: Any) -> None:
    assert server.answer(peer.arp(operation=2)) == b""


def test_the_address_is_announced_to_everybody(peer: Any, server: Any) -> None:
    frame = server.announcement()

    head = b"\xff" * 6 + peer.guest_mac + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    assert frame == head + peer.guest_mac + peer.guest_ip + bytes(6) + peer.guest_ip


def test_a_neighbour_that_moved_is_answered_where_arp_says_it_is(peer: Any, server: Any) -> None:
    elsewhere = bytes.fromhex("020000000055")
    server.answer(peer.arp(mac=elsewhere))

    answer = server.answer(peer.request(STAT))

    assert answer[:6] == elsewhere


def test_ping_comes_back_with_its_data(peer: Any, server: Any) -> None:
    answer = server.answer(peer.ping(b"all of this, and odd"))

    assert answer[34:36] == b"\0\0"
    assert answer[38:] == struct.pack(">HH", 77, 1) + b"all of this, and odd"


def test_a_ping_of_a_whole_frame_is_answered(peer: Any, server: Any) -> None:
    frame = peer.ping(bytes(1500 - 20 - 8))

    assert len(server.answer(frame)) == len(frame) == 1514


def test_padding_and_options_are_stepped_over(peer: Any, server: Any) -> None:
    request = peer.request(STAT)
    with_options = peer.frame(0x0800, peer.ip_packet(17, request[34:], options=b"\x01" * 8))

    assert peer.reply_in(server.answer(request + bytes(18))).number == 1
    assert peer.reply_in(server.answer(with_options)).number == 1


def test_a_datagram_without_checksum_is_taken(peer: Any, server: Any) -> None:
    payload = peer.request(STAT)[42:]

    answer = server.answer(peer.frame(0x0800, peer.ip_packet(17, peer.udp(payload, with_checksum=False))))

    assert peer.reply_in(answer).number == 1


def _drops(peer: Any) -> dict[str, bytes]:
    request = peer.request(STAT)
    udp, payload = request[34:], request[42:]

    def altered(offset: int, value: int) -> bytes:
        return request[:offset] + bytes([value]) + request[offset + 1 :]

    return {
        "another host's frame": peer.frame(0x0800, request[14:], to=b"\x02" + bytes(5)),
        "a broadcast IP packet": peer.frame(0x0800, request[14:], to=b"\xff" * 6),
        "a frame from a group": request[:6] + b"\x03" + request[7:],
        "IP version 6": altered(14, 0x65),
        "a header too short": altered(14, 0x44),
        "a wrong IP checksum": altered(24, request[24] ^ 1),
        "a packet longer than the frame": request[:-1],
        "a first fragment": peer.frame(0x0800, peer.ip_packet(17, udp, fragment=0x2000)),
        "a later fragment": peer.frame(0x0800, peer.ip_packet(17, udp, fragment=1)),
        "an unknown protocol": peer.frame(0x0800, peer.ip_packet(6, udp)),
        "a wrong UDP checksum": altered(len(request) - 1, request[-1] ^ 1),
        "another port": peer.frame(0x0800, peer.ip_packet(17, peer.udp(payload, port=7001))),
        "no port to answer to": peer.frame(0x0800, peer.ip_packet(17, peer.udp(payload, source_port=0))),
        "a wrong ping checksum": peer.ping(b"abc")[:-1] + b"x",
        "an unknown type": peer.frame(0x86DD, request[14:]),
        "nothing": b"",
    }


def test_what_is_not_for_us_or_not_whole_is_dropped_in_silence(peer: Any, server: Any) -> None:
    for what, frame in _drops(peer).items():
        assert server.answer(frame) == b"", what


@pytest.mark.parametrize("source", [bytes(4), bytes([224, 0, 0, 1]), b"\xff" * 4, bytes([10, 77, 0, 2])])
def test_a_source_that_is_no_other_host_is_dropped(peer: Any, server: Any, source: bytes) -> None:
    liar = type(peer)(ip=source)

    assert server.answer(liar.request(STAT)) == b""
