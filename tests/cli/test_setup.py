"""`ftvm setup` writes what two hosts or more need, asks or is told, leaves nothing behind that is wrong, and checks."""

import json
import socket
import stat
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ftvm.cli.kinds import KINDS, read_host
from ftvm.cli.main import ftvm as ftvm_command
from ftvm.cli.setup import setup
from ftvm.cli.setupfiles import PlannedHost, parse_node, write_folders
from ftvm.errors import ConfigError
from ftvm.service.socketfiles import own_endpoint

from .conftest import Run
from .hostpair import host, port_of_nobody, wait_for


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.chdir(tmp_path)


def options(folder: Path, *nodes: str, guest: str = "vm1") -> list[str]:
    named = [word for node in nodes for word in ("--node", node)]
    return ["setup", "--batch", "--guest", guest, "--kind", "riscv", "--arbiter", f"file://{folder}/shared", *named]


def test_two_hosts_start_with_what_was_written_and_protect_the_guest(ftvm: Run, tmp_path: Path) -> None:
    ports = port_of_nobody(), port_of_nobody()
    outcome = ftvm(*options(tmp_path, *(f"127.0.0.1:{port}" for port in ports)), "--set", "program=console")
    assert outcome.status == 0
    commands = [line.partition(": ftvm ")[2].split() for line in outcome.out.splitlines() if ": ftvm " in line]

    with ExitStack() as stack:
        first, second = (
            stack.enter_context(host(*command, "--control", f"ipc://{tmp_path}/{number}"))
            for number, command in enumerate(commands)
        )
        wait_for(first, "Protected")

        assert second.poll() is None


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("host-a", "tcp://0.0.0.0:7777"),
        ("127.0.0.1:7000", "tcp://127.0.0.1:7000"),
        ("[fd00::1]:7000", "tcp://[::]:7000"),
        ("[::1]:7000", "tcp://[::1]:7000"),
    ],
)
def test_a_host_listens_where_its_peers_can_reach_it(text: str, listen: str) -> None:
    assert parse_node(text).listen == listen


def test_what_to_do_next_is_said_for_each_host(ftvm: Run, tmp_path: Path) -> None:
    said = ftvm(*options(tmp_path, "host-a", "host-b:7000")).out

    assert f"scp -p {tmp_path}/vm1/host-a/* root@host-a:/etc/ftvm/" in said
    assert "on host-b: ftvm check /etc/ftvm/vm1.toml --role standby" in said
    assert f"ftvm init --arbiter file://{tmp_path}/shared --guest vm1" in said
    assert "on host-a: systemctl start ftvm-run@vm1; on host-b: systemctl enable --now ftvm-standby@vm1" in said
    assert "This machine is one of the hosts" not in said


def test_each_host_gets_its_own_secret_key_and_the_others_public_ones(ftvm: Run, tmp_path: Path) -> None:
    ftvm(*options(tmp_path, "host-a", "host-b", "host-c"))

    for name in ("host-a", "host-b", "host-c"):
        folder = tmp_path / "vm1" / name
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [f"{name}.key", "host-a.pub", "host-b.pub", "host-c.pub", "vm1.toml"]
        )
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    said = tomllib.loads((tmp_path / "vm1" / "host-b" / "vm1.toml").read_text())
    assert said["peer"] == ["tcp://host-a:7777=host-a.pub", "tcp://host-c:7777=host-c.pub"]
    assert said["key"] == "host-b.key"


def test_questions_are_asked_for_what_no_option_says(tmp_path: Path) -> None:
    answers = ["web", "riscv", "host-a", "host-b:7000", f"file://{tmp_path}/shared", "ticks", "16M", "udp:9001:9000"]

    ran = CliRunner().invoke(setup, [], input="\n".join(answers) + "\n")

    assert ran.exception is None or ran.exit_code == 0
    said = tomllib.loads((tmp_path / "web" / "host-a" / "web.toml").read_text())
    assert (said["guest"], said["program"], said["memory"], said["nic"]) == ("web", "ticks", "16M", "udp:9001:9000")
    assert said["peer"] == ["tcp://host-b:7000"]
    other = tomllib.loads((tmp_path / "web" / "host-b" / "web.toml").read_text())
    assert said["mac"] == other["mac"] != "52:54:00:12:34:56"


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_of_any_kind_needs_no_more_than_its_hosts(ftvm: Run, tmp_path: Path, kind: str) -> None:
    assert ftvm(*options(tmp_path, "host-a", "host-b"), "--kind", kind).status == 0

    said = tomllib.loads((tmp_path / "vm1" / "host-b" / "vm1.toml").read_text())
    assert said["kind"] == kind


