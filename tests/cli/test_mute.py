"""A host that does not answer is told of, and no order goes to another host in its stead."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import Run
from .hostpair import Hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(stack, tmp_path, silence_ms=300_000)


def stop(pid: int) -> None:
    """Stop a process, and wait until it is."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def test_an_active_that_is_stopped_is_listed_and_no_order_for_it_goes_to_its_standby(ftvm: Run, hosts: Hosts) -> None:
    """Regression: `ftvm status` left it out and said that all was well; `ftvm ctl stop` ended the standby."""
    stop(hosts.primary.pid)
    place = f"ipc://{hosts.folder}"
    mute = f"process {hosts.primary.pid} (guest 'guest') does not answer: it is stopped, or hangs; "
    mute += f"wake it with `kill -CONT {hosts.primary.pid}`; if it stays mute, "
    mute += f"end it with `kill -9 {hosts.primary.pid}`, and its standby goes on"

    status = ftvm("status", "--control", place)
    told = json.loads(ftvm("status", "--control", place, "--json").out)
    order = ftvm("ctl", "stop", "--guest", "guest", "--control", place)

    assert status.status == 1
    assert mute in status.out.splitlines()
    assert [each["pid"] for each in told if "error" in each] == [hosts.primary.pid]
    assert order.status == 1
    assert mute in order.err
    assert hosts.standby.poll() is None

    stopped = ftvm("ctl", "stop", "--control", f"{place}/guest.2.sock")
    hosts.standby.communicate()
    assert stopped.out.startswith("guest 'guest': stopped, but not cleanly: the record still names this host")
    assert (stopped.status, hosts.standby.returncode) == (1, 1)
