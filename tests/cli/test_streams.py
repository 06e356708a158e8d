"""Hosts whose output goes nowhere: the guest lives on."""

import json
import os
import select
import signal
import subprocess
import sys
import tty
from pathlib import Path

import pytest

FTVM = [sys.executable, "-P", "-m", "ftvm"]
WAIT_SECONDS = 60


def primary(folder: Path, *options: str) -> list[str]:
    words = ["--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{folder}", "--create", "--memory", "8M"]
    return [*FTVM, "run", *words, *options]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_host_with_closed_streams_runs_its_guest_to_the_end(closed: str, options: list[str], tmp_path: Path) -> None:
    command = " ".join(primary(tmp_path, "--program", "hello", *options))

    ended = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, timeout=WAIT_SECONDS, check=False)

    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    record = max(tmp_path.iterdir()).read_bytes()
    assert record.startswith(b"ftvm-record 1\n")  # and nothing of what was printed is in it


def test_a_host_whose_reader_ends_goes_on(tmp_path: Path) -> None:
    command = primary(tmp_path, "--program", "console", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stderr is not None
        json.loads(host.stdout.readline())
        host.stdout.close()
        host.stderr.close()

        with pytest.raises(subprocess.TimeoutExpired):
            host.wait(1)  # a status is due four times in that time

        host.send_signal(signal.SIGTERM)
        assert host.wait(WAIT_SECONDS) == 0


def test_a_disk_that_is_full_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            primary(tmp_path, "--program", "hello", "--json"),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )

    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [["version"], ["keygen", "a", "--json"], ["simulate", "--seed", "1", "--trace"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_whose_output_cannot_be_written_says_so_and_fails(
    words: list[str], unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it was told as a bug in ftvm."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*FTVM, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, timeout=WAIT_SECONDS, check=False
        )

    assert ended.stderr == b"ftvm: cannot write the output: No space left on device\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_that_can_say_nothing_at_all_fails_quietly(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*FTVM, "version"], stdout=full, stderr=full, timeout=WAIT_SECONDS, check=False)

    assert ended.returncode == 1


def test_what_was_typed_at_a_guests_console_is_not_left_for_the_shell(tmp_path: Path) -> None:
    """Regression: the shell ran it when the host had ended, and what the terminal answered to the guest's escapes."""
    controller, terminal = os.openpty()
    tty.setcbreak(terminal)
    words = [
        "run",
        "--listen",
        "tcp://127.0.0.1:0",
        "--arbiter",
        f"file://{tmp_path}",
        "--create",
        "--program",
        "console",
    ]
    command = ["setsid", "--ctty", *FTVM, *words, "--memory", "8M", "--json"]  # as one that a shell has started
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert any(b"RoleChanged" in line for line in host.stdout)
        os.write(controller, b"dmesg; reboot\n")
        assert select.select([terminal], [], [], WAIT_SECONDS)[0]

        host.terminate()
        host.communicate(timeout=WAIT_SECONDS)

        assert not select.select([terminal], [], [], 0)[0]
    for fd in (controller, terminal):
        os.close(fd)
