"""Bad input: each has a message that a person can act on, an exit status, no traceback, and nothing was started."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.arbiters import file as file_store
from ftvm.arbiters.file import FileRecordStore
from ftvm.cli.main import _COMMANDS
from ftvm.interfaces import Record
from ftvm.transport.keys import write_keypair

from ..leftovers import nothing_left_behind
from .conftest import Run


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def primary(tmp_path: Path) -> list[object]:
    where = ["--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}"]
    return ["run", *where, "--memory", "8M", "--program", "hello"]


@pytest.mark.parametrize("command", ["init", "keygen", "run", "standby", "version"])
def test_help_explains_every_command(ftvm: Run, command: str) -> None:
    outcome = ftvm(command, "--help")

    assert outcome.status == 0
    assert f"Usage: ftvm {command}" in outcome.out


def test_help_lists_every_command(ftvm: Run) -> None:
    outcome = ftvm("--help")

    assert outcome.status == 0
    assert all(f"  {name} " in outcome.out for name in _COMMANDS)


@pytest.mark.parametrize("command", ["run", "standby"])
def test_help_of_a_host_shows_the_commands_to_type(ftvm: Run, command: str) -> None:
    assert f"ftvm {command} --listen" in ftvm(command, "--help").out


def test_an_unknown_command_is_wrong_usage(ftvm: Run) -> None:
    outcome = ftvm("frobnicate")

    assert outcome.status == 2
    assert "No such command 'frobnicate'" in outcome.err


def test_a_wrong_elf_is_named_as_such(ftvm: Run, primary: list[object], tmp_path: Path) -> None:
    program = tmp_path / "no.elf"
    program.write_bytes(b"#!/bin/sh\n")

    outcome = ftvm(*primary, "--create", "--program", program)

    assert outcome.status == 2
    assert "this is not an ELF file" in outcome.err


def test_a_program_that_is_not_there_is_answered_with_those_that_are(ftvm: Run, primary: list[object]) -> None:
    outcome = ftvm(*primary, "--program", "/nonexistent.elf")

    assert outcome.status == 2
    assert "No such file or directory; built-in programs are console" in outcome.err


def test_a_busy_port_is_named(ftvm: Run, primary: list[object]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        endpoint = f"tcp://127.0.0.1:{busy.getsockname()[1]}"

        outcome = ftvm(*primary, "--listen", endpoint, "--create")

    assert outcome.status == 1
    assert f"TransportError: cannot listen on {endpoint}" in outcome.err


def test_an_arbiter_that_cannot_be_reached_is_named(ftvm: Run, primary: list[object]) -> None:
    outcome = ftvm(*primary, "--arbiter", "file:///nonexistent/vm1", "--create")

    assert outcome.status == 1
    assert "ArbiterError: arbiter directory /nonexistent/vm1 cannot be opened" in outcome.err
    assert "make it" in outcome.err


def test_an_unknown_engine_is_refused_with_the_list(ftvm: Run, primary: list[object]) -> None:
    outcome = ftvm(*primary, "--engine", "warp")

    assert outcome.status == 2
    assert "--engine: 'warp': write one of remus, kemari" in outcome.err


def test_a_key_file_that_others_can_read_is_refused(ftvm: Run, primary: list[object], tmp_path: Path) -> None:
    write_keypair(tmp_path / "here")
    write_keypair(tmp_path / "there")
    (tmp_path / "here.key").chmod(0o644)

    outcome = ftvm(*primary, "--key", tmp_path / "here.key", "--allow", tmp_path / "there.pub")

    assert outcome.status == 2
    assert "here.key" in outcome.err
    assert "chmod" in outcome.err


def test_a_public_key_in_place_of_the_secret_one_is_refused(ftvm: Run, primary: list[object], tmp_path: Path) -> None:
    write_keypair(tmp_path / "here")
    (tmp_path / "here.pub").chmod(0o600)

    outcome = ftvm(*primary, "--key", tmp_path / "here.pub", "--allow", tmp_path / "here.pub")

    assert outcome.status == 2
    assert "here.pub" in outcome.err


def test_listening_to_everybody_without_keys_is_refused(ftvm: Run, primary: list[object]) -> None:
    outcome = ftvm(*primary, "--listen", "tcp://0.0.0.0:0", "--create")

    assert outcome.status == 2
    assert "ConfigError" in outcome.err
    assert "key" in outcome.err


def test_keys_of_peers_without_ones_own_are_refused(ftvm: Run, primary: list[object], tmp_path: Path) -> None:
    write_keypair(tmp_path / "there")

    outcome = ftvm(*primary, "--allow", tmp_path / "there.pub")

    assert outcome.status == 2
    assert "key: missing: peers have keys" in outcome.err


def test_a_record_that_is_missing_is_answered_with_the_command_that_makes_it(ftvm: Run, primary: list[object]) -> None:
    outcome = ftvm(*primary)

    assert outcome.status in (1, 2)
    assert "the arbiter has no record of guest 'guest': run `ftvm init`" in outcome.err


def test_a_guest_that_is_active_already_is_not_started(ftvm: Run, primary: list[object], tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path)
    store.compare_and_set("guest", Record(1, "somebody", None))

    outcome = ftvm(*primary, "--create")

    assert outcome.status == 1
    assert "is already in the record: generation 1, active somebody" in outcome.err
    assert "run `ftvm init --force --arbiter URL --guest guest`" in outcome.err
    assert store.read("guest") == Record(1, "somebody", None)
    store.close()


def test_a_full_disk_under_the_arbiter_is_named_and_no_record_appears(
    ftvm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(path: Path, content: bytes) -> None:
        del content
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(file_store, "_write_aside", no_space)

    outcome = ftvm("init", "--arbiter", f"file://{tmp_path}", "--yes")

    assert outcome.status == 1
    assert "NotApplied" in outcome.err
    assert "No space left on device" in outcome.err
    store = FileRecordStore(tmp_path)
    assert store.read("guest").generation == 0
    store.close()


def test_a_standby_without_a_peer_is_refused(ftvm: Run, tmp_path: Path) -> None:
    outcome = ftvm("standby", "--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}", "--memory", "8M")

    assert outcome.status == 2
    assert "at least one peer" in outcome.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--heartbeat", "nan", "--heartbeat: nan"),
        ("--heartbeat", "0", "--heartbeat: 0"),
        ("--heartbeat", "-1", "--heartbeat: -1"),
        ("--silence", "inf", "--silence: inf"),
        ("--silence", "100", "at least four heartbeats"),
        ("--interval", "nan", "--interval: nan: write a number"),
        ("--interval", "0", "an interval of 0 ms"),
        ("--memory", "0", "write a size such as 64M"),
        ("--memory", "65G", "at most 64G"),
        ("--memory", "lots", "write a size such as 64M"),
        ("--nic", "udp:1", "udp"),
        ("--guest", "", "not 1 to 64"),
        ("--guest", "x" * 65, "not 1 to 64"),
        ("--arbiter", "ftp://x", "write one of: file:///shared/vm1"),
        ("--listen", "smoke", "smoke"),
        ("--peer", "tcp://nowhere", "tcp://nowhere"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(
    ftvm: Run, primary: list[object], option: str, value: str, said: str
) -> None:
    outcome = ftvm(*primary, "--create", option, value)

    assert outcome.status == 2
    assert outcome.err.startswith("ftvm: ConfigError: ")
    assert said in outcome.err
