"""A base for guests with their own thread: what is left to write is what the machine does, and its registers.

    class Counter(ThreadedGuest):
        def turn(self): ...            # run for a moment
        def save(self): ...            # what is not in memory, as bytes
        def load(self, devices): ...   # and back

It promises what interfaces.Guest asks for: `pause` returns between two turns; which pages were written is found by a
tracker; a thread that dies is a failure of the guest; bytes that do not load are a GuestError and leave the guest as it
was. It claims no capability: engines that replay need a guest that knows its position.

Refused: defaults in `Guest` itself, because a forgotten method would then lose pages instead of failing to type-check.
"""

import mmap
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import choose_tracker
from ftvm.checkpoint import Bitmap, Geometry, RegionShape
from ftvm.errors import ConfigError, GuestError, LocalProtocolError
from ftvm.guests.thread import GuestThread
from ftvm.interfaces import Capability, Guest, OutputSink, Region
from ftvm.units import PAGE_BYTES, PageCount

__all__ = ["ThreadedGuest"]

INPUTS_MAX: Final = 1_000
INPUT_BYTES_MAX: Final = 1 << 20
"""How many inputs wait to be taken, and their bytes together; more are dropped, as by a full ring."""


class ThreadedGuest(ABC):
    """A guest that runs in turns on its own thread. Born paused; see `Guest` for the contract of each member.

    machine     what must be equal on both hosts for `load` to take what `save` made, e.g. "counter/1"
    page_count  size of its memory in pages of 4096 bytes: blank, and yours as `arena`
    regions     instead of that, memory that you have already
    tracker     how written pages are found: "auto", "userfault" or "compare"

    Raises ConfigError for no memory, or an unknown tracker.
    """

    can: frozenset[Capability] = frozenset()

    def __init__(
        self, machine: str, *, page_count: int = 0, regions: Sequence[Region] = (), tracker: str = "auto"
    ) -> None:
        if (page_count > 0) == bool(regions):
            raise ConfigError("give a threaded guest either page_count, or the regions of its memory")
        self.memory: tuple[Region, ...] = tuple(regions)
        if page_count > 0:
            self.arena = mmap.mmap(-1, page_count * PAGE_BYTES)
            self.memory = (Region(name="arena", buffer=memoryview(self.arena), page_count=PageCount(page_count)),)
        shapes = tuple(RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        self.geometry = Geometry(machine=machine, regions=shapes)
        chosen = choose_tracker(NativeMemory([region.buffer for region in self.memory]), tracker)
        self._tracker = chosen.tracker
        self._inputs: deque[tuple[str, bytes]] = deque()
        self._input_bytes = 0
        self._queue = threading.Lock()  # over both
        self._may_run, self._has_news = threading.Event(), threading.Event()
        self._turn = threading.Lock()  # who holds it decides whether the guest moves
        self._thread = GuestThread(f"guest {machine}", self._take_turns, warning=chosen.warning)

    # --- what a guest writes ---------------------------------------------------------------------------------------

    @abstractmethod
    def turn(self) -> float | None:
        """Run for a moment, a millisecond or so; return for how many seconds there is nothing to do, if so.

        A pause waits for the end of a turn; between two it takes effect at once. An input ends the rest. What it raises
        ends the guest: `failure` says so, and the standby takes over.
        """

    @abstractmethod
    def save(self) -> bytes:
        """Return everything outside memory that the next turns depend on. Change nothing."""

    @abstractmethod
    def load(self, devices: bytes) -> None:
        """Become what `save` described, on the memory as it is. Raise anything if the bytes are not such."""

    # --- what a turn calls -----------------------------------------------------------------------------------------

    def emit(self, channel: str, payload: bytes) -> None:
        """Say something to the world; it leaves once the state behind it is safe."""
        self._thread.sink.emit(channel, payload)

    def take_input(self) -> tuple[str, bytes] | None:
        """Return the next input, as (channel, payload), or None."""
        with self._queue:
            if not self._inputs:
                return None
            taken = self._inputs.popleft()
            self._input_bytes -= len(taken[1])
            return taken

    # --- what ftvm calls -------------------------------------------------------------------------------------------

    def attach(self, sink: OutputSink) -> None:
        """Take the sink for the guest's outputs; before the first run."""
        self._thread.attach(sink)

    def resume(self) -> None:
        """Let it run. Idempotent."""
        self._thread.start()
        self._may_run.set()

    def pause(self) -> None:
        """Return when no turn is under way, and none will begin. Idempotent."""
        if self._thread.is_current:
            raise LocalProtocolError("a turn cannot pause its own guest: return from it instead")
        self._may_run.clear()
        self._has_news.set()
        with self._turn:
            pass

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call."""
        self._require_paused("collect_dirty")
        return self._tracker.collect()

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._require_paused("restore_dirty")
        self._tracker.restore(bitmap)

    def save_devices(self) -> bytes:
        """Return what `save` does."""
        self._require_paused("save_devices")
        return self.save()

    def load_devices(self, devices: bytes) -> None:
        """Have `load` take them; raises GuestError if it does not, and has it take back what was before."""
        self._require_paused("load_devices")
        before = self.save()
        try:
            self.load(devices)
        except Exception as wrong:
            self.load(before)
            raise GuestError(f"{len(devices)} bytes do not load: {type(wrong).__name__}: {wrong}") from wrong
        with self._queue:
            self._inputs.clear()
            self._input_bytes = 0

    def deliver(self, channel: str, payload: bytes) -> None:
        """Queue an input for the next turn; it is dropped if too much waits."""
        with self._queue:
            if len(self._inputs) >= INPUTS_MAX or self._input_bytes + len(payload) > INPUT_BYTES_MAX:
                return
            self._input_bytes += len(payload)
            self._inputs.append((channel, bytes(payload)))
        self._has_news.set()

    def failure(self) -> str | None:
        """Return why it can never run again: its thread has died."""
        return self._thread.look()

    def close(self) -> None:
        """Stop it, join its thread, give the tracker back. Idempotent."""
        if self._thread.close(self._wake):
            self._tracker.close()

    def _wake(self) -> None:
        self._may_run.set()
        self._has_news.set()

    def _require_paused(self, what: str) -> None:
        if self._may_run.is_set():
            raise LocalProtocolError(f"{what} needs the guest paused")

    # --- its thread ------------------------------------------------------------------------------------------------

    def _take_turns(self) -> None:
        while self._may_run.wait() and not self._thread.is_closed:
            self._has_news.clear()  # before the turn: what comes during it ends the rest behind it
            with self._turn:
                rest = self.turn() if self._may_run.is_set() and not self._thread.is_closed else None
            if rest and not self._inputs:
                self._has_news.wait(rest)


if TYPE_CHECKING:

    def _is_a_guest(guest: ThreadedGuest) -> Guest:
        return guest
