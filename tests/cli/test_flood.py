"""A flood of idle connections, from somebody without a key, keeps a pair from nothing that saves its guest."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ftvm.service.connection import connect

from .hostpair import WAIT_SECONDS, Hosts, events_until

DESCRIPTORS = 256
"""Few, so that a small flood fills the table."""
STRANGERS = 600
TROUBLES_MAX = 10
"""The arbiter is asked ten times a second, and one that cannot be read is told of each time: without a remedy it was
about a hundred times."""


@contextmanager
def flooded(port: int) -> Iterator[None]:
    """Keep a port full of strangers."""
    command = [sys.executable, str(Path(__file__).with_name("flood.py")), str(port), str(STRANGERS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as flood:
        try:
            assert flood.stdout is not None
            assert flood.stdout.readline() == b"flooded\n"
            yield
            assert flood.poll() is None
        finally:
            flood.kill()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        pair = Hosts(stack, tmp_path)
        for process in (pair.primary, pair.standby):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield pair


def troubles_until(process: "subprocess.Popen[str]", event: str) -> int:
    """Return how often a host could not ask its arbiter before an event came."""
    return sum(told.get("event") == "ArbiterTrouble" for told in events_until(process, event))


def test_a_flood_of_strangers_does_not_keep_a_standby_from_taking_over(hosts: Hosts) -> None:
    """Regression: the table of descriptors was full, the arbiter could not be read, and nobody ran the guest."""
    with flooded(hosts.ports[1]):
        hosts.primary.send_signal(signal.SIGKILL)

        troubles = troubles_until(hosts.standby, "TookOver")

    assert troubles <= TROUBLES_MAX


def test_a_flood_of_strangers_does_not_keep_an_active_from_dropping_its_standby(hosts: Hosts) -> None:
    with flooded(hosts.ports[0]):
        hosts.standby.send_signal(signal.SIGKILL)

        troubles = troubles_until(hosts.primary, "Solo")

    assert troubles <= TROUBLES_MAX


def test_an_operator_is_answered_while_strangers_flood_the_host(hosts: Hosts) -> None:
    with flooded(hosts.ports[0]), connect(f"ipc://{hosts.folder}/guest.1.sock", timeout=WAIT_SECONDS) as machine:
        assert machine.guest().last_status.role == "active"
