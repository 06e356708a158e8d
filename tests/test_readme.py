"""Every command in README.md and docs/ is run: by CI where a marker says so, else here, as a newcomer would run it.

Above each fenced block of commands or Python stands a marker: `ci: NAME` and `full: NAME` are run by .ci/run and by a
part of .ci/full; `walk: NAME` are the steps of one walk through two hosts, and `run: NAME` single commands, both run
here; `example: NAME` is a whole program, run by tests/docs; `compiles` is a piece of a program of the reader's; `not
run: REASON` is what no test can do, and these are counted.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ftvm
from ftvm.cli.main import _COMMANDS
from ftvm.lab.stage import free_ports
from ftvm.protocol.stop import LIMIT_NS
from ftvm.runtime.host import LAST_REQUEST_SECONDS
from ftvm.units import nanos_to_seconds

from .history.test_pipeline import Host

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MANUAL = "\n".join(page.read_text() for page in PAGES)
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
NOT_RUN = 10
"""How many blocks of commands nobody runs; each says why."""
WAIT_SECONDS = 240.0


@dataclass(frozen=True)
class Block:
    marker: str
    name: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    pattern = (
        r"(?:<!-- (?P<marker>[a-z ]+)(?:: (?P<name>[^\n]+))? -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)\n```\n"
    )
    for found in re.finditer(pattern, MANUAL, re.DOTALL):
        yield Block(found["marker"] or "", found["name"] or "", found["language"], found["text"])


def block(marker: str, name: str) -> str:
    (found,) = [each.text for each in blocks() if (each.marker, each.name) == (marker, name)]
    return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Shell"]:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in (("ftvm", "-m ftvm"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "try").mkdir()
    made = Shell(tmp_path / "try")
    yield made
    made.close()


class Shell:
    """Runs what the README says, with the ports of this machine that are free in the place of those it names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._background: list[subprocess.Popen[str]] = []
        tcp = free_ports(socket.SOCK_STREAM, 2)
        udp = free_ports(socket.SOCK_DGRAM, 4)
        self._ports = dict(zip(("7771", "7772", "9000", "9001", "9002", "9003"), map(str, (*tcp, *udp)), strict=True))

    def run(self, text: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", self._here(text)]
        ran = subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def start(self, text: str) -> subprocess.Popen[str]:
        command = ["bash", "-c", f"exec {self._here(text)}"]
        started = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._background.append(started)
        return started

    def close(self) -> None:
        for each in self._background:
            each.kill()
            each.communicate()

    def _here(self, text: str) -> str:
        return re.sub(r"\b(777[12]|900[0-3])\b", lambda found: self._ports[found[1]], text)


def until(shell: Shell, is_so: Any) -> list[dict[str, Any]]:
    """Return the statuses of all hosts once they are as wanted."""
    ends_at = time.monotonic() + WAIT_SECONDS
    told: list[dict[str, Any]] = []
    while time.monotonic() < ends_at:
        told = json.loads(shell.run("ftvm status --json || true"))
        if is_so({status["role"]: status for status in told if "role" in status}):  # one that does not answer has none
            return told
    raise AssertionError(f"the hosts never came to be as wanted: {told}")


def test_two_hosts_by_hand_work_as_the_readme_says(shell: Shell) -> None:
    shell.run(block("walk", "keys"))
    first = shell.start(block("walk", "a"))
    until(shell, lambda roles: "active" in roles)
    second = shell.start(block("walk", "b"))
    until(shell, lambda roles: roles.get("active", {}).get("standby") is not None)

    told = shell.run(block("walk", "ask"))

    assert "protected by" in told
    assert "(hybrid" in told
    assert until(shell, lambda roles: roles["active"]["standby"] is not None)[0]["generation"] == 3
    second.kill()
    until(shell, lambda roles: "active" in roles and roles["active"]["generation"] == 4)
    second = shell.start(block("walk", "b"))
    until(shell, lambda roles: roles.get("active", {}).get("standby") is not None)
    stop, stop_again = block("walk", "stop").splitlines()
    shell.run(stop)
    said, _ = first.communicate(timeout=WAIT_SECONDS)
    until(shell, lambda roles: list(roles) == ["active"] and roles["active"]["standby"] is None)
    shell.run(stop_again)
    second.communicate(timeout=WAIT_SECONDS)
    assert (first.returncode, second.returncode) == (0, 0)
    for word in ("  seen: ", "decided: the arbiter's record went", "cost: "):
        assert word in said


def test_the_readme_says_how_long_a_stop_may_take() -> None:
    bound = f"takes at most {nanos_to_seconds(LIMIT_NS):g} s, and {LAST_REQUEST_SECONDS:g} s more while a request"

    assert bound in " ".join(MANUAL.split())


def test_a_qemu_on_two_hosts_works_as_the_readme_says(shell: Shell) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")
    shell.run(block("walk", "keys"))
    shell.run("truncate -s 64M a.img b.img")
    first = shell.start(block("walk", "qemu-a"))
    second = shell.start(block("walk", "qemu-b"))
    until(shell, lambda roles: roles.get("active", {}).get("standby") is not None)

    shell.run("ftvm ctl switchover --guest vm2")
    until(shell, lambda roles: roles.get("active", {}).get("generation", 0) >= 3 and roles["active"]["standby"])
    first.kill()  # by now it is the standby, unless the machine is so busy that the guest has moved again

    until(shell, lambda roles: list(roles) == ["active"] and roles["active"]["standby"] is None)
    second.kill()


def test_a_config_is_checked_as_the_readme_says(shell: Shell) -> None:
    shell.run("mkdir shared && ftvm keygen a && ftvm keygen b")
    config = (ROOT / "examples" / "deploy" / "vm1.toml").read_text()
    for there, here in (("/etc/ftvm/", ""), ("file:///shared/vm1", f"file://{shell._folder}/shared")):
        config = config.replace(there, here)
    config = config.replace(":7777", ":7771").replace("host-b:7771", "127.0.0.1:7772").replace(":9753", ":0")
    (shell._folder / "vm1.toml").write_text(shell._here(config))

    assert "ok      settings: valid" in shell.run(block("run", "check"))


def test_files_for_two_machines_are_written_as_the_manual_says(shell: Shell) -> None:
    command = block("run", "setup")

    shell.run(f"{command} || [ $? = 1 ]")  # a check finds something where host-a is this machine

    for name in ("host-a", "host-b"):
        assert 'memory = "1G"' in (shell._folder / "vm2" / name / "vm2.toml").read_text()


def test_guests_are_listed_in_five_lines_as_the_readme_says(shell: Shell) -> None:
    shell.run(block("walk", "keys"))
    shell.start(block("walk", "a"))
    until(shell, lambda roles: "active" in roles)
    program = block("run", "list")
    (shell._folder / "list.py").write_text(program)

    assert shell.run("python list.py") == "vm1 active None\n"
    assert len([line for line in program.splitlines() if line]) <= 5


def test_completion_works_as_the_readme_says(shell: Shell) -> None:
    shell.run(block("run", "completion") + "\ncomplete -p ftvm")


def test_a_bug_is_found_backwards_as_the_manual_says(shell: Shell) -> None:
    for tool, package in (("riscv64-unknown-elf-gcc", "gcc-riscv64-unknown-elf"), ("gdb-multiarch", "gdb-multiarch")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: {package})")
    (shell._folder / "examples").symlink_to(ROOT / "examples")
    page = (ROOT / "docs" / "time-travel.md").read_text()
    said = shell.run(block("run", "past-record"))
    assert said in page.replace("    ", "")
    server = shell.start(block("run", "past-debug"))
    assert server.stdout is not None
    shown = [server.stdout.readline(), server.stdout.readline()]
    assert shown[0].strip() in page
    told = "\n".join(re.findall(r"```gdb\n(.*?)```", page, re.DOTALL)).splitlines()
    commands = [line.removeprefix("(gdb) ") for line in told if line.startswith("(gdb) ")]
    (shell._folder / "commands").write_text("set width 0\n" + "\n".join([*commands, "reverse-step", "detach"]))

    answers = shell.run(f"{shown[1].strip()} -nx -batch -x commands 2>&1")

    server.communicate(timeout=WAIT_SECONDS)
    for line in told:
        assert line.startswith("(gdb) ") or line in answers, answers
    assert server.returncode == 0
    shell.run(block("run", "past-cover"))
    assert "rename_account" in (shell._folder / "lost.html").read_text()


def test_the_past_is_looked_into_and_kept_as_the_manual_says(shell: Shell) -> None:
    recorded = Host(shell._folder / "past")
    recorded.run(80)
    recorded.finish()

    for commands in (block("run", "history-look"), block("run", "history-keep")):
        shell.run(commands.replace("STORE", "past").replace("EPOCH", "40").replace("LATER", "60"))


def test_every_marker_stands_above_a_block() -> None:
    of_tables = r"<!-- (?:table: .*|end of table) -->"

    assert len(re.findall(r"<!-- .* -->", re.sub(of_tables, "", MANUAL))) == len(list(blocks()))


def test_every_block_is_run_by_somebody() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    full = "".join(part.read_text() for part in (ROOT / ".ci" / "parts").iterdir())
    here = Path(__file__).read_text()
    examples = (Path(__file__).parent / "docs" / "test_examples.py").exists()
    lost = []
    for each in blocks():
        match each.marker:
            case "ci":
                is_run = f"manual_command {each.name}" in ci
            case "full":
                is_run = f"manual_command {each.name}" in full
            case "walk" | "run":
                is_run = f'block("{each.marker}", "{each.name}")' in here
            case "example" | "compiles":
                is_run = examples and each.language == "python"
            case _:
                is_run = each.marker == "not run" and len(each.name.split()) >= 3
        if not is_run:
            lost.append(each)

    assert lost == []
    assert len(list(blocks())) == MANUAL.count("\n```sh\n") + MANUAL.count("\n```python\n")
    assert sum(each.marker == "not run" for each in blocks()) == NOT_RUN


def test_python_in_the_manual_compiles_and_uses_names_that_there_are() -> None:
    pieces = [each.text for each in blocks() if each.language == "python"]

    for piece in pieces:
        compile(piece, "the manual", "exec")
        assert set(re.findall(r"(?<!from )\bftvm\.([A-Za-z_]+)", piece)) <= {*ftvm.__all__, "testing", "guests"}
    assert len(pieces) >= 2


def test_every_command_is_in_the_manual_and_every_one_in_the_manual_exists() -> None:
    told = set(re.findall(r"\bftvm ([a-z]+)\b", " ".join(re.findall(r"`([^`\n]+)`", COMMANDS))))

    assert told == set(_COMMANDS)
