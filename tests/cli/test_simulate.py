"""`ftvm simulate`: what it prints and how it ends."""

import json
import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from ftvm.cli.main import main
from ftvm.cli.signals import Stopped
from ftvm.lab.campaign import Hunt
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.run import Run, play

RECORDED: dict[str, list[int]] = json.loads(
    (Path(__file__).parents[1] / "sim" / "recorded_seeds.json").read_text(encoding="utf-8")
)


def simulate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ftvm", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def only_these(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have there be these mutants and no others."""
    monkeypatch.setattr("ftvm.cli.simulate.MUTANTS", {name: MUTANTS[name] for name in names})


def test_the_figures_name_all_that_a_campaign_is_judged_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = simulate(monkeypatch, "--seeds", "3", "--json")

    told = json.loads(capsys.readouterr().out)
    assert status == 0
    assert told["seeds"] == 3
    assert told["violations"] == []
    assert {"steps", "faults", "takeovers", "switchovers", "seconds", "virtual_seconds"} <= set(told)


def test_histories_are_the_same_however_many_processes_play_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for jobs in ("1", "2"):
        simulate(monkeypatch, "--seeds", "4", "--jobs", jobs, "--json")
        told.append({**json.loads(capsys.readouterr().out), "seconds": 0})

    assert told[0] == told[1]


def test_a_violation_is_told_shrunk_and_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = str(RECORDED["go_on_when_deposed"][0])

    status = simulate(monkeypatch, "--seed", seed, "--mutant", "go_on_when_deposed")

    told = capsys.readouterr().out
    again = re.search(r"--only (\S+)", told)
    assert status == 0, "with --mutant, success is to find it"
    assert f"VIOLATION seed {seed}" in told
    assert again is not None
    simulate(monkeypatch, "--seed", seed, "--mutant", "go_on_when_deposed", "--only", again[1], "--json")
    (violation,) = json.loads(capsys.readouterr().out)["violations"]
    assert violation["invariant"] == "I2"


def test_a_violation_that_needs_no_fault_is_told_with_a_command_that_plays_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(monkeypatch, "--seed", "0", "--mutant", "commit_without_devices")
    told = capsys.readouterr().out

    command = re.search(r"ftvm simulate (.+) --trace", told)

    assert "seed 0 needs 0 of " in told
    assert command is not None
    assert simulate(monkeypatch, *command[1].split(), "--json") == 0, "it finds the mutant again"


def test_a_mutant_that_no_seed_finds_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(monkeypatch, "--seeds", "1", "--mutant", "add_without_hold", "--json") == 1


def test_json_of_all_mutants_is_one_object_that_names_each_and_the_seeds_that_found_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only_these(monkeypatch, "keep_the_id_over_a_restart", "add_without_hold")
    record = tmp_path / "seeds.json"

    status = simulate(monkeypatch, "--seeds", "2", "--mutant", "all", "--json", "--record", str(record))

    told = json.loads(capsys.readouterr().out)["mutants"]
    assert status == 1, "one was not found"
    assert told["keep_the_id_over_a_restart"]["seeds"] == [0, 1]
    assert told["keep_the_id_over_a_restart"]["what"].startswith("liveness: ")
    assert told["add_without_hold"] == {"seeds": [], "tried": 2, "what": None}
    assert json.loads(record.read_text()) == {name: each["seeds"] for name, each in told.items()}


def test_a_hunt_that_is_stopped_tells_what_was_done_so_far(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_these(monkeypatch, "keep_the_id_over_a_restart", "add_without_hold")

    def stopped_at_the_second(mutant: str, seeds: range, **options: object) -> Hunt:
        del options
        if mutant == "add_without_hold":
            raise Stopped("SIGINT")
        return Hunt(mutant=mutant, tried=len(seeds), found=())

    monkeypatch.setattr("ftvm.cli.simulate.hunt", stopped_at_the_second)

    with pytest.raises(Stopped):
        simulate(monkeypatch, "--mutant", "all", "--json")

    told = capsys.readouterr()
    assert list(json.loads(told.out)["mutants"]) == ["keep_the_id_over_a_restart"]
    assert "stopped by SIGINT after 1 of 2 mutants" in told.err


def test_the_list_of_mutants_is_json_if_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(monkeypatch, "--mutant", "list", "--json")

    assert set(json.loads(capsys.readouterr().out)) == set(MUTANTS)


def test_a_trace_comes_with_its_legend(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(monkeypatch, "--seed", "1", "--trace")

    told = capsys.readouterr().out
    assert "the arbiter's record changed" in told
    assert "RECORD Record(generation=1" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("--mutant", "nobody"),
        ("--trace",),
        ("--only", "crash:1"),
        ("--seed", "1", "--only", "crash"),
        ("--seeds", "0"),
        ("--seed", "1", "--trace", "--json"),
        ("--seed", "1", "--mutant", "all"),
        ("--seed", "1", "--seeds", "7"),
        ("--seed", "1", "--start", "0"),
        ("--seed", "1", "--jobs", "2"),
        ("--mutant", "all", "--record", "/nowhere/seeds.json"),
        ("--record", "seeds.json"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_played(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert simulate(monkeypatch, *arguments) == 2


def test_ctrl_c_tells_what_was_done_so_far(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(seeds: range, **options: object) -> Generator[Run, None, None]:
        del options
        yield play(seeds[0])
        raise Stopped("SIGINT")

    monkeypatch.setattr("ftvm.cli.simulate.campaign", interrupted)

    with pytest.raises(Stopped):  # ends with status 130: test_signals.py
        simulate(monkeypatch, "--seeds", "1000")

    told = capsys.readouterr()
    assert "1 seeds" in told.out
    assert "stopped by SIGINT after 1 of 1000 seeds" in told.err
