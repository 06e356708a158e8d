"""How long a process owes an answer is counted by looks, and told once, not at each of them."""

import pytest

from ftvm.guests.silence import Silence

NAMED = "QEMU has not answered query-status"
MEANS = "a takeover waits for it"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def silence(told: list[str]) -> Silence:
    return Silence(NAMED, MEANS, told.append)


def test_it_grows_with_each_look_and_ends_with_the_answer(silence: Silence) -> None:
    seen = []
    for is_owed in (False, True, True, False, True):
        silence.note(is_owed=is_owed)
        seen.append(silence.reason)

    assert seen == [None, f"{NAMED} for 1 s", f"{NAMED} for 2 s", None, f"{NAMED} for 1 s"]


def test_it_is_told_when_it_begins_and_once_a_minute_however_often_it_does(silence: Silence, told: list[str]) -> None:
    for look in range(120):
        silence.note(is_owed=look % 3 > 0)

    assert told == [f"{NAMED} for 1 s: {MEANS}"] * 2
