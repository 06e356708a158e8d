"""How two hosts agree on a version of the wire, and what it costs to change the wire."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Buffer, Geometry, RegionShape
from ftvm.config import Limits
from ftvm.encode import headed
from ftvm.encode.codec import Codec, Frames, Header, Packed
from ftvm.encode.headed import CODECS, codecs_of, seal
from ftvm.encode.messages import Envelope, Greeting, Join, Message, Ping, Refuse, SessionId, Welcome
from ftvm.encode.versions import FIRST, FROZEN_FORM, SPOKEN, Versions, add_offer, take_offer
from ftvm.encode.wire import MARK, decode, encode
from ftvm.errors import BadFrame, ConfigError, VersionMismatch
from ftvm.interfaces import Record
from ftvm.units import PageCount

from ..strategies import messages, ranges_of_versions

LIMITS = Limits()
SESSION = SessionId(1, "x", 1)
GEOMETRY = Geometry(machine="riscv/1", regions=(RegionShape(name="ram", page_count=PageCount(4)),))


def envelope(version: int | None = None) -> Envelope:
    session = None if version is None else replace(SESSION, version=version)
    return Envelope(guest_id="vm", sender="x", session=session, record=Record(1, "x", None), released=0)


def header_of(message: Message, version: int | None = None) -> list[Any]:
    header: list[Any] = msgpack.unpackb(bytes(encode(envelope(version), message)[0])[:-16])
    return header


def version_of(message: Message, version: int) -> int:
    first = bytes(encode(envelope(version), message)[0])
    return first[1] if first[0] == MARK else int(header_of(message, version)[0])


# --- agreeing ---------------------------------------------------------------------------------------------------------


@given(ranges_of_versions(), ranges_of_versions())
def test_both_sides_take_the_highest_version_in_both_ranges(ours: Versions, theirs: Versions) -> None:
    both = set(range(ours.lowest, ours.highest + 1)) & set(range(theirs.lowest, theirs.highest + 1))

    assert ours.common(theirs) == theirs.common(ours) == (max(both) if both else None)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (2, 1), (-1, 1), (1, (1 << 16) + 1)])
def test_an_empty_range_of_versions_is_refused(lowest: int, highest: int) -> None:
    with pytest.raises(ConfigError, match="wire versions"):
        Versions(lowest, highest)


@given(st.lists(st.sampled_from(["remus", "kemari", "hybrid"]), max_size=3).map(tuple), ranges_of_versions())
def test_an_offer_among_the_engines_comes_back_as_it_was_made(engines: tuple[str, ...], offer: Versions) -> None:
    assert take_offer(tuple(add_offer(engines, offer))) == (engines, offer)


def test_who_makes_no_offer_speaks_the_first_version_alone() -> None:
    assert take_offer(("remus", "kemari")) == (("remus", "kemari"), FIRST)


def test_two_offers_are_the_peers_fault() -> None:
    with pytest.raises(BadFrame, match="2 ranges of versions"):
        take_offer(("wire 1-2", "remus", "wire 1-3"))


@pytest.mark.parametrize("offer", ["wire 0-1", "wire 3-2", "wire 1-99999"])
def test_an_offer_that_is_no_range_is_the_peers_fault(offer: str) -> None:
    with pytest.raises(BadFrame, match="the versions offered"):
        take_offer(("remus", offer))


# --- what is frozen ---------------------------------------------------------------------------------------------------


def frozen_messages() -> list[Message]:
    offer = Versions(7, 9)
    return [
        Join(geometry=GEOMETRY, engines=("remus",), staging_bytes=1 << 20, versions=offer),
        Welcome(joiner="y", engines=("remus",), staging_bytes=1 << 20, versions=offer),
        Refuse(joiner="y", reason="no", is_final=True),
    ]


@pytest.mark.parametrize("message", frozen_messages(), ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("version", [None, 1, 2])
def test_how_hosts_meet_is_said_in_the_first_version_whatever_they_speak(message: Message, version: int | None) -> None:
    assert header_of(message, version)[0] == FROZEN_FORM


def test_a_release_that_has_given_up_the_first_version_still_reads_how_hosts_meet() -> None:
    later = codecs_of(CODECS, Versions(5, 6))

    frozen = {later[1, kind].type for version, kind in later if version == FROZEN_FORM}

    assert frozen == {Join, Welcome, Refuse}


def test_a_frozen_message_in_another_form_is_refused() -> None:
    header = header_of(frozen_messages()[0])

    with pytest.raises(BadFrame, match="no message is of kind 1"):
        decode([seal(msgpack.packb([2, *header[1:]]))], LIMITS)


# --- what a later release may add -------------------------------------------------------------------------------------


def in_lists(message: Message) -> list[Buffer]:
    """Return the frames of a message in version 2 in the form of lists, which is that of what is large."""
    return headed.encode_headed(envelope(2), message)


@given(messages(2), st.lists(st.integers().filter(lambda n: abs(n) < 1 << 63) | st.text(max_size=9), max_size=4))
def test_fields_behind_those_that_are_known_are_ignored(message: Message, more: list[object]) -> None:
    first, *frames = in_lists(message)
    header = msgpack.unpackb(bytes(first)[:-16])
    header[7] += more

    _, read = decode([seal(msgpack.packb([*header, *more])), *frames], LIMITS)

    assert read == message


def _pack_ping(message: Ping) -> Packed:
    return [message.number, 77], []


def _unpack_ping(fields: Header, _: Frames, __: Limits) -> Ping:
    number, progress = fields
    return Ping(number=number if progress is None else 1000 * progress + number)


LATER_PING = Codec(7, Ping, 1, _pack_ping, _unpack_ping, optional=1)


@pytest.fixture
def later_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a release whose PING has one field more, which an older peer may ignore."""
    for version in range(SPOKEN.lowest, SPOKEN.highest + 1):
        monkeypatch.setitem(headed._WRITERS, (version, Ping), LATER_PING)


