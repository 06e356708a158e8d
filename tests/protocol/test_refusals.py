"""A host that may join several: it goes on asking while one of them may still take it."""

from dataclasses import replace

import pytest

from ftvm.encode.messages import Envelope, Refuse
from ftvm.errors import ConfigError, FtvmError, VersionMismatch
from ftvm.events import JoinRefused
from ftvm.protocol import effects as do
from ftvm.protocol.empty import REFUSALS_TOLD_MAX
from ftvm.protocol.record import NO_RECORD
from ftvm.protocol.reports import PeerRefused, Received, Report
from ftvm.units import Nanos

from .harness import lone_replica, make_settings

NOW = Nanos(1)
OTHER_GUEST = "this host protects no guest 'vm', only 'other'"


class Spare:
    """An empty replica with three peers, of which a test speaks in the name."""

    def __init__(self, *dialled: str) -> None:
        self.replica = lone_replica(replace(make_settings(), dialled=dialled))
        self.failures: list[FtvmError] = []
        self.told: list[JoinRefused] = []

    def hear(self, peer: str, reason: str, *, is_final: bool) -> None:
        refuse = Refuse(joiner=self.replica.view().id, reason=reason, is_final=is_final)
        header = Envelope(guest_id="vm", sender="x1", session=None, record=NO_RECORD, released=0)
        self._give(Received(peer, None, header, refuse))

    def hear_another_version(self, peer: str) -> None:
        self._give(PeerRefused(peer, VersionMismatch("wire version", ours=1, theirs=9)))

    def _give(self, report: Report) -> None:
        for effect in self.replica.step(report, NOW):
            if isinstance(effect, do.Fail):
                self.failures.append(effect.error)
            elif isinstance(effect, do.Tell) and isinstance(effect.event, JoinRefused):
                self.told.append(effect.event)


def test_a_final_refusal_of_one_peer_does_not_end_a_spare_of_a_pair() -> None:
    """Regression: a host of another guest among the peers ended it at once."""
    spare = Spare("a", "b", "d")

    spare.hear("a", "there is a standby already", is_final=False)
    spare.hear("d", OTHER_GUEST, is_final=True)
    spare.hear("d", OTHER_GUEST, is_final=True)

    assert spare.failures == []
    assert [(event.peer, event.reason) for event in spare.told] == [
        ("a", "there is a standby already"),
        ("d", OTHER_GUEST),
    ]


def test_a_peer_of_another_version_does_not_end_a_spare_of_a_pair() -> None:
    spare = Spare("a", "b", "d")

    spare.hear_another_version("d")

    assert spare.failures == []
    assert "wire version differs" in spare.told[0].reason


def test_a_host_that_every_peer_refuses_for_good_ends_and_says_what_each_said() -> None:
    spare = Spare("a", "d", "e")

    spare.hear("a", "the guests differ", is_final=True)
    spare.hear("d", OTHER_GUEST, is_final=True)
    assert spare.failures == []
    spare.hear_another_version("e")

    assert isinstance(spare.failures[0], ConfigError)
    assert all(
        said in str(spare.failures[0]) for said in ("a: the guests differ", f"d: {OTHER_GUEST}", "e: wire version")
    )


def test_a_peer_that_refuses_only_for_now_afterwards_may_still_take_it() -> None:
    """Another host, of the right guest, was started at that endpoint."""
    spare = Spare("a", "d")

    spare.hear("d", OTHER_GUEST, is_final=True)
    spare.hear("d", "there is a standby already", is_final=False)
    spare.hear("a", "the guests differ", is_final=True)

    assert spare.failures == []


@pytest.mark.parametrize("is_final", [False, True])
def test_who_was_not_asked_refuses_nothing(is_final: bool) -> None:
    spare = Spare("a")

    spare.hear("somebody/else", "no", is_final=is_final)

    assert (spare.failures, spare.told) == ([], [])


def test_what_is_kept_of_refusals_is_bounded() -> None:
    """Regression: a peer with a new reason each time filled the memory."""
    spare = Spare("a")

    for number in range(3 * REFUSALS_TOLD_MAX):
        spare.hear("a", f"reason {number}", is_final=False)

    assert len(spare.told) == REFUSALS_TOLD_MAX
