import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import HistoryError
from ftvm.history.recorder import _TOO_SLOW, HistoryRecorder
from ftvm.store.retention import Keep
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES, Nanos

from ..store.test_store import new_store
from ..store.world import SmallGuest
from .test_pipeline import restorable

PATIENCE_S = 30.0


def wait_until(is_true: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if is_true():
            return
        pause.wait(0.02)
    raise AssertionError("it never came to be")


class Bench:
    """A recorder beside a guest that commits."""

    def __init__(self, folder: Path, queue_bytes: int = 64 << 20) -> None:
        self.folder = folder
        self.guest = SmallGuest()
        self.gaps: list[str] = []
        self.recorder = HistoryRecorder(
            new_store(folder),
            Keep(),
            self.guest.memory,
            host="b",
            time_ns=lambda: self.guest.time_ns,
            on_gap=self.gaps.append,
            queue_bytes=queue_bytes,
        )

    def commit(self, epochs: int = 1) -> None:
        for _ in range(epochs):
            self.recorder.committed([self.guest.commit()])

    def bases(self) -> int:
        with Store(self.folder) as store:
            return sum(len(store.catalogue.bases(stream.id)) for stream in store.catalogue.streams())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "past")
    yield made
    made.recorder.close()
    assert "ftvm-history" not in {thread.name for thread in threading.enumerate()}


def commit_until_based(bench: Bench) -> None:
    def is_based() -> bool:
        bench.commit()
        return bench.bases() > 0

    wait_until(is_based)


def test_what_is_committed_is_recorded(bench: Bench) -> None:
    bench.recorder.begin(None)
    commit_until_based(bench)
    bench.commit(20)
    bench.recorder.close()

    assert restorable(bench.folder, bench.guest)[-1] == bench.guest.epoch


def test_a_commit_costs_nothing_while_the_recorders_thread_stands_still(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "past", queue_bytes=40_000)
    held = threading.Event()
    with mock.patch.object(bench.recorder._pipeline, "turn", side_effect=lambda: held.wait(PATIENCE_S)):
        bench.recorder.begin(None)

        bench.commit(1_000)

        assert sum(1 for _ in bench.recorder._queue) < 1_000
        assert bench.recorder._put_bytes - bench.recorder._took_bytes <= 40_000
        held.set()
    commit_until_based(bench)
    bench.recorder.step(Nanos(0))
    bench.recorder.close()
    assert bench.gaps == ["the disk could not keep up: epochs were left out"]
    assert restorable(bench.folder, bench.guest)[-1] == bench.guest.epoch


def test_what_a_commit_carries_of_the_log_counts_as_well(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "past", queue_bytes=40_000)
    record = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(0, 0), channel="n", payload=bytes(10_000))

    for _ in range(100):
        bench.recorder.committed([replace(bench.guest.commit(), log=(record,))])

    assert sum(1 for _ in bench.recorder._queue) <= 5
    bench.recorder.close()


def test_the_pages_of_a_mark_count_as_well(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "past", queue_bytes=4 * PAGE_BYTES)
    executed = replace(bench.guest.commit(), is_executed=True, written=range(4))

    bench.recorder.committed([executed])

    assert list(bench.recorder._queue) == [_TOO_SLOW]
    bench.recorder.close()


def test_a_full_disk_ends_recording_and_is_told_once(bench: Bench) -> None:
    bench.recorder.begin(None)
    commit_until_based(bench)
    last = bench.guest.epoch
    full = OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(os, "pwrite", side_effect=full):
        bench.commit(5)
        wait_until(lambda: bench.recorder._failure is not None)

    with pytest.raises(HistoryError, match="the disk is full"):
        bench.recorder.step(Nanos(0))
    bench.commit(5)
    bench.recorder.close()
    assert len(bench.recorder._queue) == 0
    assert restorable(bench.folder, bench.guest)[-1] >= last - 50


def test_an_error_of_our_own_ends_recording_and_nothing_else(bench: Bench) -> None:
    with mock.patch.object(bench.recorder._pipeline, "take", side_effect=KeyError("surprise")):
        bench.recorder.begin(None)
        bench.commit()
        wait_until(lambda: bench.recorder._failure is not None)

    with pytest.raises(HistoryError, match="a bug in ftvm: KeyError"):
        bench.recorder.step(Nanos(0))


def test_a_failure_that_nobody_was_told_of_is_raised_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "past")
    bench.recorder.begin(None)
    with mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EIO, "Input/output error")):
        bench.commit(3)
        wait_until(lambda: bench.recorder._failure is not None)

    with pytest.raises(HistoryError, match="cannot be synced"):
        bench.recorder.close()
    bench.recorder.close()


def test_what_is_queued_is_written_when_it_is_closed(bench: Bench) -> None:
    bench.recorder.begin(None)
    commit_until_based(bench)

    bench.commit(300)
    bench.recorder.close()

    assert restorable(bench.folder, bench.guest)[-1] == bench.guest.epoch


def test_a_takeover_here_ends_the_stream_without_an_event(bench: Bench) -> None:
    bench.recorder.begin(None)
    commit_until_based(bench)
    bench.recorder.ended()
    bench.recorder.close()
    bench.recorder.step(Nanos(0))

    with Store(bench.folder) as store:
        assert store.catalogue.streams()[0].ended == "the guest's memory was in use on this host"
    assert bench.gaps == []


def test_a_recorder_that_never_began_gives_its_store_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "past")

    bench.recorder.close()

    Store(tmp_path / "past", writes=True).close()


def test_what_is_queued_is_bounded_also_where_commits_carry_nothing_or_inputs_alone(bench: Bench) -> None:
    bench.recorder._queue_bytes = 40_000
    last = bench.guest.commit()
    bare = replace(last, checkpoint=replace(last.checkpoint, batches=(), devices=b"", outputs=()))
    where = GuestPosition(0, 0)
    typed = LogRecord(index=1, kind=LogKind.INPUT, position=where, amount=0, channel="console", payload=bytes(39_999))

    for _ in range(1_000):
        bench.recorder.committed([bare])
    queued = len(bench.recorder._queue)
    bench.recorder._queue.clear()
    bench.recorder._put_bytes = 0
    bench.recorder.committed([replace(bare, log=(typed,))])

    assert queued < 200
    assert list(bench.recorder._queue) in ([], [_TOO_SLOW])
