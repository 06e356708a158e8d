"""A monitor that hangs under a host: its log and `ftvm status` name it, and who stops the host is not kept waiting."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvm.transport.keys import write_keypair

from ..guests.vmm.monitors import build, shared_folder
from .conftest import Run
from .hostpair import WAIT_SECONDS, events_until, host, port_of_nobody, wait_for

NAMED = "the monitor (process {}) has not answered `"


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(shared_folder(tmp_path_factory))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Pair:
    """Two hosts, so patient that no silence is a reason for a takeover; the monitor of the first can be hung."""

    def __init__(self, folder: Path, monitor: Path, stack: ExitStack, *, has_standby: bool = True) -> None:
        (folder / "record").mkdir()
        for name in ("a", "b"):
            write_keypair(folder / name)
        self._folder, self._monitor, self._stack = folder, monitor, stack
        self._ports = {name: port_of_nobody() for name in ("a", "b")}
        self.control = f"ipc://{folder}/a.control"
        self.primary, self.hung = self._start("a", "b", "run", "--create")
        if has_standby:
            self.standby, self.idle = self._start("b", "a", "standby")
        wait_for(self.primary, "Protected" if has_standby else "RoleChanged")

    def _start(self, name: str, other: str, *command: str) -> tuple["subprocess.Popen[str]", "subprocess.Popen[bytes]"]:
        folder, socket = self._folder, self._folder / f"{name}.sock"
        started = self._stack.enter_context(
            host(
                *command, "--kind", "vmm", "--socket", str(socket), "--control", f"ipc://{folder}/{name}.control",
                "--heartbeat", "100", "--silence", "300000", "--node", name, "--arbiter", f"file://{folder}/record",
                "--listen", f"tcp://127.0.0.1:{self._ports[name]}", "--peer", f"tcp://127.0.0.1:{self._ports[other]}",
                "--key", f"{folder / name}.key", "--allow", f"{folder / other}.pub",
            )
        )  # fmt: skip
        monitor = subprocess.Popen([self._monitor, socket], stderr=subprocess.DEVNULL)
        self._stack.callback(monitor.wait, WAIT_SECONDS)
        self._stack.callback(monitor.kill)
        return started, monitor

    def stop_monitor(self) -> None:
        """Have the monitor answer nothing any more."""
        _stop(self.hung)

    def hang(self) -> str:
        """Stop the monitor; return how it is named, once its host has said so."""
        self.stop_monitor()
        named = NAMED.format(self.hung.pid)
        assert str(wait_for(self.primary, "GuestWarned")["reason"]).startswith(named)
        return named


def _stop(monitor: "subprocess.Popen[bytes]") -> None:
    monitor.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, monitor.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def pair(tmp_path: Path, monitor: Path, stack: ExitStack) -> Pair:
    return Pair(tmp_path, monitor, stack)


def test_a_monitor_that_hangs_is_named_and_a_second_signal_gives_it_up_at_once(ftvm: Run, pair: Pair) -> None:
    """Regression: nobody was answered, nothing was said, and Ctrl-C waited for the monitor for two minutes."""
    named = pair.hang()

    status = ftvm("status", "--control", pair.control)
    told = json.loads(ftvm("status", "--control", pair.control, "--json").out)
    order = ftvm("ctl", "engine", "kemari", "--control", pair.control)
    pair.primary.send_signal(signal.SIGINT)
    assert pair.primary.stderr is not None
    hint = next(line for line in pair.primary.stderr if "this host stops" in line)
    pair.primary.send_signal(signal.SIGINT)
    events = events_until(pair.primary, "HostStopped")
    _, complaint = pair.primary.communicate(timeout=WAIT_SECONDS)

    assert status.status == 1
    assert "stands still here since" in status.out
    assert named in status.out
    assert (told[0]["state"], told[0]["reason"][: len(named)]) == ("standing still", named)
    assert (order.status, named in order.err, "nothing was done" in order.err) == (1, True, True)
    assert named in hint
    assert hint.rstrip().endswith("s: this host stops, and gives its guest up in 10 s")
    assert events[-1]["is_in_order"]
    assert str(events[-1]["outcome"]).startswith("the record names the other host active: b")
    assert pair.primary.returncode == 1
    assert f"the monitor (process {pair.hung.pid}) did not answer `" in complaint


def test_a_host_that_waited_for_its_monitor_does_not_say_that_it_is_too_busy(pair: Pair) -> None:
    named = pair.hang()
    pair.hung.send_signal(signal.SIGCONT)

    while not (waited := str(wait_for(pair.primary, "HostStalled")["waited"])):
        continue

    assert waited.startswith(named)


def test_a_standby_whose_monitor_hangs_is_named_and_stands_by_again_when_it_answers(ftvm: Run, pair: Pair) -> None:
    """Regression: nothing asked it, and the host said that it stood by, though a takeover would have hung."""
    control = pair.control.replace("a.control", "b.control")
    named = NAMED.format(pair.idle.pid) + "pause`"
    _stop(pair.idle)
    warned = str(wait_for(pair.standby, "GuestWarned")["reason"])

    hung = ftvm("status", "--control", control)
    told = json.loads(ftvm("status", "--control", control, "--json").out)
    active = ftvm("status", "--control", pair.control)
    pair.idle.send_signal(signal.SIGCONT)
    while (well := ftvm("status", "--control", control)).status:
        continue

    assert warned.startswith(named)
    assert warned.endswith(": until it does, no takeover can run the guest here")
    assert hung.status == 1
    assert "standby here, but it could not take over since" in hung.out
    assert named in hung.out
    assert (told[0]["state"], told[0]["reason"][: len(named)]) == ("standby unable", named)
    assert (active.status, "protected by b" in active.out) == (0, True)
    assert ": standby here, of a" in well.out


@pytest.mark.parametrize("leaves", [True, False], ids=["leave", "stop"])
def test_an_operators_order_to_stop_is_taken_while_a_monitor_hangs(ftvm: Run, pair: Pair, *, leaves: bool) -> None:
    pair.hang()
    words = ("ctl", "stop") if leaves else ("stop", "guest", "--yes")
    ftvm(*words, "--control", pair.control)
    events = events_until(pair.primary, "HostStopped")
    pair.primary.communicate(timeout=WAIT_SECONDS)

    given_up = [str(event["reason"]) for event in events if event.get("event") == "GuestWarned"]
    assert any(": this host stops, and gives its guest up in 10 s" in reason for reason in given_up)
    outcome = (
        "the record names the other host active: b" if leaves else "the guest has ended here, and the record is vacant"
    )
    assert str(events[-1]["outcome"]).startswith(outcome)
    assert pair.primary.returncode == (1 if leaves else 0)
    if not leaves:
        pair.standby.communicate(timeout=WAIT_SECONDS)
        assert pair.standby.returncode == 0


def test_a_host_alone_whose_monitor_hangs_vacates_the_record_though_it_waited_for_it(
    tmp_path: Path, monitor: Path, stack: ExitStack
) -> None:
    """Regression: the time of the stop was over with the wait, and the record named a host that was gone."""
    pair = Pair(tmp_path, monitor, stack, has_standby=False)
    pair.stop_monitor()

    pair.primary.send_signal(signal.SIGTERM)
    outcome = wait_for(pair.primary, "HostStopped")
    pair.primary.communicate(timeout=WAIT_SECONDS)

    assert outcome["outcome"] == "the guest has ended here, and the record is vacant (generation 2)"
    assert outcome["is_in_order"]
    assert pair.primary.returncode == 1
