"""Peers of different versions tell each other so, and neither is hurt."""

from collections.abc import Iterator

import msgpack
import pytest

from ftvm.encode.headed import seal
from ftvm.encode.versions import Versions
from ftvm.events import JoinRefused, PeerMisbehaved
from ftvm.interfaces import Lane
from ftvm.protocol.view import Role
from ftvm.testing.pair import Pair

LATER = seal(msgpack.packb([3, "whatever a later version says"]))


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_an_active_reports_a_peer_of_another_version_and_runs_on(pair: Pair) -> None:
    pair.protected()

    pair.b.transport.send("a", Lane.CONTROL, [LATER])
    pair.run(10)

    assert "wire version differs: ours is 1 to 2, the peer's is 3" in pair.a.told(PeerMisbehaved)[0].error
    assert pair.a.driver.failure is None
    assert pair.record().standby == "b1"


def test_an_empty_host_whose_peer_speaks_another_version_gives_up_and_says_why(pair: Pair) -> None:
    pair.alive.remove(pair.a)
    pair.run(10)

    asked = pair.a.transport.poll(64).deliveries[0]
    pair.a.transport.send(asked.peer, Lane.CONTROL, [LATER])
    pair.run(10)

    assert "wire version differs" in pair.b.told(PeerMisbehaved)[0].error
    assert "wire version differs" in str(pair.b.driver.failure)


def test_a_standby_in_session_is_not_ended_by_noise_of_another_version(pair: Pair) -> None:
    pair.protected()

    pair.a.transport.send("b", Lane.CONTROL, [LATER])
    pair.run(100)

    assert pair.b.driver.failure is None
    assert pair.record().standby == "b1"


@pytest.mark.parametrize("older", ["a", "b"])
def test_a_pair_of_an_older_and_a_newer_host_is_protected_and_survives_a_takeover(older: str) -> None:
    pair = Pair(versions={older: Versions(1, 1)})
    try:
        pair.protected()
        session = pair.a.active.session
        assert session is not None
        assert session.id.version == 1

        pair.kill(pair.a)
        pair.until(lambda: pair.b.role is Role.ACTIVE)
        pair.run(50)

        assert pair.b.driver.failure is None
        assert (pair.a.told(PeerMisbehaved), pair.b.told(PeerMisbehaved)) == ([], [])
    finally:
        pair.close()


@pytest.mark.parametrize("later", ["a", "b"])
def test_hosts_with_no_version_in_common_understand_each_others_refusal(later: str) -> None:
    """What is frozen for ever is read on both sides, frames and all."""
    pair = Pair(versions={later: Versions(7, 9)})
    try:
        pair.until(lambda: pair.b.driver.failure is not None)

        primary, joiner = ("7 to 9", "1 to 2") if later == "a" else ("1 to 2", "7 to 9")
        said = f"no common wire version: the primary speaks {primary}, the joiner {joiner}; update ftvm on the host"
        assert said in str(pair.b.driver.failure)
        assert said in pair.a.told(JoinRefused)[0].reason
        assert pair.a.driver.failure is None
        assert pair.a.told(PeerMisbehaved) == []
    finally:
        pair.close()
