"""`ftvm run` of kind qemu from outside: what it refuses, and a host of it by hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli.run import run
from ftvm.errors import ArbiterError, ConfigError, GuestError
from ftvm.runtime.urgency import why_not_urgent

from ..leftovers import children_of, policies_of

HOST = ("--kind", "qemu", "--listen", "ipc:///tmp/none", "--arbiter", "file:///tmp")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--", "-m", "4G"], "-m 4G is refused: ftvm sets it; use --memory"),
        (["--", "-device", "vfio-pci,host=01:00.0"], "cannot be protected: a real device"),
        (["--", "-device", "vhost-vsock-pci"], "cannot be protected: another process"),
        (["--", "-netdev", "tap,id=n"], "is not held until it is safe"),
        (["--qemu", "qemu-system-none"], "cannot be started"),
        (["--disk", "/nowhere/disk.img"], "the disk /nowhere/disk.img cannot be opened: No such file"),
        (["--memory", "1000K"], "whole MiB"),
    ],
)
def test_what_cannot_be_protected_is_refused(words: list[str], reason: str) -> None:
    result = CliRunner().invoke(run, [*HOST, *words])

    assert isinstance(result.exception, ConfigError)
    assert reason in str(result.exception)


@pytest.fixture
def installed() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU: apt install qemu-system-x86")


@pytest.mark.usefixtures("installed")
def test_qemus_own_words_are_told() -> None:
    result = CliRunner().invoke(run, [*HOST, "--memory", "16M", "--", "-cpu", "no-such"])

    assert isinstance(result.exception, GuestError)
    assert "unable to find CPU model 'no-such'" in str(result.exception)


@contextmanager
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a host until its guest is active there; tell it to stop behind."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    arguments = [
        sys.executable,
        "-P",
        "-m",
        "ftvm",
        "run",
        "--kind",
        "qemu",
        "--listen",
        f"ipc://{tmp_path}/a",
        "--json",
    ]
    arguments += ["--arbiter", f"file://{tmp_path}/arbiter", "--create", "--memory", "16M", "--disk", str(disk)]
    (tmp_path / "arbiter").mkdir()

    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        for line in host.stdout:
            if json.loads(line).get("status", {}).get("role") == "active":
                break
        yield host
        host.send_signal(signal.SIGTERM)
        host.communicate(timeout=60)


@pytest.mark.usefixtures("installed")
def test_a_host_runs_until_it_is_told_to_stop_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as host:
        (qemu,) = children_of(host.pid)

    assert host.returncode == 0
    assert not Path(f"/proc/{qemu}").exists()


@pytest.mark.usefixtures("installed")
def test_a_qemu_that_hangs_is_named_and_killed_when_its_host_is_told_twice_to_stop(tmp_path: Path) -> None:
    """Regression: nothing was said, and the host waited for a minute."""
    with running(tmp_path) as host:
        (qemu,) = children_of(host.pid)
        os.kill(qemu, signal.SIGSTOP)
        host.send_signal(signal.SIGTERM)
        assert host.stderr is not None
        named = next(line for line in host.stderr if "QEMU" in line)

    assert "QEMU has not answered query-status, stop for 1 s" in named
    assert host.returncode == 1
    assert not Path(f"/proc/{qemu}").exists()


@pytest.mark.usefixtures("installed")
def test_a_hosts_loop_goes_before_all_else_on_the_machine_and_its_qemu_does_not(tmp_path: Path) -> None:
    """A loop that waits for a processor while a guest writes to its disk is taken for dead by the other host."""
    if (reason := why_not_urgent()) is not None:
        pytest.skip(f"needs real-time priority: {reason}")

    with running(tmp_path) as host:
        processes = (host.pid, *children_of(host.pid))
        policies = [policies_of(map(int, os.listdir(f"/proc/{pid}/task"))) for pid in processes]

    assert policies[0].count(os.SCHED_RR | os.SCHED_RESET_ON_FORK) == 2  # its loop and its heart
    assert set(policies[1]) == {os.SCHED_OTHER}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_path_among_a_files_arguments_counts_from_its_folder(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "word.bin").write_bytes(b"word")
    path = tmp_path / "vm.toml"
    path.write_text(
        f'kind = "qemu"\nlisten = "ipc://{tmp_path}/a"\narbiter = "file://{tmp_path}/nowhere"\nmemory = "16M"\n'
        'control = "none"\narguments = ["-fw_cfg", "name=opt/word,file=word.bin"]\n'
    )

    result = CliRunner().invoke(run, [str(path)])

    assert isinstance(result.exception, ArbiterError if is_there else GuestError), result.exception
