"""A program that waits for its host leaves it in order at SIGTERM, unless it handles SIGTERM itself."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.runtime.sigterm import ending_on_sigterm

SECONDS = 60
HOST = """
import sys, json, ftvm
from ftvm.config import Timing
role, folder, name, peer = sys.argv[1:]
timing = Timing(backup_limit_ns=20_000_000_000, primary_limit_ns=30_000_000_000)
pair = dict(
    listen=f"ipc://{folder}/{name}", peers=[f"ipc://{folder}/{peer}"], arbiter=f"file://{folder}", timing=timing
)
program = ftvm.read_program("ticks") if role == "first" else None
guest = ftvm.RiscvGuest(program, memory_bytes=1 << 20, mac=None, command_line="beats=0")
def tell(event):
    if not isinstance(event, ftvm.Committed):
        print(json.dumps([type(event).__name__, str(event)]), flush=True)
if role == "first":
    with ftvm.protect(guest, create=True, on_event=tell, **pair) as protection:
        protection.wait()
else:
    with ftvm.Standby(guest, on_event=tell, **pair) as standby:
        standby.wait().wait()
"""


class HostProgram:
    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-c", HOST, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(self, name: str) -> list[str]:
        assert self.process.stdout is not None
        told = []
        for line in self.process.stdout:
            told.append(json.loads(line)[0])
            if told[-1] == name:
                return told
        raise AssertionError(f"it ended without {name}: {told}")

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def end(self) -> None:
        self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate(timeout=SECONDS)


def test_the_guest_goes_to_the_standby_and_at_last_the_record_is_vacant(tmp_path: Path) -> None:
    first = HostProgram("first", tmp_path, "a", "b")
    second = HostProgram("second", tmp_path, "b", "a")
    try:
        first.until("Protected")

        first.process.send_signal(signal.SIGTERM)

        assert first.ended() == (0, "")
        assert "TookOver" not in second.until("SwitchedHere")
        second.process.send_signal(signal.SIGTERM)
        assert second.ended() == (0, "")
        record = FileRecordStore(tmp_path).read("guest")
        assert (record.active, record.standby) == (None, None)
    finally:
        first.end()
        second.end()


def test_a_standby_says_goodbye(tmp_path: Path) -> None:
    first = HostProgram("first", tmp_path, "a", "b")
    second = HostProgram("second", tmp_path, "b", "a")
    try:
        first.until("Protected")

        second.process.send_signal(signal.SIGTERM)

        assert second.ended() == (0, "")
        assert "Suspected" not in first.until("Solo")
    finally:
        first.end()
        second.end()


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_block_is_left_and_closed_and_the_program_ends_with_0() -> None:
    closed = []

    with pytest.raises(SystemExit) as ended, ending_on_sigterm(lambda: closed.append(True)):
        terminated()

    assert ended.value.code == 0
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_programs_own_stays() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with ending_on_sigterm(lambda: seen.append(-1)):
            terminated()
    finally:
        signal.signal(signal.SIGTERM, before)

    assert seen == [signal.SIGTERM]


def test_another_way_to_exit_closes_nothing() -> None:
    closed = []

    with pytest.raises(SystemExit), ending_on_sigterm(lambda: closed.append(True)):
        raise SystemExit(3)

    assert closed == []


def test_a_wait_outside_of_the_main_thread_changes_no_signal() -> None:
    seen = []

    def wait() -> None:
        with ending_on_sigterm(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()

    assert seen == [signal.SIG_DFL]
