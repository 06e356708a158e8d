import json

import pytest
from click.testing import CliRunner

from ftvm.cli import demo as command
from ftvm.lab.demo import DemoOptions, Outcome, Screen
from ftvm.lab.ledger import Ledger


def finished(options: DemoOptions, *, trouble: str | None = None) -> Outcome:
    return Outcome(options=options, kills=0, takeovers=(), ledger=Ledger(("A", "B")), seconds=1, trouble=trouble)


@pytest.fixture(autouse=True)
def undisturbed_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)


def test_unknown_engine_is_refused_with_the_list() -> None:
    result = CliRunner().invoke(command.demo, ["--engine", "warp"])

    assert result.exit_code == 2
    assert "unknown engine 'warp'; there is: remus" in result.output


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--interval", "0"], ["--seconds", "-1"], ["--kills", "x"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.demo, arguments)

    assert result.exit_code == 2
    assert "Error:" in result.output


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[DemoOptions] = []

    def run(options: DemoOptions, screen: Screen) -> Outcome:
        del screen
        played.append(options)
        return finished(options)

    monkeypatch.setattr(command, "run", run)

    CliRunner().invoke(command.demo, ["--kills", "3", "--interval", "5", "--seconds", "9", "--seed", "8", "--json"])

    (options,) = played
    assert (options.kills, options.seconds, options.seed, options.hosts.interval_ms) == (3, 9.0, 8, 5.0)


def test_json_is_one_object_even_when_the_demo_could_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda options, _: finished(options, trouble="host A ended"))

    result = CliRunner().invoke(command.demo, ["--json"])

    assert result.exit_code == 1
    assert json.loads(result.output)["trouble"] == "host A ended"
    assert len(result.output.splitlines()) == 1


def test_interrupt_is_an_exit_status_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", run)

    result = CliRunner().invoke(command.demo, ["--json"])

    assert result.exit_code == 130
    assert "interrupted; all its processes are ended" in result.output
