import json
from dataclasses import asdict, replace

import pytest

from ftvm.errors import ConfigError
from ftvm.lab.chaos.values import CampaignOutcome, ChaosOptions, Round, Violation
from ftvm.runtime.status import percentile


def a_round(number: int = 1, *, gap_ms: float | None = 300.0, loss: str | None = None) -> Round:
    return Round(
        job=0,
        number=number,
        fault="cut",
        engine="remus",
        takeovers=1,
        switchovers=0,
        gap_ms=gap_ms,
        healed_ms=1000.0,
        loss=loss,
    )


A_VIOLATION = Violation(job=0, round=2, fault="cut", engine="remus", what="lost", folder="/tmp/x")


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"jobs": 0}, {"jobs": 65}, {"arbiter": "paper"}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ChaosOptions(**wrong)  # type: ignore[arg-type]


def test_rounds_and_violations_come_through_json_unchanged() -> None:
    for value in (a_round(), a_round(gap_ms=None, loss="both killed")):
        assert Round(**json.loads(json.dumps(asdict(value)))) == value
    assert Violation(**json.loads(json.dumps(asdict(A_VIOLATION)))) == A_VIOLATION


def test_a_run_is_good_only_if_all_its_rounds_were_played_and_clean() -> None:
    clean = CampaignOutcome(options=ChaosOptions(rounds=1), rounds=[a_round()])
    short = CampaignOutcome(options=ChaosOptions(rounds=2), rounds=[a_round()])
    violated = CampaignOutcome(options=ChaosOptions(rounds=1), rounds=[a_round()], violations=[A_VIOLATION])
    stuck = CampaignOutcome(options=ChaosOptions(rounds=1), rounds=[a_round()], trouble="no space left")

    assert [each.is_good for each in (clean, short, violated, stuck)] == [True, False, False, False]


def test_what_was_only_not_in_time_is_not_told_as_a_loss_but_is_not_clean_either() -> None:
    """Regression: a patience that ran out on a busy machine was a violation, as a lost write is."""
    late = replace(A_VIOLATION, what="5 requests of the audit were not answered in time", is_late=True)
    only_late, both = (
        CampaignOutcome(options=ChaosOptions(rounds=1), rounds=[a_round()], violations=violations)
        for violations in ([late], [late, A_VIOLATION])
    )

    assert not only_late.is_good
    assert only_late.verdict.startswith("NOT JUDGED: something took too long, and nothing is known to be lost")
    assert both.verdict == "FAILED"


def test_guests_that_were_lost_are_counted_and_leave_the_times_alone() -> None:
    outcome = CampaignOutcome(
        options=ChaosOptions(rounds=3),
        rounds=[a_round(1), a_round(2, gap_ms=500.0), a_round(3, gap_ms=None, loss="both killed")],
    )

    facts = outcome.as_dict()

    assert facts["guests_lost"] == {"both killed": 1}
    assert facts["gap_ms"] == {"p50": 500.0, "p90": 500.0, "max": 500.0}
    assert (facts["rounds"], facts["takeovers"], facts["faults"]) == (3, 3, {"cut": 3})


def test_percentile_is_by_nearest_rank() -> None:
    assert percentile([], 50) == 0.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(list(range(100)), 99) == 99
