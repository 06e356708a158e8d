import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli import demo as command
from ftvm.cli.signals import Stopped
from ftvm.errors import ConfigError, HistoryError
from ftvm.guests.riscv import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.history.history import History
from ftvm.lab.demo import DemoOptions, Outcome, Screen
from ftvm.lab.ledger import Ledger
from ftvm.runtime.alone import record
from ftvm.runtime.world import CallbackWorld

from ..runtime.test_recording import wait_until


def record_some(folder: Path) -> None:
    guest = RiscvGuest(read_program("ticks"), memory_bytes=2 << 20, command_line="beats=0 ms=2")
    with (
        record(guest, History.open(folder, create=True), world=CallbackWorld()),
        History.open(folder) as looking,
    ):
        wait_until(lambda: len(list(looking.epochs())) > 1)


def finished(options: DemoOptions, *, trouble: str | None = None) -> Outcome:
    return Outcome(options=options, kills=0, takeovers=(), ledger=Ledger(("A", "B")), seconds=1, trouble=trouble)


def test_unknown_engine_is_refused_with_the_list() -> None:
    result = CliRunner().invoke(command.demo, ["--engine", "warp"])

    assert isinstance(result.exception, ConfigError)
    assert "'warp'; choose one of: remus" in str(result.exception)


@pytest.mark.parametrize("arguments", [["--kills", "0"], ["--kills", "x"], ["--interval", "x"]])
def test_malformed_options_are_refused_as_click_does(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.demo, arguments)

    assert result.exit_code == 2
    assert "Error:" in result.output


@pytest.mark.parametrize(
    "arguments", [["--interval", "0"], ["--seconds", "-1"], ["--seconds", "nan"], ["--seconds", "inf"]]
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.demo, arguments)

    assert isinstance(result.exception, ConfigError)


def test_the_processor_runs_the_key_value_server_alone() -> None:
    result = CliRunner().invoke(command.demo, ["--kind", "kvm", "--guest", "linux"])

    assert isinstance(result.exception, ConfigError)
    assert "--kind kvm runs the key-value server: leave out --guest linux" in str(result.exception)


@pytest.mark.parametrize("guest", [["--kind", "kvm"], ["--guest", "qemu"]])
def test_an_engine_that_the_guest_cannot_have_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, guest: list[str]
) -> None:
    def starts(*_: object) -> Outcome:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(command, "_play", starts)

    result = CliRunner().invoke(command.demo, [*guest, "--engine", "lockstep"])

    assert isinstance(result.exception, ConfigError)
    assert "needs a guest that supports: replay; this one can have remus, kemari" in str(result.exception)


def test_a_demo_on_the_processor_starts_nothing_where_there_is_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> str:
        raise ConfigError("no KVM here")

    monkeypatch.setattr(command, "check_device", lacks)

    result = CliRunner().invoke(command.demo, ["--kind", "kvm"])

    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "no KVM here"


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


def test_the_end_says_where_the_past_is_and_how_to_look_at_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(options: DemoOptions, screen: Screen) -> Outcome:
        del screen
        assert options.hosts.history == str(tmp_path / "past")
        for host in ("A", "B"):
            History.open(tmp_path / "past" / host, create=True).close()
        return finished(options)

    monkeypatch.setattr(command, "run", run)

    said = CliRunner().invoke(command.demo, ["--history", str(tmp_path / "past")]).output

    assert f"ftvm history list {tmp_path}/past/A --epochs" in said
    assert f"ftvm history pull {tmp_path}/past/A {tmp_path}/past/B" in said
    assert "picture" not in said, "nothing was recorded"


def test_the_end_links_to_a_picture_of_what_the_guest_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names the functions of the program that ships: nothing has to be built for it."""

    def run(options: DemoOptions, screen: Screen) -> Outcome:
        del screen
        record_some(tmp_path / "past" / "A")
        return finished(options)

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "_guest", lambda *_: {"guest": "ticks"})  # which works without a client

    said = CliRunner().invoke(command.demo, ["--history", str(tmp_path / "past")]).output

    picture = tmp_path / "past" / "picture.html"
    assert said.splitlines()[-1].strip() == picture.as_uri()
    assert "timer_wait_for" in picture.read_text(encoding="utf-8")


def test_a_past_that_cannot_be_drawn_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(options: DemoOptions, screen: Screen) -> Outcome:
        del screen
        record_some(tmp_path / "past" / "A")
        return finished(options)

    def cover(*_: object) -> None:
        raise HistoryError("the log has a hole")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "cover", cover)

    said = CliRunner().invoke(command.demo, ["--history", str(tmp_path / "past")]).output

    assert said.splitlines()[-1] == "  no picture: the log has a hole"


def test_json_is_one_object_even_when_the_demo_could_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda options, _: finished(options, trouble="host A ended"))

    result = CliRunner().invoke(command.demo, ["--json"])

    assert result.exit_code == 1
    assert json.loads(result.output)["trouble"] == "host A ended"
    assert len(result.output.splitlines()) == 1


def test_signal_that_ends_it_is_told_and_goes_on_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> Outcome:
        raise Stopped("SIGTERM")

    monkeypatch.setattr(command, "run", run)

    with pytest.raises(Stopped):
        CliRunner().invoke(command.demo, ["--json"])
