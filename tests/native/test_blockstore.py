"""A disk's store ends while other threads are in calls of it."""

import gc
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftvm._native.blockstore import BlockStore
from ftvm._native.flags import SparseFlags
from ftvm._native.mapping import FileMapping
from ftvm.errors import ClosedError

from ..guests.disk.nbd import FLUSH, request
from ..leftovers import require_gone, threads

PAGES = 4
LONG_MS = 600_000


class Stalled:
    """A store that is held, and owes a flush: nobody will ever do it."""

    def __init__(self) -> None:
        self.mapping = FileMapping(PAGES * 4096)
        written, held = SparseFlags(PAGES), SparseFlags(PAGES)
        before = threads()
        self.store = BlockStore(
            self.mapping,
            written=written,
            held=held,
            high_water_blocks=PAGES,
            patience_ms=LONG_MS,
            behind_bytes=PAGES * 4096,
            behind_ms=LONG_MS,
        )
        (self.thread,) = threads() - before
        self.near, self.far = socket.socketpair()
        self.server = InCall(lambda: self.store.serve(self.far.fileno()))
        self.near.sendall(request(FLUSH))
        while not any(self.store.take_flushes()):
            pass

    def close(self) -> None:
        self.store.close()
        self.near.close()
        self.server.result()
        self.far.close()
        self.mapping.close()


class InCall:
    """A thread that makes one call, and waits in it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._returned: list[Any] = []
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def wait_until_asleep(self) -> None:
        status = Path(f"/proc/self/task/{self._thread.native_id}/status")
        looks = 0
        while looks < 3:
            looks = looks + 1 if "\nState:\tS" in status.read_text(encoding="ascii") else 0

    def result(self) -> Any:
        self._thread.join(60)
        assert self._returned, "it is in its call still"
        return self._returned[0]

    def _main(self) -> None:
        try:
            self._returned.append(self._call())
        except ClosedError as closed:
            self._returned.append(closed)


def test_who_waits_for_a_flush_hears_when_the_store_is_closed_instead() -> None:
    stalled = Stalled()
    waiter = InCall(lambda: stalled.store.settle(1, LONG_MS))
    waiter.wait_until_asleep()

    InCall(stalled.close).result()

    assert waiter.result() is False


def test_a_store_that_nobody_closes_ends_its_thread_before_its_memory_goes() -> None:
    """As one whose disk could not be opened. Mutant: whoever collects it waits for that thread, which nobody ends."""
    stalled = Stalled()
    stalled.near.close()
    stalled.server.result()

    del stalled.server, stalled.store
    gc.collect()

    require_gone(lambda: {stalled.thread} & threads())
    stalled.far.close()
    stalled.mapping.close()


def test_a_store_is_closed_once_and_asks_nothing_of_the_system_behind_that() -> None:
    stalled = Stalled()
    stalled.close()

    assert stalled.store.close() is False
    assert stalled.store.error is None
    assert stalled.store.take_flushes() == (False, False)
    with pytest.raises(ClosedError):
        stalled.store.settle(1, LONG_MS)
