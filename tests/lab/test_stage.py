import os
import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ftvm.cli.kinds import read_host
from ftvm.errors import BrokenError
from ftvm.guests.datagram import cable_ends
from ftvm.lab import stage as stage_module
from ftvm.lab.stage import HOSTS, PORTS, HostCommands, Stage, free_ports
from ftvm.transport.keys import write_keypair

COMMANDS = HostCommands(program=("ftvm",), interval_ms=12.5)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.prepare(tmp_path)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def settings_of(stage: Stage, host: str, commands: HostCommands = COMMANDS) -> dict[str, Any]:
    """Return what the guest file says that a host is started with."""
    (file,) = (word for word in stage.host_command(commands, host, "standby") if word.endswith(".toml"))
    return tomllib.loads(Path(file).read_text())


def test_hosts_listen_where_the_other_looks_for_them(stage: Stage) -> None:
    a, b = (settings_of(stage, host) for host in HOSTS)

    assert a["peer"] == [b["listen"]]
    assert b["peer"] == [a["listen"]]
    assert a["arbiter"] == b["arbiter"]


def test_each_host_has_its_own_secret_key_and_allows_only_the_other(stage: Stage) -> None:
    a = settings_of(stage, "A")
    names = [Path(stage.keygen_command(COMMANDS, host)[-1]) for host in HOSTS]

    assert stage.folder / a["key"] == names[0].with_suffix(".key")
    assert [stage.folder / each for each in a["allow"]] == [names[1].with_suffix(".pub")]


@pytest.mark.parametrize("commands", [COMMANDS, HostCommands(guest="qemu", qemu_arguments=("-kernel", 'a "b"'))])
def test_a_stages_guest_file_says_nothing_that_the_table_of_settings_does_not_have(
    stage: Stage, commands: HostCommands
) -> None:
    for host, role in zip(HOSTS, ("primary", "standby"), strict=True):
        for each in HOSTS:
            (stage.folder / each).with_suffix(".key").unlink(missing_ok=True)
            (stage.folder / each).with_suffix(".pub").unlink(missing_ok=True)
            write_keypair(stage.folder / each)
        (file,) = (Path(word) for word in stage.host_command(commands, host, role) if word.endswith(".toml"))

        settings = read_host(file, {}, boots=role == "primary")

        assert settings.problems == {}
        assert settings.kind.name == ("qemu" if commands.is_qemu else "riscv")


def test_only_the_first_primary_may_create_the_record(stage: Stage) -> None:
    assert "--create" in stage.host_command(COMMANDS, "A", "primary")
    assert "--create" not in stage.host_command(COMMANDS, "A", "standby")


def test_every_card_is_plugged_into_its_port_of_the_switch(stage: Stage) -> None:
    switch = stage.switch_command()
    switch_cables = [cable_ends(word) for word in switch if word.startswith("udp:")]
    cards = [settings_of(stage, host)["nic"] for host in HOSTS]
    cards.append(option(stage.client_command(seed=1), "--nic"))

    assert [cable_ends(card)[::-1] for card in cards] == switch_cables
    assert [stage.switch_port(host) for host in HOSTS] == [0, 1]


def test_options_of_the_run_reach_the_hosts(stage: Stage) -> None:
    settings = settings_of(stage, "B", HostCommands(interval_ms=12.5, engine="remus"))

    assert (settings["interval"], settings["engine"]) == (12.5, "remus")
    assert "latency" not in settings


def test_a_latency_target_reaches_the_hosts(stage: Stage) -> None:
    assert settings_of(stage, "A", HostCommands(latency_ms=7.5))["latency"] == 7.5


def test_each_host_records_in_a_folder_of_its_own(stage: Stage) -> None:
    folders = {settings_of(stage, host, HostCommands(history="/past"))["history"] for host in HOSTS}

    assert folders == {"/past/A", "/past/B"}
    assert "history" not in settings_of(stage, "A", HostCommands())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_free_ports_are_free_and_different(kind: socket.SocketKind) -> None:
    ports = free_ports(kind, 5)

    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket(socket.AF_INET, kind) as opened:
            opened.bind(("127.0.0.1", port))


def test_a_free_port_is_none_that_the_system_gives_to_others_and_none_that_was_given_just_now() -> None:
    """Regression: a demo failed when another socket took a host's port before the host started, or was back."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
    ports = [port for kind in kinds for port in free_ports(kind, 20)]

    assert len(set(ports)) == 60
    assert set(ports) <= set(PORTS)


def test_two_processes_find_different_free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for process in (4_711, 4_712):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        found.append(set(free_ports(socket.SOCK_STREAM, 20) + free_ports(socket.SOCK_DGRAM, 20)))

    assert not found[0] & found[1]


def test_too_few_free_ports_are_told_and_not_looked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        port = busy.getsockname()[1]
        monkeypatch.setattr(stage_module, "PORTS", range(port, port + 1))

        with pytest.raises(BrokenError, match=r"2 ports of 127\.0\.0\.1 are needed; of 128, 0 are free"):
            free_ports(socket.SOCK_STREAM, 2)
