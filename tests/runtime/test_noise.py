"""What is no message for anybody here, and who keeps sending it."""

from collections.abc import Iterator
from typing import Any

import pytest

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.config import Limits
from ftvm.encode.headed import Sealed
from ftvm.encode.messages import Envelope, Log, Message, SessionId
from ftvm.encode.versions import SPOKEN
from ftvm.encode.wire import FlatSealed, encode
from ftvm.events import PeerMisbehaved
from ftvm.interfaces import Lane, Record
from ftvm.logtable import LogTable
from ftvm.protocol.view import LinkState, Role
from ftvm.testing.pair import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair().protected()
    yield pair
    pair.close()


def make_noise(pair: Pair, count: int) -> None:
    for _ in range(count):
        pair.b.transport.send("a", Lane.CONTROL, [b"noise"])
        pair.run(1)


def test_a_little_noise_from_a_peer_is_reported_and_hurts_nobody(pair: Pair) -> None:
    make_noise(pair, 16)

    assert len(pair.a.told(PeerMisbehaved)) == 16
    assert pair.a.active.link is LinkState.PROTECTED


def test_a_peer_that_goes_on_making_noise_is_not_listened_to_for_a_while_and_told_so_once(pair: Pair) -> None:
    make_noise(pair, 100)
    last = pair.a.told(PeerMisbehaved)[-1]

    assert len(pair.a.told(PeerMisbehaved)) == 17
    assert last.error.endswith("; ignored for 1 s")
    assert sum(pair.a.endpoint.misdeeds.values()) == 17
    assert pair.a.endpoint.ignored >= 83


def test_a_peer_that_was_not_listened_to_is_taken_in_again_when_the_time_is_over(pair: Pair) -> None:
    make_noise(pair, 100)

    pair.until(lambda: pair.a.active.link is LinkState.NONE)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert pair.b.role is Role.STANDBY


@pytest.mark.parametrize("version", range(SPOKEN.lowest, SPOKEN.highest + 1))
def test_what_builds_state_is_not_even_read_from_a_peer_without_a_session(
    pair: Pair, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Sealed | FlatSealed] = []

    def watch(form: type[Sealed] | type[FlatSealed]) -> None:
        really_open = form.open

        def note(sealed: Any, limits: Limits) -> Message:
            opened.append(sealed)
            return really_open(sealed, limits)

        monkeypatch.setattr(form, "open", note)

    watch(Sealed)
    watch(FlatSealed)
    record = LogRecord(index=1, kind=LogKind.CLOCK, position=GuestPosition(0, 0))
    session, record_known = SessionId(1, "evil", 9, version), Record(9, "evil", None)
    envelope = Envelope(guest_id="vm", sender="evil", session=session, record=record_known, released=0)

    pair.b.transport.send("a", Lane.DATA, encode(envelope, Log(sequence=0, records=LogTable.of((record,)))))
    pair.a.endpoint.step(pair.clock.now())

    assert not any(sealed.builds_state for sealed in opened)
