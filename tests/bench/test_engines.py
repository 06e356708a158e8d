"""The table of the engines: its words, its lines, and what happens when a run fails."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import engines
import pytest
from bare import Bare
from enginerows import Failed
from enginerun import Bench, Link, Replay
from placement import placement_named

from ftvm.engines.names import ENGINES
from ftvm.errors import BrokenError

from .test_enginerows import BARE, CROWD, FIGURES, HYBRID, MOVES, WINDOW, result

BENCH = Bench(placement=placement_named("split", [0, 1]), windows=engines.QUICK)


def test_its_options_are_what_its_head_says() -> None:
    told = engines.parse(["--quick", "--json", "--chart", "a.svg", "--beside", "v0.1.0", "--placement", "one"])

    assert (told.quick, told.json, told.chart.name, told.beside, told.placement) == (
        True,
        True,
        "a.svg",
        "v0.1.0",
        "one",
    )
    assert engines.parse([]).beside is None
    for option in ("--quick", "--json", "--chart", "--beside"):
        assert option in (engines.__doc__ or "")


def test_every_engine_is_measured_also_quickly() -> None:
    for cases in (engines.CASES, engines.CASES_QUICK):
        assert {case.engine for case in cases} == set(ENGINES)


def test_the_table_says_what_all_figures_depend_on() -> None:
    said = engines.conditions(BENCH, BARE, 7.25)

    assert "load average 7.2" in said
    assert "primary on processor 0, standby on processor 1" in said
    assert "TCP in C 30 us, ZeroMQ 145 us" in said


def test_the_table_says_why_there_is_no_client_in_c() -> None:
    bare = replace(BARE, tcp_us=None, trouble="no C compiler: cc was not found")

    assert "the client is the lab's, in Python: no C compiler: cc was not found" in engines.conditions(BENCH, bare, 0.0)


def test_a_line_tells_what_each_output_cost_both_hosts_and_what_was_asked_again() -> None:
    line = engines.table_line(result(CROWD, HYBRID, found=replace(FIGURES, protected=replace(WINDOW, repeated=0.5))))

    assert "1.00x" in line
    assert "100 + 50 us" in line
    assert "50%" in line


def test_an_ftvm_of_before_has_a_line_of_its_own_compared_with_its_own_guest_alone() -> None:
    alone = replace(WINDOW, work=4000.0)
    lines = engines.table_line(result(CROWD, HYBRID, beside="v0.1.0", before=FIGURES, before_alone=alone)).splitlines()

    assert [line.split()[:2] for line in lines] == [["hybrid", "1.00x"], ["v0.1.0", "0.25x"]]


def test_what_was_not_seen_is_a_dash_and_what_failed_says_why() -> None:
    blank = replace(WINDOW, work=None, delay_us_p50=None, delay_us_p99=None, cpu_us=None, repeated=None)

    assert "- + 50 us" in engines.table_line(result(CROWD, HYBRID, found=replace(FIGURES, protected=blank)))
    assert "not measured: it fell" in engines.table_line(result(CROWD, HYBRID, found=Failed(reason="it fell")))


def test_a_run_that_fails_is_a_result_and_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def measure(*what: Any) -> object:
        _, load, case, _ = what
        made.append(f"{load.name}: {case.name}")
        if case.engine == "kemari":
            raise BrokenError(
                "host b ended with status 1; it said last:\n  Traceback\n  GuestError: it is out of paper"
            )
        return FIGURES

    monkeypatch.setattr(engines, "measure_run", measure)
    monkeypatch.setattr(engines, "measure_alone", lambda *_: WINDOW)

    results = list(engines.Runs(BENCH, is_quick=True, beside="", before=None).results())

    assert len(made) == len(results) == len(engines.SCENES_QUICK) * len(engines.CASES_QUICK)
    failed = [of for of in results if isinstance(of.found, Failed)]
    assert {of.case.engine for of in failed} == {"kemari"}
    assert isinstance(failed[0].found, Failed)
    assert failed[0].found.reason.endswith("it said last: GuestError: it is out of paper")


def test_an_ftvm_of_before_is_measured_in_turn_where_outputs_are_what_it_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[str, str]] = []

    def measure(*what: Any) -> object:
        made.append((what[0].python, what[1].program))
        return FIGURES

    monkeypatch.setattr(engines, "measure_run", measure)
    monkeypatch.setattr(engines, "measure_alone", lambda *_: WINDOW)
    here, before = replace(BENCH, python="here"), replace(BENCH, python="before")

    results = list(engines.Runs(here, is_quick=True, beside="v0.1.0", before=before).results())

    assert made[:4] == [("here", "kv"), ("before", "kv")] * 2
    assert ("before", "dirty") not in made
    assert [of.before is not None for of in results if of.load.program == "dirty"] == [False] * len(engines.CASES_QUICK)


def test_the_chart_shows_what_was_measured_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        result(engines.KV, HYBRID),
        result(engines.KV, HYBRID, Link(name="4 ms", delay_ms=4)),
        result(engines.KV, HYBRID, found=Failed(reason="x")),
    ]
    throughput, delay = engines.panels(results)

    assert throughput.bars == [("kv, 16 clients", "hybrid", 1.0)]
    assert [group for group, *_ in delay.bars] == ["direct", "4 ms"]
    assert engines.print_table(iter(results)) == results
    assert "alone 1,000 requests a second" in capsys.readouterr().out


def test_what_is_bare_is_counted_without_c_as_well() -> None:
    bare = Bare(tcp_us=None, zeromq_us=60, curve_us=70, link_rate=1e8, echo_rates={}, trouble="no C compiler")

    assert bare.round_trip_us == 60
    assert bare.round_trip == "ZeroMQ round trip (no C compiler)"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every measurement find something, at once."""
    found = {
        "bare_figures": BARE,
        "measure_alone": WINDOW,
        "measure_run": FIGURES,
        "measure_moves": MOVES,
        "measure_replay": Replay(live_seconds=1, replay_seconds=1, records=5),
    }
    for name, value in found.items():
        monkeypatch.setattr(engines, name, lambda *_, value=value: value)
    monkeypatch.setattr(engines, "python_of", lambda revision: f"python of {revision}")


