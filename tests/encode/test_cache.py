"""Digests of what a joiner still has, and what it keeps of them: bounded, sealed, and unknown to version 1."""

import pytest
from hypothesis import given

from ftvm.checkpoint import PAGE_COUNT_MAX, bitmap_bytes
from ftvm.config import Limits
from ftvm.encode.messages import CacheDigests, CacheKept, Envelope, Message, SessionId
from ftvm.encode.versions import CACHE_SINCE, SPOKEN
from ftvm.encode.wire import decode, encode, read_header
from ftvm.errors import BadFrame
from ftvm.interfaces import Record

from ..strategies import cache_messages

LIMITS = Limits(digests_per_message=8)
SPOKEN_SINCE = range(CACHE_SINCE, SPOKEN.highest + 1)


def envelope(version: int = CACHE_SINCE) -> Envelope:
    session = SessionId(1, "active", 2, version)
    return Envelope(guest_id="vm", sender="joiner", session=session, record=Record(2, "active", None), released=0)


def digests(pages: int, *, first: int = 0, sequence: int = 0) -> CacheDigests:
    return CacheDigests(sequence=sequence, first=first, digests=bytes(range(16)) * pages, is_last=False)


def keep(pages: int, *, first: int = 0) -> CacheKept:
    return CacheKept(sequence=0, first=first, pages=pages, kept=b"\5" * bitmap_bytes(pages))


@pytest.mark.parametrize("version", SPOKEN_SINCE)
@given(message=cache_messages())
def test_every_message_of_a_cache_comes_back_as_it_was_sent(version: int, message: Message) -> None:
    frames = encode(envelope(version), message)

    assert decode(frames, Limits()) == (envelope(version), message)
    assert read_header(frames, Limits()).builds_state


@pytest.mark.parametrize("message", [digests(1), keep(1)])
def test_version_1_cannot_say_it(message: Message) -> None:
    with pytest.raises(KeyError):
        encode(envelope(1), message)


@pytest.mark.parametrize("message", [digests(8), keep(8), digests(0), keep(0), digests(1, first=PAGE_COUNT_MAX)])
def test_as_many_pages_as_the_limit_allows_are_taken(message: Message) -> None:
    assert decode(encode(envelope(), message), LIMITS)[1] == message


@pytest.mark.parametrize("message", [digests(9), keep(9), digests(1, first=PAGE_COUNT_MAX + 1), keep(PAGE_COUNT_MAX)])
def test_more_pages_than_the_limit_allows_are_refused(message: Message) -> None:
    with pytest.raises(BadFrame):
        decode(encode(envelope(), message), LIMITS)


@pytest.mark.parametrize("message", [digests(3), keep(3)])
@pytest.mark.parametrize("change", ["shorter", "longer", "another"])
def test_a_frame_that_is_not_what_was_sent_is_refused(message: Message, change: str) -> None:
    header, frame = map(bytes, encode(envelope(), message))
    changed = {"shorter": frame[:-1], "longer": frame + b"x", "another": b"\7" + frame[1:]}[change]

    with pytest.raises(BadFrame):
        decode([header, changed], LIMITS)