@pytest.mark.usefixtures("later_release")
def test_a_field_that_older_peers_ignore_is_not_sent_to_one_that_would_refuse_it() -> None:
    assert header_of(Ping(number=5), 1)[7] == [5]
    assert header_of(Ping(number=5), 2)[7] == [5, 77]


@pytest.mark.usefixtures("later_release")
def test_an_older_release_reads_a_message_with_a_new_optional_field() -> None:
    assert decode(encode(envelope(2), Ping(number=5)), LIMITS)[1] == Ping(number=5)


def test_an_optional_field_that_did_not_come_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    old = encode(envelope(2), Ping(number=5))

    monkeypatch.setitem(headed._READERS, (2, 7), LATER_PING)

    assert decode(old, LIMITS)[1] == Ping(number=5)


def test_a_change_that_peers_must_know_is_a_row_of_its_own_from_its_version_on() -> None:
    changed = replace(LATER_PING, since=3)

    table = codecs_of([*CODECS, changed], Versions(1, 3))

    assert [table[version, 7] is changed for version in (1, 2, 3)] == [False, False, True]
    assert all(table[version, 8].type.__name__ == "Pong" for version in (1, 2, 3))


# --- what stands in a header ------------------------------------------------------------------------------------------


@given(messages(), st.sampled_from([1, 2]))
def test_a_message_in_session_is_in_the_version_agreed_on(message: Message, version: int) -> None:
    is_frozen = isinstance(message, Greeting | Join | Welcome | Refuse)

    read, _ = decode(encode(envelope(version), message), LIMITS)

    assert read.session is not None
    assert read.session.version == version_of(message, version) == (FROZEN_FORM if is_frozen else version)


def test_the_version_is_no_part_of_a_sessions_name() -> None:
    assert replace(SESSION, version=1) == replace(SESSION, version=2)


def test_a_message_in_a_version_not_spoken_is_told_apart_from_noise() -> None:
    header = header_of(Ping(number=1), 1)

    with pytest.raises(VersionMismatch, match="ours is 1 to 2, the peer's is 9"):
        decode([seal(msgpack.packb([9, *header[1:]]))], LIMITS)
