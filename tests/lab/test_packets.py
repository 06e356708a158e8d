from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import BadFrame
from ftvm.lab.packets import ARP_REQUEST, Arp, EtherType, Frame, Ipv4, Udp, checksum

macs = st.binary(min_size=6, max_size=6)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
ports = st.integers(0, 65_535)
payloads = st.binary(max_size=300)
frames = st.builds(Frame, destination=macs, source=macs, ethertype=ports, payload=payloads)
arps = st.builds(Arp, operation=ports, sender_mac=macs, sender_ip=addresses, target_mac=macs, target_ip=addresses)
packets = st.builds(
    Ipv4,
    source=addresses,
    destination=addresses,
    protocol=st.integers(0, 255),
    payload=payloads,
    time_to_live=st.integers(0, 255),
)
datagrams = st.builds(Udp, source_port=ports, destination_port=ports, payload=payloads)

HERE = IPv4Address("10.77.0.9")
THERE = IPv4Address("10.77.0.2")


def sum_word_by_word(data: bytes) -> int:
    total = 0
    for first, second in zip(data[::2], (*data[1::2], 0), strict=False):
        total += first << 8 | second
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(frames)
def test_frame_survives_its_bytes_up_to_padding(frame: Frame) -> None:
    decoded = Frame.decode(frame.encode())

    assert (decoded.destination, decoded.source, decoded.ethertype) == (
        frame.destination,
        frame.source,
        frame.ethertype,
    )
    assert decoded.payload == frame.payload.ljust(46, b"\0")


@given(arps, payloads)
def test_arp_survives_its_bytes_and_any_padding(arp: Arp, padding: bytes) -> None:
    assert Arp.decode(arp.encode() + padding) == arp


@given(packets, payloads)
def test_ipv4_survives_its_bytes_and_any_padding(packet: Ipv4, padding: bytes) -> None:
    assert Ipv4.decode(packet.encode() + padding) == packet


@given(datagrams, addresses, addresses, payloads)
def test_udp_survives_its_bytes_and_any_padding(
    datagram: Udp, source: IPv4Address, destination: IPv4Address, padding: bytes
) -> None:
    assert Udp.decode(datagram.encode(source, destination) + padding, source, destination) == datagram


@given(packets, st.integers(0, 19 * 8 + 7))
def test_one_flipped_bit_in_an_ipv4_header_is_found(packet: Ipv4, bit: int) -> None:
    damaged = bytearray(packet.encode())
    damaged[bit // 8] ^= 1 << bit % 8

    with pytest.raises(BadFrame):
        Ipv4.decode(bytes(damaged))


@given(datagrams, st.data())
def test_one_flipped_bit_of_a_udp_datagram_outside_its_length_is_found(datagram: Udp, data: st.DataObject) -> None:
    encoded = bytearray(datagram.encode(HERE, THERE))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1).filter(lambda bit: bit // 8 not in (4, 5)))
    encoded[bit // 8] ^= 1 << bit % 8

    if encoded[6:8] == bytes(2):  # the flip made it say "no checksum"
        return
    with pytest.raises(BadFrame):
        Udp.decode(bytes(encoded), HERE, THERE)


@given(st.binary(max_size=80))
def test_any_bytes_decode_to_a_value_or_a_bad_frame(data: bytes) -> None:
    for decode in (Frame.decode, Arp.decode, Ipv4.decode, lambda raw: Udp.decode(raw, HERE, THERE)):
        with suppress(BadFrame):
            assert decode(data) is not None


@given(payloads)
def test_checksum_is_the_sum_that_the_standard_describes(data: bytes) -> None:
    assert checksum(data) == sum_word_by_word(data)


def test_checksum_matches_the_worked_example_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


def test_fragment_is_refused() -> None:
    encoded = bytearray(Ipv4(source=HERE, destination=THERE, protocol=17, payload=b"x").encode())
    encoded[6] = 0x20
    encoded[10:12] = bytes(2)
    encoded[10:12] = checksum(bytes(encoded[:20])).to_bytes(2, "big")

    with pytest.raises(BadFrame, match="fragment"):
        Ipv4.decode(bytes(encoded))


def test_arp_request_is_laid_out_as_rfc_826_says() -> None:
    mac = bytes.fromhex("525400000009")
    arp = Arp(operation=ARP_REQUEST, sender_mac=mac, sender_ip=HERE, target_mac=bytes(6), target_ip=THERE)
    frame = Frame(destination=b"\xff" * 6, source=mac, ethertype=EtherType.ARP, payload=arp.encode())

    assert (
        frame.encode().hex()
        == ("ffffffffffff525400000009080600010800060400015254000000090a4d00090000000000000a4d0002") + "00" * 18
    )
