"""`ftvm run` and `ftvm standby` as separate processes: they report as they go and stop cleanly."""

import io
import json
import signal
import socket
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.cli.report import JsonReport, TextReport
from ftvm.events import HostFailed, HostStopped, Solo
from ftvm.interfaces import Record
from ftvm.units import Nanos

from .hostpair import WAIT_SECONDS, host, port_of_nobody, wait_for

NOON = "2026-11-30T12:00:00.123456Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_stops_a_primary_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with host(
        "run",
        "--listen",
        "tcp://127.0.0.1:0",
        "--arbiter",
        f"file://{tmp_path}",
        "--create",
        "--program",
        "console",
    ) as primary:
        told = wait_for(primary, "RoleChanged")

        primary.send_signal(number)
        _, said = primary.communicate(timeout=WAIT_SECONDS)

    assert told["role"] == "active"
    assert primary.returncode == 0
    assert "Traceback" not in said


def test_a_primary_that_is_told_to_stop_hands_its_guest_over_and_that_is_no_takeover(tmp_path: Path) -> None:
    port = port_of_nobody()
    shared = ("--arbiter", f"file://{tmp_path}", "--heartbeat", "100", "--silence", "20000", "--on-backup-loss", "halt")
    with (
        host("run", "--listen", f"tcp://127.0.0.1:{port}", "--create", "--program", "console", *shared) as primary,
        host("standby", "--listen", "tcp://127.0.0.1:0", "--peer", f"tcp://127.0.0.1:{port}", *shared) as standby,
    ):
        wait_for(primary, "Protected")

        primary.send_signal(signal.SIGTERM)
        told = wait_for(standby, "SwitchedHere")
        primary.communicate(timeout=WAIT_SECONDS)

    assert told["generation"] == 3
    assert primary.returncode == 0


def test_a_standby_whose_peer_is_not_there_waits_and_stops_cleanly(tmp_path: Path) -> None:
    with host(
        "standby",
        *("--listen", "tcp://127.0.0.1:0", "--peer", "tcp://127.0.0.1:9", "--arbiter", f"file://{tmp_path}"),
    ) as standby:
        assert standby.stdout is not None
        status = json.loads(standby.stdout.readline())["status"]

        standby.terminate()
        _, said = standby.communicate(timeout=WAIT_SECONDS)

    assert (status["role"], status["failure"]) == ("empty", None)
    assert standby.returncode == 0
    assert "Traceback" not in said


def test_a_guest_that_ends_well_ends_its_host_well_and_leaves_the_record_vacant(tmp_path: Path) -> None:
    """Regression: the host called it its own failure."""
    with host(
        "run", "--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}", "--create", "--program", "hello"
    ) as primary:
        told = wait_for(primary, "GuestFinished")
        _, said = primary.communicate(timeout=WAIT_SECONDS)

    assert told["reason"] == "the guest ended: the program ended with code 0"
    assert primary.returncode == 0
    assert "Traceback" not in said
    assert FileRecordStore(tmp_path).read("guest").active is None


def test_a_host_that_cannot_vacate_the_record_says_so_and_fails(tmp_path: Path) -> None:
    """Regression: it ended well and in silence, and the next start was fenced."""
    folder = tmp_path / "record"
    folder.mkdir()
    with host(
        *("run", "--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{folder}"),
        *("--create", "--program", "console", "--control", f"ipc://{tmp_path}/control.sock"),
    ) as primary:
        wait_for(primary, "RoleChanged")
        folder.rename(tmp_path / "elsewhere")

        primary.terminate()
        _, said = primary.communicate(timeout=WAIT_SECONDS)

    assert primary.returncode == 1
    assert f"the arbiter has not answered ({folder}: generation 1" in said
    assert "ftvm init --force" in said
    assert not (tmp_path / "control.sock").exists()


def test_a_stop_that_is_not_in_order_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: the same long sentence stood there as an event and as the error that ended the command."""
    report = TextReport(lambda: NOON)

    report.event(HostStopped(at=Nanos(0), guest_id="vm1", outcome="the record still names it", is_in_order=False))
    report.event(HostStopped(at=Nanos(0), guest_id="vm1", outcome="the record is vacant", is_in_order=True))

    assert capsys.readouterr().err == f"{NOON[:23]}Z info    ftvm: stopped: the record is vacant\n"


def test_a_json_line_of_an_event_has_the_time_of_day() -> None:
    out = io.StringIO()

    JsonReport(out, lambda: NOON).event(Solo(at=Nanos(7), guest_id="vm1", reason="it left", generation=3))

    told = {"event": "Solo", "time": NOON, "at": 7, "guest_id": "vm1", "generation": 3, "reason": "it left"}
    assert json.loads(out.getvalue()) == told


def test_a_failure_is_told_unless_it_ends_the_command_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Regression: "the guests differ ..." stood there as an event, and again as the error that ended the command."""
    ending, going_on = TextReport(lambda: NOON), TextReport(lambda: NOON)

    ending.event(HostFailed(at=Nanos(0), guest_id="vm1", error="the guests differ"))
    ending.close()
    going_on.event(HostFailed(at=Nanos(0), guest_id="vm1", error="capture failed"))
    going_on.event(Solo(at=Nanos(0), guest_id="vm1", reason="the standby was lost", generation=3))
    going_on.close()

    assert capsys.readouterr().err.splitlines() == [
        f"{NOON[:23]}Z error   ftvm: failed: capture failed",
        f"{NOON[:23]}Z warning ftvm: solo: the standby was lost (generation 3)",
    ]


def test_a_start_that_waits_for_its_arbiter_says_so_at_once(tmp_path: Path) -> None:
    """Regression: it was told only when the start was given up, after thirty seconds."""
    FileRecordStore(tmp_path).compare_and_set("guest", Record(1, None, None))
    (record,) = tmp_path.iterdir()
    record.write_bytes(b"damaged")
    where = ("--listen", "tcp://127.0.0.1:0", "--arbiter", f"file://{tmp_path}")
    with host("run", *where, "--program", "console") as primary:
        assert primary.stderr is not None
        said = primary.stderr.readline()

        assert primary.poll() is None

    assert said.startswith("ftvm: waiting for the arbiter: ")
    assert "cannot be trusted" in said


def test_a_service_manager_hears_ready_and_a_fed_watchdog_from_a_real_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(WAIT_SECONDS)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")

    with host(
        "run",
        "--listen",
        "tcp://127.0.0.1:0",
        "--arbiter",
        f"file://{tmp_path}",
        "--create",
        "--program",
        "console",
    ) as primary:
        heard = ""
        while heard.count("WATCHDOG=1") < 2 or "READY=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"
        primary.terminate()
        primary.communicate(timeout=WAIT_SECONDS)

    while "STOPPING=1" not in heard:
        heard += manager.recv(4096).decode() + "\n"
    manager.close()
    assert primary.returncode == 0
