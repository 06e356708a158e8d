"""What a monitor says, as bytes and as values: whatever comes is a message within its limits, or a BadFrame."""

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Bitmap, bitmap_bytes
from ftvm.errors import BadFrame
from ftvm.guests.vmm.messages import (
    HEADER_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    Ended,
    Failed,
    FrameReader,
    HandedRegion,
    Hello,
    MonitorAnswer,
    MonitorMessage,
    MonitorOutput,
    decode,
    decode_hello,
    frame,
    read_bitmaps,
)

from .monitors import hello

NUMBERS = st.integers(0, 2**63 - 1)
NAMES = st.from_regex(r"[A-Za-z0-9._+-]{1,64}", fullmatch=True)
CHANNELS = st.from_regex(r"[!-~]{1,64}", fullmatch=True).filter(lambda channel: channel != "end")
TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200)
REGIONS = st.lists(
    st.tuples(NAMES, st.integers(1, 2**28), st.integers(0, 2**50).map(lambda page: page * 4096)),
    min_size=1,
    max_size=16,
    unique_by=lambda region: region[0],
)


def split(told: bytes) -> tuple[bytes, bytes]:
    ((header, payload),) = FrameReader(1 << 30).take(told)
    return header, payload


def encode(message: MonitorMessage) -> bytes:
    """Say what a monitor would."""
    match message:
        case MonitorAnswer(name=name, number=number, refusal=refusal, payload=payload):
            return frame([name, number, refusal], payload)
        case MonitorOutput(number=number, channel=channel, payload=payload):
            return frame(["output", number, channel], payload)
        case Ended(reason=reason):
            return frame(["ended", reason])
        case Failed(reason=reason):
            return frame(["failed", reason])


MESSAGES = st.one_of(
    st.builds(MonitorAnswer, name=st.just("paused"), number=NUMBERS, refusal=st.just(""), payload=st.just(b"")),
    st.builds(
        MonitorAnswer,
        name=st.sampled_from(["saved", "written"]),
        number=NUMBERS,
        refusal=st.just(""),
        payload=st.binary(),
    ),
    st.builds(MonitorAnswer, name=st.just("loaded"), number=NUMBERS, refusal=TEXTS, payload=st.just(b"")),
    st.builds(MonitorOutput, number=NUMBERS, channel=CHANNELS, payload=st.binary()),
    st.builds(Ended, reason=TEXTS.filter(bool)),
    st.builds(Failed, reason=TEXTS.filter(bool)),
)


@given(MESSAGES)
def test_what_is_said_is_understood(message: MonitorMessage) -> None:
    assert decode(*split(encode(message))) == message


@given(NAMES, NAMES, TEXTS, REGIONS, st.sampled_from(["compare", "bitmap", "userfault"]), st.booleans())
def test_a_hello_is_understood(
    kind: str, software: str, machine: str, regions: list[tuple[str, int, int]], tracking: str, stops: bool
) -> None:
    said = hello(kind=kind, software=software, machine=machine, regions=regions, tracking=tracking, stops=stops)

    assert decode_hello(*split(frame(said))) == Hello(
        version=1,
        kind=kind,
        software=software,
        machine=machine,
        regions=tuple(HandedRegion(name=name, page_count=pages, start=start) for name, pages, start in regions),
        tracking=tracking,
        stops_at_outputs=stops,
    )


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=9), st.binary()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=9), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)
WORDS = st.sampled_from(["hello", "output", "paused", "saved", "loaded", "written", "ended", "failed", "pause", "x"])


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda name, rest: msgpack.packb([name, *rest]), WORDS, st.lists(ANYTHING, max_size=8)),
    ),
    st.binary(max_size=20),
)
def test_any_bytes_are_a_message_or_a_named_error(header: bytes, payload: bytes) -> None:
    for read in (decode, decode_hello):
        with suppress(BadFrame):
            assert read(header, payload) is not None


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_whole_however_they_are_cut(messages: list[MonitorMessage], cuts: list[int]) -> None:
    said, reader, heard, at = b"".join(map(encode, messages)), FrameReader(1 << 30), [], 0

    while at < len(said):
        cut = cuts[at % len(cuts)]
        heard += [decode(*each) for each in reader.take(said[at : at + cut])]
        at += cut

    assert heard == messages
    assert reader.is_empty


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ((HEADER_BYTES_MAX + 1, 0), "a header of 65537 bytes"),
        ((1, 101), "101 bytes behind a header"),
        ((2**32 - 1,) * 2, "a header of"),
    ],
)
def test_a_frame_that_is_too_long_is_refused_before_it_has_come(lengths: tuple[int, int], named: str) -> None:
    begun = lengths[0].to_bytes(4, "little") + lengths[1].to_bytes(4, "little")

    with pytest.raises(BadFrame, match=named):
        list(FrameReader(100).take(begun))