def test_nobody_to_answer_is_an_error_that_names_the_options(
    ftvm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", (tmp_path / "nothing").open("w+"))

    outcome = ftvm("setup", "--guest", "vm1")

    assert outcome.status == 2
    assert "no answer, so nothing was written: add --batch, or --kind" in outcome.err
    sys.stdin.close()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--set", "interval=0"], "interval: remus: an interval of 0 ms"),
        (["--set", "interval=soon"], "interval is a number"),
        (["--set", "speed=3"], "the names are those of a guest file"),
        (["--set", "engine=warp"], "engine: 'warp': write one of"),
        (["--node", "host-a"], "is there twice"),
        (["--node", "a b"], "write HOST or HOST:PORT"),
        (["--node", "host-c:99999"], "write HOST or HOST:PORT"),
        (["--arbiter", "file:shared"], "arbiter"),
        (["--arbiter", "memory:x"], "the other host cannot see it"),
    ],
)
def test_a_wrong_setting_is_named_and_leaves_nothing_behind(
    ftvm: Run, tmp_path: Path, more: list[str], complaint: str
) -> None:
    outcome = ftvm(*options(tmp_path, "host-a", "host-b"), *more)

    assert outcome.status == 2
    assert complaint in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_nothing_is_overwritten(ftvm: Run, tmp_path: Path) -> None:
    ftvm(*options(tmp_path, "host-a", "host-b"))
    before = (tmp_path / "vm1" / "host-a" / "host-a.key").read_text()

    outcome = ftvm(*options(tmp_path, "host-a", "host-b"))

    assert outcome.status == 2
    assert "nothing is overwritten" in outcome.err
    assert (tmp_path / "vm1" / "host-a" / "host-a.key").read_text() == before


def test_a_check_that_fails_is_told_and_the_files_are_there(ftvm: Run, tmp_path: Path) -> None:
    gone = [word.replace("/shared", "/gone") for word in options(tmp_path, "127.0.0.1:7001", "127.0.0.1:7002")]

    outcome = ftvm(*gone)

    assert outcome.status == 1
    assert "FAILURE arbiter" in outcome.out
    assert (tmp_path / "vm1" / "127.0.0.1-7002" / "vm1.toml").exists()


def test_a_program_gets_json(ftvm: Run, tmp_path: Path) -> None:
    told = json.loads(ftvm(*options(tmp_path, "host-a", "host-b"), "--json").out)

    assert told["guest"] == "vm1"
    assert told["files"]["host-b"] == str(tmp_path / "vm1" / "host-b" / "vm1.toml")
    assert told["findings"] == []


def test_words_for_qemu_go_into_both_files(ftvm: Run, tmp_path: Path) -> None:
    words = [
        *options(tmp_path, "host-a", "host-b"),
        "--kind",
        "qemu",
        "--set",
        "disk=a.img,b.img",
        "--",
        "-cpu",
        "qemu64",
    ]

    assert ftvm(*words).status == 0
    for name in ("host-a", "host-b"):
        said = tomllib.loads((tmp_path / "vm1" / name / "vm1.toml").read_text())
        assert (said["arguments"], said["disk"]) == (["-cpu", "qemu64"], ["a.img", "b.img"])


hosts = st.sampled_from(["host-a", "b.example", "10.0.0.1", "[fe80::1]", "localhost"])
named = st.tuples(hosts, st.none() | st.integers(1, 65_535)).map(
    lambda pair: pair[0] if pair[1] is None else f"{pair[0]}:{pair[1]}"
)


@given(texts=st.lists(named, min_size=2, max_size=4), guest=st.text(min_size=1, max_size=12))
def test_whatever_names_there_are_each_host_reads_what_was_written(
    texts: list[str], guest: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nodes: list[PlannedHost] = []
    for text in texts:
        try:
            nodes.append(parse_node(text, nodes))
        except ConfigError:
            assert len({node.endpoint for node in nodes}) == len(nodes)
    if len(nodes) < 2:
        return
    folder = tmp_path_factory.mktemp("setup") / "made"

    try:
        write_folders(folder, nodes, guest=guest, kind="riscv", arbiter="file:///shared", settings={"program": "hello"})
    except ConfigError:
        assert not folder.exists()
        return

    for number, node in enumerate(nodes):
        (file,) = (folder / node.name).glob("*.toml")
        told = read_host(file, {}, boots=number == 0)
        assert told.problems == {}
        assert told["guest"] == guest


# --- completion --------------------------------------------------------------------------------------------------


def completions(before: list[str], begun: str) -> list[tuple[str, str]]:
    found = ShellComplete(ftvm_command, {}, "ftvm", "_FTVM_COMPLETE").get_completions(before, begun)
    return [(each.type, each.value) for each in found]


def test_a_shell_completes_the_guests_of_this_machine() -> None:
    Path("ftvm").mkdir()
    for number, guest in enumerate(("vm1", "vm 2", "web")):
        name = Path(own_endpoint(Path("ftvm"), guest, number)).name
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"ftvm/{name}")  # by a relative path, as that of a test may be too long for a socket

    assert completions(["status", "--guest"], "v") == [("plain", "vm 2"), ("plain", "vm1")]
    assert completions(["ctl", "switchover", "--guest"], "w") == [("plain", "web")]
    assert completions(["stop"], "w") == [("plain", "web")]


@pytest.mark.parametrize("command", [["run", "--key"], ["standby", "--allow"], ["check"], ["run", "--disk"]])
def test_a_shell_completes_files_where_a_file_is_named(command: list[str]) -> None:
    assert completions(command, "") == [("file", "")]
