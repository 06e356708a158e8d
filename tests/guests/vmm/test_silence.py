"""A monitor whose guest stands still, as a standby's does, is asked again and again whether it answers."""

import re
from typing import Any

import pytest

from ftvm.errors import GuestError
from ftvm.guests.vmm import VmmGuest, link
from ftvm.interfaces import Capability
from ftvm.testing.transcript import Transcript

from .conftest import MakeFake
from .monitors import FakeMonitor, resumed, wait_until

NAMED = r"the monitor \(process \d+\) has not answered `pause` for \d+ s"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ASK_SECONDS", 0.01)


class Operated(Transcript):
    """Keeps what an operator is told."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, reason: str) -> None:
        self.warnings.append(reason)


def standby(make_fake: MakeFake, *, serves: bool = False, answer_seconds: float = 10_000.0) -> tuple[Any, ...]:
    """Return a guest that stands still, its monitor and its sink."""
    guest, fake = make_fake(boots=False, serves=serves)
    guest._link._answer_seconds = answer_seconds
    guest.attach(sink := Operated())
    return guest, fake, sink


def numbers(fake: FakeMonitor) -> list[int]:
    return [fields[0] for name, fields, _ in list(fake.heard) if name == "pause"]


def is_silent(guest: VmmGuest) -> None:
    wait_until(guest.silence, "the silence is seen")


def test_a_monitor_that_answers_is_asked_on_and_nothing_is_said_of_it(make_fake: MakeFake) -> None:
    guest, fake, _ = standby(make_fake, serves=True)

    wait_until(lambda: len(fake.heard) > 5, "it is asked again")

    assert Capability.TELLS_SILENCE in guest.can
    assert set(fake.names()) == {"pause"}
    assert numbers(fake)[:5] == [2, 3, 4, 5, 6]
    wait_until(lambda: guest.silence() is None, "the last answer is seen")
    assert guest.failure() is None


def test_a_monitor_that_hangs_under_a_guest_that_stands_still_is_named(make_fake: MakeFake) -> None:
    """Regression: nothing asked a standby's monitor until a takeover waited for it; it said that it stood by."""
    guest, fake, sink = standby(make_fake)

    is_silent(guest)

    assert re.fullmatch(NAMED, str(guest.silence()))
    assert re.fullmatch(NAMED + ": until it does, no takeover can run the guest here", sink.warnings[0])
    assert guest.failure() is None
    fake.hear()
    fake.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        fake.hear()  # asked once, however long that takes


def test_a_monitor_that_answers_after_all_is_well_again(make_fake: MakeFake) -> None:
    guest, fake, _ = standby(make_fake)
    is_silent(guest)

    told = fake.hear()
    assert told is not None
    fake.say("paused", told[1][0], "")
    fake.serve()

    wait_until(lambda: guest.silence() is None, "the answer is seen")
    guest.load_devices(b"state")
    assert guest.failure() is None


def test_a_monitor_that_hangs_for_longer_than_any_answer_may_take_is_given_up(make_fake: MakeFake) -> None:
    guest, _, _ = standby(make_fake, answer_seconds=3.0)

    wait_until(guest.failure, "it is given up")

    assert re.match(r"the monitor \(process \d+\) did not answer `pause` within 3 s; ", str(guest.failure()))
    assert guest.complaint() == str(guest.failure()).partition(";")[0]


def test_what_a_takeover_asks_waits_for_the_answer_that_is_owed_and_goes_behind_it(make_fake: MakeFake) -> None:
    """ftvm asks one thing at a time."""
    guest, fake, _ = standby(make_fake)
    is_silent(guest)
    asked: list[str] = []

    def may_wait(reason: str) -> bool:
        asked.append(reason)
        return False

    guest._link._may_wait = may_wait
    with pytest.raises(GuestError, match="did not answer `pause`"):
        guest.load_devices(b"state")

    assert re.fullmatch(r"the monitor \(process \d+\) has not answered `pause` for 1 s", asked[0])
    assert "load" not in fake.names()


def test_a_guest_that_runs_is_not_told_to_pause(make_fake: MakeFake) -> None:
    guest, fake = make_fake()
    resumed(guest)
    wait_until(lambda: "resume" in fake.names(), "it runs")
    before = len(fake.heard)

    wait_until(lambda: guest.silence() is None and not guest._link._thread.join(0.1), "some looks' time is over")

    assert fake.heard[before:] == []
