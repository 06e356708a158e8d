"""How commands end: a status for each kind of fault."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of

import click
import pytest

import ftvm.cli.version as version_command
from ftvm import errors
from ftvm.cli.exits import exit_status
from ftvm.cli.main import ftvm as ftvm_command
from ftvm.cli.main import main
from ftvm.encode.versions import SPOKEN
from ftvm.errors import FtvmError

from .conftest import Run

STATUSES: dict[type[FtvmError], int] = {
    errors.ConfigError: 2,
    errors.ImageError: 2,
    errors.BadFrame: 3,
    errors.DigestMismatch: 3,
    errors.RemoteProtocolError: 3,
    errors.InternalError: 4,
    errors.ArbiterError: 1,
    errors.TransportError: 1,
    errors.BrokenError: 1,
    errors.GuestError: 1,
    errors.TrackingLost: 1,
    errors.ClosedError: 1,
    errors.Fenced: 1,
    errors.LocalProtocolError: 1,
}


@pytest.mark.parametrize(("error", "status"), STATUSES.items(), ids=lambda value: getattr(value, "__name__", value))
def test_the_status_says_whose_fault_it_was(error: type[FtvmError], status: int) -> None:
    assert exit_status(error("x")) == status


def test_another_version_is_the_peers_fault() -> None:
    assert exit_status(errors.VersionMismatch("version", ours=1, theirs=2)) == 3


def test_a_bug_is_called_one_and_shows_no_traceback_unless_asked(ftvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise KeyError(name)

    monkeypatch.setattr(version_command, "version_of", broken)

    outcome = ftvm("version")

    assert outcome.status == 4
    assert outcome.err.startswith("ftvm: a bug in ftvm: KeyError: 'ftvm'\n")
    assert "ftvm --debug" in outcome.err


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ftvm", "--debug", "check", "/nonexistent.toml"])

    with pytest.raises(errors.ConfigError):
        main()


def test_the_module_is_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "ftvm", "version"], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout.startswith("ftvm ")) == (0, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(shell: str) -> None:
    words = {"COMP_WORDS": "ftvm st", "COMP_CWORD": "1" if shell != "fish" else "st"}
    environment = {**os.environ, "_FTVM_COMPLETE": f"{shell}_complete", **words}

    ran = subprocess.run([sys.executable, "-m", "ftvm"], capture_output=True, text=True, check=False, env=environment)

    assert all(name in ran.stdout for name in ("standby", "status"))
    assert "primary" not in ran.stdout


def test_every_command_that_prints_takes_json() -> None:
    def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield name, command
            return
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from leaves(found, f"{name} {each}")

    without = [name for name, leaf in leaves(ftvm_command, "ftvm") if not any("--json" in p.opts for p in leaf.params)]

    assert set(without) == {
        "ftvm console",  # a terminal at both ends
        "ftvm history debug",  # serves gdb
    }


def test_version_is_told_as_json(ftvm: Run) -> None:
    outcome = ftvm("version", "--json")

    told = json.loads(outcome.out)
    assert (told["protocol_lowest"], told["protocol"]) == (SPOKEN.lowest, SPOKEN.highest)


def test_the_version_is_told_where_people_look_for_it(ftvm: Run) -> None:
    outcome = ftvm("--version")

    assert (outcome.status, outcome.out) == (0, f"ftvm {version_of('ftvm')}\n")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["init", "--json", "--arbiter", "nowhere"], "ConfigError"),
        (["check", "--json", "/nonexistent.toml"], "ConfigError"),
        (["ctl", "stop", "--json"], "TransportError"),
        (["ctl", "interval", "--json", "much"], "BadParameter"),
        (["status", "--json", "--nonsense"], "NoSuchOption"),
        (["run", "--json", "--memory", "tiny"], "ConfigError"),
    ],
)
def test_an_error_under_json_is_json_on_stdout_and_text_on_stderr(ftvm: Run, words: list[str], kind: str) -> None:
    outcome = ftvm(*words)

    told = json.loads(outcome.out)
    assert outcome.status in (1, 2)
    assert told["error"]["type"] == kind
    assert told["error"]["message"].partition("\n")[0] in outcome.err


def test_an_error_without_json_leaves_stdout_empty(ftvm: Run) -> None:
    assert ftvm("check", "/nonexistent.toml").out == ""
