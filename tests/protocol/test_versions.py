"""A session is in the highest version of the wire that both hosts speak; hosts with no version in common say so."""

from dataclasses import replace

import pytest

from ftvm.encode.messages import Welcome
from ftvm.encode.versions import SPOKEN, Versions
from ftvm.events import JoinRefused
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.units import Nanos

from .harness import MS, Host, Pair, make_settings


def versions_in_use(pair: Pair) -> tuple[int, int]:
    """Return what the active and its standby write to each other in."""
    active, standby = sorted((pair.a, pair.b), key=lambda host: host.role is not Role.ACTIVE)
    session = active.active.session
    assert session is not None
    return session.id.version, standby.standby.offer.session.version


@pytest.mark.parametrize(
    ("here", "there", "agreed"),
    [
        (SPOKEN, SPOKEN, SPOKEN.highest),
        (SPOKEN, Versions(1, 1), 1),
        (Versions(1, 1), SPOKEN, 1),
        (Versions(2, 9), Versions(1, 4), 4),
    ],
)
def test_a_session_is_in_the_highest_version_that_both_hosts_speak(
    here: Versions, there: Versions, agreed: int
) -> None:
    pair = Pair(make_settings(versions=here), other=make_settings(versions=there))

    pair.protected()

    assert versions_in_use(pair) == (agreed, agreed)


def test_a_switchover_goes_on_in_the_version_agreed_on() -> None:
    pair = Pair(make_settings(), other=make_settings(versions=Versions(1, 1))).protected()

    pair.a.replica.begin_switchover(Nanos(10_000 * MS), pair.now)
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.a.role is Role.STANDBY)

    assert versions_in_use(pair) == (1, 1)


@pytest.mark.parametrize(
    ("primary", "joiner", "older", "newer"),
    [(Versions(3, 4), Versions(1, 2), "1 to 2", "3 to 4"), (Versions(1, 1), Versions(2, 3), "1", "2 to 3")],
)
def test_hosts_with_no_version_in_common_say_both_ranges_and_what_to_do(
    primary: Versions, joiner: Versions, older: str, newer: str
) -> None:
    pair = Pair(make_settings(versions=primary), other=make_settings(versions=joiner)).started()

    pair.run(50)

    reason = (
        f"no common wire version: the primary speaks {primary}, the joiner {joiner}; "
        f"update ftvm on the host that speaks {older} to a release that speaks {newer}, too"
    )
    assert reason in pair.b.failures[0]
    assert [event.reason for event in pair.a.told(JoinRefused)] == [reason]
    assert pair.a.active.link is LinkState.NONE


def without_offers(host: Host) -> None:
    """Make what this host sends look like that of a release that knows no offers."""
    for place, sent in enumerate(host.sent):
        if isinstance(sent.message, Welcome):
            host.sent[place] = replace(sent, message=replace(sent.message, versions=Versions(1, 1)))


def test_a_joiner_that_an_older_primary_welcomes_in_a_version_it_does_not_speak_gives_up_and_says_why() -> None:
    pair = Pair(make_settings(), other=make_settings(versions=Versions(2, 3))).started()
    pair.b.tick()
    pair.carry(pair.b, pair.a)

    without_offers(pair.a)
    pair.carry(pair.a, pair.b)

    assert pair.b.role is Role.EMPTY
    differs = "wire version differs: ours is 2 to 3, the peer's is 1"
    remedy = "update ftvm on the host that speaks 1 to a release that speaks 2 to 3, too"
    assert pair.b.failures == [f"{differs}; {remedy}"]