@pytest.mark.usefixtures("measured")
def test_its_json_has_every_row_with_its_ratio_and_whether_its_goal_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chart = tmp_path / "chart.svg"
    monkeypatch.setattr(sys, "argv", ["engines.py", "--json", "--beside", "v0.1.0", "--chart", str(chart)])

    engines.main()

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["kv, 1 client, direct: hybrid: output delay p50"]["met"] is True
    assert rows["kv, 16 clients, direct: kemari: throughput, beside"]["ratio"] == 1
    assert "primary on" in rows["load average, at the end"]["note"]
    assert {name.partition(": ")[0] for name in rows} >= {
        *(f"{load.name}, {link.name}" for load, link in engines.SCENES),
        *(f"{load.name}, {load.memory_mib} MiB" for load in (engines.KV, engines.LARGE)),
    }
    assert chart.read_text().startswith("<svg")


@pytest.mark.usefixtures("measured")
def test_its_table_ends_with_the_goals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["engines.py", "--quick"])

    engines.main()

    said = capsys.readouterr().out
    assert said.startswith("Engines side by side: ")
    assert "load average" in said.splitlines()[0]
    goals = said.partition("\nGoals\n")[2]
    assert "kv, 1 client, direct: kemari: output delay p50" in goals
    assert "<= 8: met" in goals
    assert "v0.1.0" not in said


def test_a_revision_that_cannot_be_built_ends_it_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["engines.py", "--beside", "no-such-revision"])

    with pytest.raises(SystemExit, match=r"--beside no-such-revision: git .* failed"):
        engines.main()
