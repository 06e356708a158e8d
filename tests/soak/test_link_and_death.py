"""A reset of a healthy link is no death, and a death is noticed without waiting for the limit: with real processes.

The limits are far beyond what a test waits, so silence has no part in it.
"""

import pytest

from .resets import reset_often
from .stagehands import soak_pair

PATIENT = ("--silence", "200000")
REFUSED = "connection refused on both lanes"
DIALLED_SECONDS = 3.0
"""Each host has connected to the other by then: a dial that failed is tried again within a second. Who has not cannot
ask, and waits for silence."""


def test_resets_of_a_healthy_link_cause_no_takeover_and_no_drop() -> None:
    found = reset_often(8, *PATIENT)

    assert found["resets"] == 8
    assert found["harm"] == {}


@pytest.mark.parametrize(
    ("victim", "survivor", "told", "reason"),
    [
        ("A", "B", "TookOver", f"the active's process is gone: {REFUSED}"),
        ("B", "A", "Solo", f"the standby's process is gone: {REFUSED}"),
    ],
)
def test_a_killed_process_is_noticed_by_its_refusals(victim: str, survivor: str, told: str, reason: str) -> None:
    with soak_pair(*PATIENT, has_relay=False) as pair:
        pair.pass_time(DIALLED_SECONDS)
        pair.kill(victim)

        pair.wait_until(lambda: bool(pair.told[told]), f"{survivor} goes on alone")

        reasons = [line["reason"] for line in pair.bad if line["event"] == "Suspected"]

    assert reasons == [reason]