@pytest.mark.parametrize(
    ("said", "payload", "named"),
    [
        (["output", 1, "end"], b"", "'end' is no channel"),
        (["output", 1, "a b"], b"", "'a b' is no channel"),
        (["output", 1, ""], b"", "'' is no channel"),
        (["output", -1, "net0"], b"", "output number is -1"),
        (["output", True, "net0"], b"", "output number is True"),
        (["output", 1, "net0"], bytes(OUTPUT_BYTES_MAX + 1), "at most 1048576 are allowed"),
        (["output", 1], b"", "output"),
        (["paused", 1, ""], b"x", "1 bytes behind paused"),
        (["paused", 1, "no"], b"", "paused cannot be refused"),
        (["saved", 1, ""], bytes((16 << 20) + 1), "behind saved, at most 16777216"),
        (["loaded", 1, "x" * 1025], b"", "at most 1024 characters"),
        (["ended"], b"", "ended"),
        (["resume", 1], b"", "nothing called 'resume'"),
        ([], b"", "not a list that begins with a name"),
        ({}, b"", "not a list that begins with a name"),
        ([["x"] * 65], b"", "not what this protocol packs"),
    ],
)
def test_what_no_monitor_may_say_is_named(said: Any, payload: bytes, named: str) -> None:
    with pytest.raises(BadFrame, match=named):
        decode(msgpack.packb(said), payload)


def test_a_reason_cannot_talk_to_a_terminal() -> None:
    assert decode(*split(frame(["failed", "\x1b[2Jgone\n"]))) == Failed(reason="?[2Jgone?")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"version": 2}, r"speaks version \[2\] of the protocol, this ftvm version 1"),
        ({"version": "1"}, "protocol version is '1'"),
        ({"kind": ""}, "kind is ''"),
        ({"kind": "a b"}, "kind is 'a b'"),
        ({"software": 1}, "software is 1"),
        ({"machine": "x" * 1025}, "machine is not a text"),
        ({"machine": "x" * 701}, "described in 701 characters, at most 700"),
        ({"regions": []}, "1 to 16 regions"),
        ({"regions": [(f"r{n}", 1, 0) for n in range(17)]}, "1 to 16 regions"),
        ({"regions": [("ram", 1, 0), ("ram", 1, 4096)]}, "of different names"),
        ({"regions": [("ram", 0, 0)]}, "has no pages"),
        ({"regions": [("ram", 2**29 + 1, 0)]}, "page count is"),
        ({"regions": [("ram", 1, 12)]}, "not a page's first byte"),
        ({"regions": [("ram", 1, 2**63 - 4096)]}, "start of a region"),
        ({"regions": [("../ram", 1, 0)]}, "region name is '../ram'"),
        ({"regions": [("ram", 1)]}, "regions"),
        ({"tracking": "magic"}, "tracking is 'magic'"),
        ({"stops": 1}, "stops at outputs is 1"),
    ],
)
def test_a_hello_that_cannot_be_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(BadFrame, match=named):
        decode_hello(*split(frame(hello(**wrong))))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.data())
def test_bitmaps_are_understood(counts: list[int], data: st.DataObject) -> None:
    sets = [data.draw(st.integers(0, 2**count - 1)) for count in counts]
    payload = b"".join(pages.to_bytes(bitmap_bytes(count), "little") for pages, count in zip(sets, counts, strict=True))

    found = read_bitmaps(payload, counts)

    assert found == Bitmap(tuple(counts), found.words)
    assert [int.from_bytes(words, "little") for words in found.words] == sets


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"", "bitmaps of 0 bytes, the guest's pages take 16"),
        (bytes(24), "take 16"),
        (bytes(15) + b"\x80", "behind the region's 100"),
    ],
)
def test_bitmaps_of_other_pages_are_refused(payload: bytes, named: str) -> None:
    with pytest.raises(BadFrame, match=named):
        read_bitmaps(payload, [100])
