"""A real pair whose standby records: what was recorded restores into a guest that runs on; the pair never waits."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ftvm.config import Timing
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError
from ftvm.events import HistoryGap, HostServiceFailed
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.history.history import History
from ftvm.interfaces import Engine
from ftvm.runtime.protection import Protection, Standby, protect
from ftvm.units import Nanos

MS = 1_000_000
PATIENCE_S = 60.0
TIMING = Timing(heartbeat_ns=Nanos(100 * MS), backup_limit_ns=Nanos(3_000 * MS), primary_limit_ns=Nanos(5_000 * MS))


def wait_until(is_true: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        if is_true():
            return
        pause.wait(0.05)
    raise AssertionError("it never came to be")


def talking() -> RiscvGuest:
    return RiscvGuest(read_program("console"), memory_bytes=2 << 20)


class Pair:
    def __init__(
        self,
        folder: Path,
        engine: Engine,
        history: History,
        make: Callable[[], RiscvGuest] = talking,
        other_history: History | None = None,
    ) -> None:
        shared: dict[str, Any] = {"arbiter": f"file://{folder}", "engine": engine, "timing": TIMING}
        a, b = f"ipc://{folder}/a", f"ipc://{folder}/b"
        self.events: list[object] = []
        self.standby = Standby(
            make(), listen=b, peers=[a], history=history, on_event=self.events.append, node="b", **shared
        )
        try:
            self.protection: Protection = protect(
                make(), listen=a, create=True, **({"history": other_history} if other_history else {}), **shared
            )
        except BaseException:
            self.standby.close()
            raise

    def wait_for_epochs(self, count: int) -> None:
        start = self.standby.status().epoch or 0
        wait_until(lambda: (self.standby.status().epoch or 0) >= start + count)

    def close(self) -> None:
        self.protection.close()
        self.standby.close()


def record_console(folder: Path) -> int:
    """Record a pair for a while into `folder`/past; return an epoch early in it."""
    pair = Pair(folder, Remus(interval=0.025), History.open(folder / "past", create=True))
    with History.open(folder / "past") as looking:
        wait_until(lambda: len(list(looking.epochs())) > 8)
        first = next(looking.epochs()).number
    pair.close()
    return first


@pytest.mark.parametrize("engine", [Remus(interval=0.025), Kemari(), Hybrid(interval=0.05), Lockstep(interval=0.05)])
def test_what_a_standby_recorded_restores_and_runs_on(tmp_path: Path, engine: Engine) -> None:
    pair = Pair(tmp_path, engine, History.open(tmp_path / "past", create=True))
    with History.open(tmp_path / "past") as looking:
        wait_until(lambda: len(list(looking.epochs())) > 5)
    pair.close()

    with History.open(tmp_path / "past") as past:
        epochs = list(past.epochs())
        assert [stretch.host for stretch in past.stretches()] == ["b"]  # the node's name, not the machine's
        for epoch in (epochs[0], epochs[-1]):
            guest = talking()
            try:
                past.restore(epoch.number, guest)
                assert guest.position == epoch.position
                assert guest.run_until(guest.position)
            finally:
                guest.close()
    assert [e for e in pair.events if isinstance(e, HistoryGap | HostServiceFailed)] == []


def test_a_full_disk_stops_recording_and_the_pair_goes_on(tmp_path: Path) -> None:
    pair = Pair(tmp_path, Remus(interval=0.025), History.open(tmp_path / "past", create=True))
    pair.wait_for_epochs(5)
    real = os.pwrite

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if threading.current_thread().name == "ftvm-history":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content, offset)

    with mock.patch.object(os, "pwrite", full):
        wait_until(lambda: any(isinstance(event, HostServiceFailed) for event in pair.events))

    pair.wait_for_epochs(4)
    assert pair.protection.status().standby is not None
    pair.close()
    failed = next(event for event in pair.events if isinstance(event, HostServiceFailed))
    assert failed.name == "history recorder"
    assert "the disk is full" in failed.error


def test_a_recorder_that_stands_still_delays_no_epoch(tmp_path: Path) -> None:
    held = threading.Event()
    with mock.patch("ftvm.history.pipeline.Pipeline.turn", side_effect=lambda: held.wait(PATIENCE_S)):
        pair = Pair(tmp_path, Remus(interval=0.025), History.open(tmp_path / "past", create=True))

        pair.wait_for_epochs(8)

        assert pair.protection.status().standby is not None
        held.set()
        pair.close()


def test_the_history_of_another_guest_is_refused_before_anything_starts(tmp_path: Path) -> None:
    first = Pair(tmp_path, Remus(interval=0.025), History.open(tmp_path / "past", create=True))
    first.close()
    blank = RiscvGuest(read_program("console"), memory_bytes=4 << 20)

    with pytest.raises(ConfigError, match="2 MiB / 4 MiB"):
        Standby(
            blank,
            listen=f"ipc://{tmp_path}/c",
            peers=[f"ipc://{tmp_path}/a"],
            arbiter=f"file://{tmp_path}",
            history=History.open(tmp_path / "past"),
        )

    with History.open(tmp_path / "past") as past:
        past.collect()
