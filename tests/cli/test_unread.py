"""A host whose output nobody reads: the guest goes on, and what was lost is told."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.runtime.status import Status
from ftvm.service.connection import Connection, connect

from .hostpair import WAIT_SECONDS, host, port_of_nobody, wait_for

PATIENT = ("--heartbeat", "100", "--silence", "20000")
TICKING = ("--program", "ticks", "--append", "ms=5 beats=0")
"""A guest that writes all the time, and so makes checkpoints all the time."""
PIPE_BYTES = 4096
OUTPUTS = 900
"""Of the thousand that the program makes: by then the start is long over, before whose end a signal ends with 130."""
EPOCHS = 100


@contextmanager
def unread_host(folder: Path, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a primary whose stdout and stderr are one small pipe, which is full and not read."""
    (folder / "record").mkdir()
    command = [
        *(sys.executable, "-P", "-m", "ftvm", "run", "--listen", "tcp://127.0.0.1:0", "--memory", "8M"),
        *("--arbiter", f"file://{folder / 'record'}", "--create", "--program", "console"),
        *("--control", f"ipc://{folder}/control.sock", *options),
    ]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(writing, False)
    assert os.write(writing, b"x" * 4095 + b"\n") == PIPE_BYTES
    os.set_blocking(writing, True)
    with os.fdopen(reading, "rb") as pipe, subprocess.Popen(command, stdout=writing, stderr=writing) as process:
        os.close(writing)
        process.stdout = pipe
        try:
            wait_for_socket(process, folder)
            yield process
        finally:
            process.kill()


def wait_for_socket(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    for _ in range(WAIT_SECONDS * 20):
        if (folder / "control.sock").exists():
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError("no control socket")


def run_until(machine: Connection, process: "subprocess.Popen[bytes]", is_true: Callable[[Status], bool]) -> None:
    """Ask the host until its status is such; it must run on meanwhile."""
    for _ in range(1_000):
        if is_true(machine.guest().status()):
            return
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
    raise AssertionError(f"it did not come to that: {machine.guest().status()}")


def test_a_pair_whose_active_nobody_reads_stays_a_pair_and_its_guest_is_handed_over(tmp_path: Path) -> None:
    """Regression: the active sent no heartbeat, was taken over from, and did not end when it was told to."""
    port = port_of_nobody()
    with (
        unread_host(tmp_path, "--listen", f"tcp://127.0.0.1:{port}", *PATIENT, *TICKING) as process,
        host(
            *("standby", "--listen", "tcp://127.0.0.1:0", "--peer", f"tcp://127.0.0.1:{port}", *PATIENT),
            *("--arbiter", f"file://{tmp_path / 'record'}"),
        ) as standby,
        connect(f"ipc://{tmp_path}/control.sock", timeout=WAIT_SECONDS) as machine,
    ):
        wait_for(standby, "Committed")
        run_until(machine, process, lambda status: status.standby is not None)
        since = machine.guest().status()
        run_until(machine, process, lambda status: status.epoch >= since.epoch + EPOCHS)

        process.send_signal(signal.SIGTERM)
        told = wait_for(standby, "SwitchedHere")

        assert process.wait(WAIT_SECONDS) == 0
    assert told["generation"] == 3


@pytest.mark.parametrize("options", [[], ["--json"], ["--log-format", "json"]], ids=["text", "json", "log"])
def test_a_host_that_nobody_reads_runs_on_and_ends_in_order(options: list[str], tmp_path: Path) -> None:
    """Regression: its loop stood still in a write; it ended after a minute, as a bug, and the record named it still."""
    with unread_host(tmp_path, *options) as process:
        with connect(f"ipc://{tmp_path}/control.sock", timeout=WAIT_SECONDS) as machine:
            run_until(machine, process, lambda status: status.outputs_released >= OUTPUTS)

        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0

    assert FileRecordStore(tmp_path / "record").read("guest").active is None
