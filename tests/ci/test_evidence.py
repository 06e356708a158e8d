"""Figures of chunks become figures of a part: counts are added, and no percentile is made better by it."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PYTEST_LINES = "....\n4 failed, 31 passed, 2 skipped in 4.51s\n"


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ('{"seeds": 3}\n', {"seeds": 3}),
        ('progress\nmore\n{"seeds": 3}\n', {"seeds": 3}),
        ('[\n{"name": "a"}\n]\n', [{"name": "a"}]),
        (PYTEST_LINES, {"failed": 4, "passed": 31, "skipped": 2}),
        ("stat::number_of_executed_units: 77\nstat::peak_rss_mb: 40\n", {"inputs": 77}),
        ("#99 pulse\nDone 50 runs in 3 second(s)\n", {"inputs": 50}),
        ("built\n", {}),
        ("", {}),
    ],
)
def test_figures_are_found_in_what_a_command_prints(evidence: ModuleType, text: str, figures: Any) -> None:
    assert evidence.figures_of(text) == figures


def test_counts_are_added_and_of_percentiles_the_greatest_is_kept(evidence: ModuleType) -> None:
    one = {"rounds": 2, "faults": {"cut": 1}, "gap_ms": {"p50": 4, "max": 9}, "violations": [], "seed": 1}
    other = {"rounds": 3, "faults": {"cut": 2, "kill": 1}, "gap_ms": {"p50": 5, "max": 8}, "violations": [7], "seed": 2}

    merged = evidence.merged(one, other)

    assert merged == {
        "rounds": 5,
        "faults": {"cut": 3, "kill": 1},
        "gap_ms": {"p50": 5, "max": 9},
        "violations": [7],
    }


def test_the_load_under_which_chunks_ran_is_not_added_up(evidence: ModuleType) -> None:
    chunk = {"minutes": 10, "load": 3, "load_average": 4.5}

    assert evidence.merged(chunk, chunk) == {"minutes": 20}


def test_words_that_differ_and_truths_are_not_added(evidence: ModuleType) -> None:
    merged = evidence.merged(
        {"arbiter": "file", "engine": "remus", "ok": True}, {"arbiter": "file", "engine": "kemari", "ok": False}
    )

    assert merged == {"arbiter": "file", "engine": "various", "ok": False}


def test_long_lists_of_measurements_are_told_by_their_spread(evidence: ModuleType) -> None:
    takeovers = [{"total": number, "detection": 1} for number in range(11)]

    assert evidence.short({"takeover_ms": takeovers, "few": [1, 2]}) == {
        "takeover_ms": {"total": {"count": 11, "p50": 5, "max": 10}, "detection": {"count": 11, "p50": 1, "max": 1}},
        "few": [1, 2],
    }


def test_rows_of_a_benchmark_are_kept_whole(evidence: ModuleType) -> None:
    rows = [{"name": f"row {number}", "value": number} for number in range(20)]

    assert evidence.short({"table": rows}) == {"table": rows}


def test_a_chunk_that_failed_is_not_remembered(evidence: ModuleType, tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(3)"]

    status = evidence.run_chunk(tmp_path, "group", "one", failing)

    assert status == 3
    assert not (tmp_path / "group" / "one.json").exists()


def test_only_the_chunks_that_were_asked_for_count(evidence: ModuleType, tmp_path: Path) -> None:
    for count in (10, 1000):
        (tmp_path / "asked").unlink(missing_ok=True)
        evidence.run_chunk(tmp_path, "seeds", str(count), [sys.executable, "-c", f"print('{{\"seeds\": {count}}}')"])

    kept = evidence.evidence_of(tmp_path, "seeds", "abc", ".ci/full seeds")

    assert kept["figures"] == {"seeds": {"seeds": 1000}}
    assert kept["chunks"] == ["seeds/1000"]
    assert {"revision", "date", "command", "machine", "load_before", "load_after", "minutes"} <= set(kept)
    json.dumps(kept)


def test_a_part_that_ran_nothing_has_no_evidence(evidence: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chunk"):
        evidence.evidence_of(tmp_path, "seeds", "abc", ".ci/full seeds")
