"""Carries out an active's orders to capture: rounds of the first copy, and cuts, while the guest stands still.

A guest under an engine that stands still goes on only when the replica says so; any other goes on as soon as its pages
are noted, and is encoded while it runs. A capture that fails costs the session, never the guest.
"""

from collections.abc import Callable

from ftvm.checkpoint import Checkpoint
from ftvm.errors import GuestError, LimitExceeded
from ftvm.interfaces import Clock
from ftvm.protocol import effects as do
from ftvm.protocol.active import Active
from ftvm.protocol.replica import Replica
from ftvm.runtime.capture import Captured, Hands
from ftvm.runtime.keeper import Keeper
from ftvm.runtime.sink import NumberingSink
from ftvm.units import Nanos

__all__ = ["CaptureOrder", "Cutter"]

CaptureOrder = do.StartCopy | do.CollectRound | do.CopyMore | do.Cut


class Cutter:
    """Captures one guest, and reports to its replica."""

    def __init__(self, keeper: Keeper, hands: Hands, sink: NumberingSink, replica: Replica, clock: Clock) -> None:
        self._keeper = keeper
        self._hands = hands
        self._sink = sink
        self._replica = replica
        self._clock = clock

    def capture(self, effect: CaptureOrder) -> None:
        """Do what is ordered, and report what came of it."""
        try:
            match effect:
                case do.StartCopy():
                    staging_bytes = effect.staging_bytes
                    self._collect(lambda: self._hands.start_copy(staging_bytes))
                case do.CollectRound():
                    self._collect(self._hands.collect_round)
                case do.CopyMore():
                    batches, left = self._hands.copy_more(effect.batches)
                    self._replica.on_copied(batches, left, self._clock.now())
                case do.Cut():
                    self._cut(effect)
        except (GuestError, LimitExceeded, MemoryError, OSError) as wrong:
            # No memory for a shadow, say: without a standby the guest is as well off as before.
            if not self._has_guest_failed():  # rule: failed_guest_is_its_standbys
                self._replica.on_capture_failed(f"{type(wrong).__name__}: {wrong}", self._clock.now())

    def _has_guest_failed(self) -> bool:
        """Tell whether the guest itself is lost: a failed capture would drop the standby that is to take it over.

        What it said before is handed on: a guest that has come to its own end has not failed.
        """
        reason = self._keeper.failure()
        self._keeper.hand_on(self._clock.now())
        return reason is not None and not self._keeper.is_end_held()

    def _collect(self, collect: Callable[[], int]) -> None:
        """Collect a round of the first copy from the paused guest."""
        self._keeper.stall()
        try:
            pages = collect()
        finally:
            self._keeper.stall_or_go_on()
        self._replica.on_round(pages, self._clock.now())

    def _cut(self, order: do.Cut) -> None:
        """Cut an epoch: all that the guest emitted before the pause belongs to it, nothing emitted after does."""
        began = self._clock.now()
        self._keeper.stall()
        try:
            self._keeper.hand_on(began)
            steps = self._replica.steps
            pending = steps.pending_outputs() if isinstance(steps, Active) else ()
            captured = self._hands.cut(order, pending, self._sink.output_next, self._sink.log_index)
            self._keeper.use(order.engine)
            self._replica.on_engine_used(order.engine, began)
            pause_ns = Nanos(self._clock.now() - began)
            if not order.engine.stands_still:
                self._keeper.stall_or_go_on()
            checkpoint = self._finish(captured, pause_ns)
            self._replica.on_cut(checkpoint, pause_ns, self._clock.now())
        finally:
            self._keeper.stall_or_go_on()

    def _finish(self, captured: Captured, pause_ns: Nanos) -> Checkpoint:
        try:
            return self._hands.finish(captured, pause_ns)
        except LimitExceeded:
            self._keeper.is_stalled = True  # the guest was paused to have its dirty pages put back
            raise
