"""Records what this host commits, beside its loop: never in the way of an acknowledgement.

The host's loop puts each commit into a queue, by reference, once its acknowledgement is on its way: that takes
microseconds and waits for nothing. A thread of low priority looks there ten times a second and writes
(pipeline.py). The queue is bounded in bytes. Where the thread falls behind, it writes several epochs as one entry;
where the queue is full all the same, epochs are left out, which is a gap: the pair goes on as if nobody recorded. Under
lockstep no pages come: those that the guest here has written up to a mark are copied before it is led on (marks.py).

If the disk is full or broken, recording ends, and the next step of this service raises why: the host reports that the
service failed, and runs on without it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Commit
from ftvm.errors import BrokenError, FtvmError, HistoryError
from ftvm.history.basing import PortionReader
from ftvm.history.marks import copy_pages
from ftvm.history.pipeline import Break, Pipeline, Queued
from ftvm.store.retention import Keep
from ftvm.store.store import Store
from ftvm.units import Nanos, pages_to_bytes

__all__ = ["QUEUE_BYTES", "HistoryRecorder"]

QUEUE_BYTES: Final = 64 << 20
_COMMIT_BYTES: Final = 1024
_RECORD_BYTES: Final = 256
"""What a commit and a record of its log take at least: the queue is bounded also where they carry nothing."""
_TURN_SECONDS: Final = 0.1
_NICE: Final = 10
_END_SECONDS: Final = 10.0
_TOGETHER: Final = 8
"""So many epochs become one entry while more than a quarter of the queue is taken."""
_TAKEN_OVER: Final = Break("the guest's memory was in use on this host", is_gap=False)
_TOO_SLOW: Final = Break("the disk could not keep up: epochs were left out", is_gap=True)


class HistoryRecorder:
    """Takes commits (runtime/onlooker.py:CommitObserver); a service of its host's loop (runtime/services.py)."""

    name = "history recorder"

    def __init__(
        self,
        store: Store,
        keep: Keep,
        memory: NativeMemory,
        *,
        host: str,
        time_ns: Callable[[], int],
        on_gap: Callable[[str], None],
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Take the store over, open to be written.

        host     the name of the node that records
        time_ns  the time, in nanoseconds since 1970; it never goes back
        on_gap   told in the host's thread why something is missing
        """
        self._store = store
        self._time_ns = time_ns
        self._on_gap = on_gap
        self._queue_bytes = queue_bytes
        self._memory = memory
        self._queue: deque[Queued | Break] = deque()
        self._gaps: deque[str] = deque(maxlen=64)
        self._put_bytes = self._took_bytes = 0
        self._calls = self._lifetime = 0
        self._is_losing = False
        self._failure: FtvmError | None = None
        self._is_told = False
        self._is_over = threading.Event()
        self._pipeline = Pipeline(
            store,
            keep,
            PortionReader(memory),
            host=host,
            calls=lambda: self._calls,
            lifetime=lambda: self._lifetime,
            on_gap=self._gaps.append,
        )
        self._thread = threading.Thread(target=self._run, name="ftvm-history", daemon=True)

    # --- in the host's thread --------------------------------------------------------------------------------------

    def committed(self, commits: Sequence[Commit]) -> None:
        """See runtime/onlooker.py:CommitObserver."""
        self._calls += 1
        if self._failure is not None or self._is_over.is_set():
            return
        size = sum(map(_size_of, commits))
        if self._put_bytes - self._took_bytes + size > self._queue_bytes:
            if not self._is_losing:
                self._queue.append(_TOO_SLOW)
            self._is_losing = True
            return
        self._is_losing = False
        self._put_bytes += size
        now_ns, last = self._time_ns(), len(commits) - 1
        for place, commit in enumerate(commits):
            pages = copy_pages(self._memory, commit.written) if commit.written else None
            self._queue.append(Queued(commit, now_ns, self._calls, place == last, pages))

    def ended(self) -> None:
        """See runtime/onlooker.py:CommitObserver."""
        self._lifetime += 1
        if self._failure is None and not self._is_over.is_set():
            self._queue.append(_TAKEN_OVER)

    def miss(self, why: str) -> None:
        """Have it told that something is missing, or not as it seems."""
        self._gaps.append(why)

    def begin(self, controls: object) -> None:
        """Start."""
        del controls
        self._thread.start()

    def fds(self) -> Sequence[int]:
        """Nothing to wait for."""
        return ()

    def note(self, event: object) -> None:
        """Events are not recorded."""
        del event

    def step(self, now: Nanos) -> Nanos | None:
        """Tell what is missing. Raises why recording has ended, once it has."""
        del now
        while self._gaps:
            self._on_gap(self._gaps.popleft())
        self._raise_failure()
        return None

    def close(self) -> None:
        """Write what is queued, and close the store. Idempotent. Raises HistoryError if not all could be written."""
        self._is_over.set()
        if self._thread.ident is None:
            self._store.close()
        elif self._thread.is_alive():
            self._thread.join(_END_SECONDS)
            if self._thread.is_alive():
                raise BrokenError(f"the disk of {self._store.folder} hangs: what was not written yet is lost")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None and not self._is_told:
            self._is_told = True
            raise self._failure

    # --- in the recorder's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with suppress(OSError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            while not self._is_over.wait(_TURN_SECONDS):
                self._work()
            self._work()
            self._pipeline.finish("recording was stopped")
        except FtvmError as wrong:
            self._fail(wrong)
        except Exception as wrong:  # noqa: BLE001 - whatever it was, the host must not go down with it
            error = HistoryError(f"a bug in ftvm: {type(wrong).__name__}: {wrong}")
            error.__cause__ = wrong
            self._fail(error)
        finally:
            self._store.close()

    def _fail(self, wrong: FtvmError) -> None:
        self._failure = wrong
        self._queue.clear()

    def _work(self) -> None:
        queued = [self._queue.popleft() for _ in range(len(self._queue))]
        waiting = self._put_bytes - self._took_bytes
        self._pipeline.take(queued, at_once=_TOGETHER if 4 * waiting > self._queue_bytes else 1)
        self._took_bytes += sum(_size_of(each.commit) for each in queued if isinstance(each, Queued))
        self._pipeline.turn()


def _size_of(commit: Commit) -> int:
    """Return what a commit takes while it is queued, about."""
    checkpoint = commit.checkpoint
    pages = sum(batch.size_bytes for batch in checkpoint.batches)
    outputs = sum(len(output.payload) for output in checkpoint.outputs)
    log = sum(_RECORD_BYTES + len(record.payload) for record in commit.log)
    pages += pages_to_bytes(len(commit.written))
    return _COMMIT_BYTES + pages + len(checkpoint.devices) + outputs + log
