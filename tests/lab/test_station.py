from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from ftvm.lab.packets import BROADCAST, EtherType, Frame
from ftvm.lab.station import Heard, Station, UdpAddress
from ftvm.units import Nanos

MS = 1_000_000
NOW = Nanos(7_000 * MS)


def introduce(asker: Station, other: Station) -> None:
    """Let one station find the other by ARP."""
    (question,) = asker.send(b"", NOW)
    (answer,) = other.hear(question).frames
    asker.hear(answer)


def test_peer_is_asked_for_before_the_first_payload(client_station: Station) -> None:
    frames = client_station.send(b"hello", NOW)

    question = Frame.decode(frames[0])
    assert (question.destination, question.ethertype) == (BROADCAST, EtherType.ARP)


def test_question_is_repeated_no_faster_than_its_interval(client_station: Station) -> None:
    asked = [len(client_station.send(b"hello", Nanos(NOW + ms * MS))) for ms in (0, 10, 49, 50, 60)]

    assert asked == [1, 0, 0, 1, 0]


@given(st.binary(max_size=300))
def test_payload_reaches_the_peer_whole(payload: bytes) -> None:
    here = UdpAddress(ip=IPv4Address("10.0.0.1"), port=1)
    there = UdpAddress(ip=IPv4Address("10.0.0.2"), port=2)
    one = Station(mac=b"\x02aaaaa", here=here, peer=there)
    two = Station(mac=b"\x02bbbbb", here=there, peer=here)
    introduce(one, two)

    (frame,) = one.send(payload, NOW)

    assert two.hear(frame) == Heard(payloads=(payload,))


def test_who_asks_is_known_without_asking_back(client_station: Station, guest_station: Station) -> None:
    introduce(client_station, guest_station)

    (frame,) = guest_station.send(b"answer", NOW)

    assert client_station.hear(frame) == Heard(payloads=(b"answer",))


def test_frame_to_another_card_is_left_alone(client_station: Station, guest_station: Station) -> None:
    introduce(client_station, guest_station)
    (frame,) = client_station.send(b"hello", NOW)

    misled = replace(Frame.decode(frame), destination=b"\x02other").encode()

    assert guest_station.hear(misled) == Heard()
    assert guest_station.frames_refused == 0


def test_datagram_to_another_port_is_left_alone(client_station: Station) -> None:
    elsewhere = Station(
        mac=b"\x02guest",
        here=UdpAddress(ip=IPv4Address("10.77.0.2"), port=7001),
        peer=UdpAddress(ip=IPv4Address("10.77.0.9"), port=40_000),
    )
    introduce(elsewhere, client_station)

    (frame,) = elsewhere.send(b"hello", NOW)

    assert client_station.hear(frame) == Heard()


@given(st.binary(max_size=120))
def test_any_frame_is_harmless(data: bytes) -> None:
    station = Station(
        mac=b"\x02aaaaa",
        here=UdpAddress(ip=IPv4Address("10.0.0.1"), port=1),
        peer=UdpAddress(ip=IPv4Address("10.0.0.2"), port=2),
    )

    for frame in (data, b"\x02aaaaa" + b"\x02bbbbb" + b"\x08\x06" + data, b"\x02aaaaa" + b"\x02bbbbb\x08\x00" + data):
        assert station.hear(frame).payloads == ()
