import socket
from pathlib import Path

import pytest

from ftvm.guests.datagram import cable_ends
from ftvm.lab.stage import HOSTS, HostCommands, Stage, free_ports

COMMANDS = HostCommands(program=("ftvm",), interval_ms=12.5)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage.prepare(tmp_path)


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_hosts_listen_where_the_other_looks_for_them(stage: Stage) -> None:
    a, b = (stage.host_command(COMMANDS, host, "standby") for host in HOSTS)

    assert option(a, "--peer") == option(b, "--listen")
    assert option(b, "--peer") == option(a, "--listen")
    assert option(a, "--arbiter") == option(b, "--arbiter")


def test_each_host_has_its_own_secret_key_and_allows_only_the_other(stage: Stage) -> None:
    a = stage.host_command(COMMANDS, "A", "standby")
    names = [stage.keygen_command(COMMANDS, host)[-1] for host in HOSTS]

    assert option(a, "--key") == f"{names[0]}.key"
    assert option(a, "--allow") == f"{names[1]}.pub"


def test_only_the_first_primary_may_create_the_record(stage: Stage) -> None:
    assert "--create" in stage.host_command(COMMANDS, "A", "primary")
    assert "--create" not in stage.host_command(COMMANDS, "A", "standby")


def test_every_card_is_plugged_into_its_port_of_the_switch(stage: Stage) -> None:
    switch = stage.switch_command()
    switch_cables = [cable_ends(word) for word in switch if word.startswith("udp:")]
    cards = [option(stage.host_command(COMMANDS, host, "standby"), "--nic") for host in HOSTS]
    cards.append(option(stage.client_command(seed=1), "--nic"))

    assert [cable_ends(card)[::-1] for card in cards] == switch_cables
    assert [stage.switch_port(host) for host in HOSTS] == [0, 1]


def test_options_of_the_run_reach_the_hosts(stage: Stage) -> None:
    command = stage.host_command(HostCommands(interval_ms=12.5, engine="remus"), "B", "standby")

    assert (option(command, "--interval"), option(command, "--engine")) == ("12.5", "remus")
    assert "--latency" not in command


def test_a_latency_target_reaches_the_hosts(stage: Stage) -> None:
    command = stage.host_command(HostCommands(latency_ms=7.5), "A", "primary")

    assert option(command, "--latency") == "7.5"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_free_ports_are_free_and_different(kind: socket.SocketKind) -> None:
    ports = free_ports(kind, 5)

    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket(socket.AF_INET, kind) as opened:
            opened.bind(("127.0.0.1", port))
