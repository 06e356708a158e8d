"""A host that stops goes on until nobody has to clean up behind it; the goodbye of a standby waits for its answer, so
that it is not lost with the connection."""

import threading
from collections.abc import Collection
from dataclasses import replace

import pytest

from ftvm.checkpoint import Buffer
from ftvm.config import Limits
from ftvm.encode.messages import Envelope, Leave, Ping
from ftvm.errors import ClosedError
from ftvm.events import PeerMisbehaved
from ftvm.interfaces import Lane, Record
from ftvm.protocol.view import Role
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.host import Host
from ftvm.testing.pair import Pair
from ftvm.transport.memory import MemoryNetwork
from ftvm.units import Nanos

STOPPED = ClosedError("a test")
WAIT_SECONDS = 20.0


@pytest.fixture
def pair() -> Pair:
    return Pair().protected()


def test_a_standby_that_stops_stays_until_its_active_has_answered(pair: Pair) -> None:
    pair.b.driver.stop(STOPPED)
    assert pair.b.endpoint.is_leaving

    pair.a.step()
    pair.b.step()

    assert not pair.b.endpoint.is_leaving
    pair.run(20)
    assert pair.record() == Record(3, "a1", None)


def test_who_handed_the_guest_over_and_stops_at_once_keeps_the_outputs_waiting_for_nothing(pair: Pair) -> None:
    switchover = pair.a.driver.begin_switchover(Nanos(10**10))
    pair.until(lambda: switchover.is_over)

    pair.a.driver.stop(STOPPED)
    pair.until(lambda: not pair.a.endpoint.is_leaving, 5)
    pair.kill(pair.a)
    released = len(pair.b.released)
    pair.run(20)

    assert pair.b.role is Role.ACTIVE
    assert pair.record().standby is None
    assert len(pair.b.released) > released


def test_a_goodbye_that_nobody_answers_ends_after_some_limits_of_silence_and_not_in_order(pair: Pair) -> None:
    patience_ms = 4 * pair.b.driver.settings.timing.backup_limit_ns // 1_000_000
    pair.kill(pair.a)
    pair.b.driver.stop(STOPPED)

    pair.run(patience_ms - 1)
    assert pair.b.endpoint.is_leaving
    pair.run(1)

    assert not pair.b.endpoint.is_leaving
    assert not pair.b.driver.stopped.is_in_order
    assert "standby b1" in pair.b.driver.stopped.outcome
    assert pair.record() == Record(2, "a1", "b1")  # it did not take over on its way out


@pytest.mark.parametrize("what", ["peer", "session", "sender", "message"])
def test_only_the_actives_leave_of_this_session_answers_a_goodbye(pair: Pair, what: str) -> None:
    session = pair.b.standby.session
    other = replace(session, counter=session.counter + 1)
    envelope = Envelope(
        guest_id="vm",
        sender="c1" if what == "sender" else session.active,
        session=other if what == "session" else session,
        record=pair.record(),
        released=0,
    )
    pair.b.driver.stop(STOPPED)

    message = Ping(number=1) if what == "message" else Leave(reason="")
    pair.b.driver.receive("c" if what == "peer" else "a", None, envelope, message, pair.clock.now())

    assert pair.b.endpoint.is_leaving


def test_a_standby_that_broke_the_session_off_stays_until_the_record_names_it_no_more(pair: Pair) -> None:
    send = pair.a.transport.send

    def lie(peer: str, lane: Lane, frames: list[Buffer], token: int | None = None) -> bool:
        flipped = bytes(byte ^ 1 for byte in bytes(frames[-1]))
        told = [*frames[:-1], flipped] if lane is Lane.DATA else frames
        return send(peer, lane, told) and token is None  # what is lent never comes back: then say that it was not taken

    pair.a.transport.send = lie  # type: ignore[assignment, method-assign]
    pair.until(lambda: pair.b.told(PeerMisbehaved))

    pair.b.driver.stop(STOPPED)
    was_leaving = pair.b.endpoint.is_leaving
    pair.until(lambda: not pair.b.endpoint.is_leaving, 200)

    assert was_leaving
    assert pair.b.driver.stopped.is_in_order
    assert pair.record() == Record(3, "a1", None)


class LeavingEndpoint(Endpoint):
    """An endpoint that waits for an answer until a test lets it go."""

    is_answered = False
    stepped = threading.Event()

    @property
    def is_leaving(self) -> bool:
        return not self.is_answered

    def step(self, now: Nanos, ready: Collection[int] | None = None) -> Nanos | None:
        self.stepped.set()
        return super().step(now, ready)


def test_a_host_that_is_stopped_goes_on_listening_until_the_goodbye_is_answered() -> None:
    transport = MemoryNetwork().transport("here")
    endpoint = LeavingEndpoint(transport, Limits(), lambda event: None)  # noqa: ARG005
    host = Host(endpoint, transport, MonotonicClock())
    host.start()

    stopping = threading.Thread(target=host.stop)
    stopping.start()
    host.call(endpoint.stepped.clear)
    assert endpoint.stepped.wait(WAIT_SECONDS)
    assert not host.has_ended
    endpoint.is_answered = True
    stopping.join(WAIT_SECONDS)

    assert host.has_ended
    transport.close()
