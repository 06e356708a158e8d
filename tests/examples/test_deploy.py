"""The files for operators in examples/deploy: guest files that are accepted, units that start what there is."""

import configparser
import re
from pathlib import Path

import pytest

from ftvm.cli.kinds import KINDS, read_host
from ftvm.cli.main import ftvm
from ftvm.transport.keys import write_keypair

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_guest_file_of_each_kind_that_is_right_as_it_stands(kind: str, tmp_path: Path) -> None:
    (path,) = (path for path in DEPLOY.glob("*.toml") if f'kind = "{kind}"' in path.read_text())
    here = tmp_path / path.name
    here.write_text(path.read_text())
    for name in ("a", "b"):
        write_keypair(tmp_path / name)
    (tmp_path / "vm2.img").write_bytes(bytes(4096))

    told = read_host(here, {}, boots=True)

    assert told.problems == {}
    assert told.kind.name == kind


def test_there_is_a_unit_for_each_role() -> None:
    assert [path.name for path in UNITS] == ["ftvm-run@.service", "ftvm-standby@.service"]


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
        assert arguments[0] == "/etc/ftvm/%i.toml"
        options = {option for each in command.params for option in each.opts}
        assert {word for word in arguments if word.startswith("--")} <= options
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) > 0


def test_the_debian_package_holds_every_file_for_operators() -> None:
    packaging = (DEPLOY.parents[1] / "packaging" / "deb").read_text()

    (others,) = re.findall(r"examples/deploy/\*\.\{([a-z,]+)\}", packaging)
    assert {*others.split(","), "service"} == {path.suffix.lstrip(".") for path in DEPLOY.iterdir()}


def test_a_primary_that_fails_comes_back_as_a_standby_and_never_as_a_primary() -> None:
    primary = unit(DEPLOY / "ftvm-run@.service")

    assert primary["Service"]["Restart"] == "no"
    assert primary["Unit"]["OnFailure"] == "ftvm-standby@%i.service"


def test_a_standby_that_fails_comes_back_and_one_that_was_told_to_go_stays_away() -> None:
    standby = unit(DEPLOY / "ftvm-standby@.service")

    assert standby["Service"]["Restart"] == "on-failure"
    assert standby["Unit"]["StartLimitIntervalSec"] == "0"  # it may fail for as long as its link is down
