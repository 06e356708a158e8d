"""The files for operators in examples/deploy: a config that is accepted, units that start what there is."""

import configparser
from pathlib import Path

import pytest

from ftvm.cli.configoption import keys_of
from ftvm.cli.main import ftvm
from ftvm.cli.standby import standby
from ftvm.service.configfile import read_config

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def test_the_config_has_only_keys_and_kinds_that_there_are() -> None:
    told = read_config(DEPLOY / "vm1.toml", keys_of(standby))

    assert {"guest", "listen", "peer", "arbiter", "key", "allow", "metrics", "log-format"} <= set(told.values)
    assert told.misread == {}


def test_there_is_a_unit_for_each_role() -> None:
    assert [path.name for path in UNITS] == ["ftvm-primary@.service", "ftvm-standby@.service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_there_is_and_waits_for_its_word(path: Path) -> None:
    service = unit(path)["Service"]

    for key in ("ExecStart", "ExecStartPre"):
        if key not in service:
            continue
        program, name, *arguments = service[key].split()
        command = ftvm.get_command(ftvm.make_context("ftvm", ["version"]), name)
        assert command is not None
        assert program == "/usr/bin/ftvm"
        options = {option for each in command.params for option in each.opts}
        assert {word for word in arguments if word.startswith("--")} <= options
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) > 0


def test_a_primary_that_fails_comes_back_as_a_standby_and_never_as_a_primary() -> None:
    primary = unit(DEPLOY / "ftvm-primary@.service")

    assert primary["Service"]["Restart"] == "no"
    assert primary["Unit"]["OnFailure"] == "ftvm-standby@%i.service"
