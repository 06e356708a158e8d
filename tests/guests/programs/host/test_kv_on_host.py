"""The key-value server's network half, built for the host with sanitizers: its protocol, and no frame breaks it."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OK, NOT_FOUND, BAD_REQUEST, FULL, STALE = range(5)
PUT, GET, STAT = 1, 2, 3

same_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)


def test_a_get_returns_what_was_put_last(peer: Any, server: Any) -> None:
    server.answer(peer.request(PUT, b"colour", b"red", number=1))
    server.answer(peer.request(PUT, b"colour", b"blue-green", number=2))

    reply = peer.reply_in(server.answer(peer.request(GET, b"colour", number=3)))

    assert reply == (OK, 1, 3, reply.uptime, 7, 2, b"blue-green")


def test_an_unknown_key_is_not_found(peer: Any, server: Any) -> None:
    reply = peer.reply_in(server.answer(peer.request(GET, b"nothing")))

    assert (reply.status, reply.value) == (NOT_FOUND, b"")


def test_a_repeated_request_gets_the_same_bytes_and_acts_once(peer: Any, server: Any) -> None:
    request = peer.request(PUT, b"k", b"1", client=5, number=9)
    first = server.answer(request)
    server.answer(peer.request(PUT, b"k", b"2", client=6, number=1))

    again = server.answer(request)

    assert again == first
    assert peer.reply_in(server.answer(peer.request(GET, b"k", client=6, number=2))).value == b"2"


def test_a_lower_number_is_stale_and_does_nothing(peer: Any, server: Any) -> None:
    server.answer(peer.request(PUT, b"k", b"new", number=9))

    reply = peer.reply_in(server.answer(peer.request(PUT, b"k", b"old", number=8)))

    assert (reply.status, reply.number, reply.writes) == (STALE, 8, 1)
    assert peer.reply_in(server.answer(peer.request(GET, b"k", number=10))).value == b"new"


def test_stat_describes_the_server_in_words(peer: Any, server: Any) -> None:
    server.answer(peer.request(PUT, b"k", b"v"))

    reply = peer.reply_in(server.answer(peer.request(STAT, number=2)))

    assert reply.value == b"keys 1 of 16384, writes 1, clients 1"


def test_the_longest_silent_client_is_forgotten_first(peer: Any, server: Any) -> None:
    for client in range(256):
        server.answer(peer.request(PUT, b"k", b"v", client=client, number=10))
    server.answer(peer.request(STAT, client=0, number=11))
    server.answer(peer.request(STAT, client=1000, number=1))

    spoke_lately = peer.reply_in(server.answer(peer.request(STAT, client=0, number=1)))
    was_forgotten = peer.reply_in(server.answer(peer.request(STAT, client=1, number=1)))

    assert (spoke_lately.status, was_forgotten.status) == (STALE, OK)


def test_a_full_table_takes_known_keys_but_no_new_one(peer: Any, server: Any) -> None:
    for number in range(1, 16385):
        server.answer(peer.request(PUT, b"key %d" % number, b"v", number=number))

    fresh = peer.reply_in(server.answer(peer.request(PUT, b"one more", b"v", number=20001)))
    known = peer.reply_in(server.answer(peer.request(PUT, b"key 77", b"w", number=20002)))

    assert (fresh.status, known.status, known.writes) == (FULL, OK, 16385)
    assert peer.reply_in(server.answer(peer.request(GET, b"key 77", number=20003))).value == b"w"


@pytest.mark.parametrize(
    ("what", "header", "rest"),
    [
        ("another version", (0x46544B56, 2, GET, 1, 5, 6, 0, 0), b"k"),
        ("an unknown operation", (0x46544B56, 1, 4, 1, 5, 6, 0, 0), b"k"),
        ("a key too long", (0x46544B56, 1, GET, 33, 5, 6, 0, 0), b"k" * 33),
        ("no key", (0x46544B56, 1, PUT, 0, 5, 6, 1, 0), b"v"),
        ("a value too long", (0x46544B56, 1, PUT, 1, 5, 6, 257, 0), b"k" + b"v" * 257),
        ("a GET with a value", (0x46544B56, 1, GET, 1, 5, 6, 1, 0), b"kv"),
        ("a STAT with a key", (0x46544B56, 1, STAT, 1, 5, 6, 0, 0), b"k"),
        ("a reserved field in use", (0x46544B56, 1, GET, 1, 5, 6, 0, 1), b"k"),
        ("a byte too many", (0x46544B56, 1, GET, 1, 5, 6, 0, 0), b"kk"),
        ("a byte too few", (0x46544B56, 1, PUT, 1, 5, 6, 2, 0), b"kv"),
    ],
)
def test_a_malformed_request_is_refused_and_not_remembered(
    peer: Any, server: Any, what: str, header: tuple[int, ...], rest: bytes
) -> None:
    reply = peer.reply_in(server.answer(peer.datagram(struct.pack(">IBBHQQHH", *header) + rest)))

    assert (reply.status, reply.client, reply.number, reply.writes) == (BAD_REQUEST, 5, 6, 0), what
    assert peer.reply_in(server.answer(peer.request(STAT, client=5, number=1))).status == OK


@pytest.mark.parametrize("payload", [b"", b"FTK", b"FTKV" + bytes(23), b"FTKR" + bytes(40)])
def test_what_is_no_request_at_all_gets_no_answer(peer: Any, server: Any, payload: bytes) -> None:
    assert server.answer(peer.datagram(payload)) == b""


operations = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b", b"c" * 32]), st.binary(max_size=256) | st.none()),
    max_size=40,
)


@settings(max_examples=50)
@given(steps=operations, repeats=st.lists(st.booleans(), min_size=40, max_size=40))
def test_replies_are_those_of_a_dictionary_however_often_requests_repeat(
    peer: Any, make_server: Callable[[], Any], steps: list[Any], repeats: list[bool]
) -> None:
    server = make_server()
    model: dict[bytes, bytes] = {}
    writes = 0

    for number, (client, key, value) in enumerate(steps, start=1):
        if value is None:
            request = peer.request(GET, key, client=client, number=number)
            expected = (OK, model[key]) if key in model else (NOT_FOUND, b"")
        else:
            request = peer.request(PUT, key, value, client=client, number=number)
            model[key] = value
            writes += 1
            expected = (OK, b"")
        answer = server.answer(request)
        reply = peer.reply_in(answer)

        assert (reply.status, reply.value, reply.writes) == (*expected, writes)
        if repeats[number - 1]:
            assert server.answer(request) == answer
    server.close()


@same_server
@given(st.binary(max_size=1600))
def test_any_frame_is_survived(peer: Any, server: Any, frame: bytes) -> None:
    server.answer(frame)

    assert peer.reply_in(server.answer(peer.request(STAT, client=99, number=1))).status == OK


@same_server
@given(st.data())
def test_any_altered_or_truncated_frame_is_survived(peer: Any, server: Any, data: st.DataObject) -> None:
    frames = [
        peer.arp(),
        peer.ping(b"some data"),
        peer.request(PUT, b"key", b"value", number=3),
        peer.frame(0x0800, peer.ip_packet(17, peer.udp(b"FTKV" + bytes(40), with_checksum=False))),
    ]
    frame = bytearray(data.draw(st.sampled_from(frames)))
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    del frame[data.draw(st.integers(0, len(frame))) :]

    answer = server.answer(bytes(frame))
    server.answer(peer.arp())  # an altered ARP may have taught it another address of ours

    assert len(answer) <= 1514
    assert peer.reply_in(server.answer(peer.request(STAT, client=99, number=1))).status == OK
