"""Records a guest that runs alone: no peer, no arbiter, no protection, but its past (ftvm.record).

It is captured as for a standby, epoch by epoch; what a standby would hold is the shadow, and the recorder takes its
bases from there. Outputs leave at once, and nothing waits for the disk: if recording fails, the guest runs on.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import END_CHANNEL, Commit, Output, PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.engines.remus import Remus
from ftvm.errors import ConfigError, FtvmError, GuestError, HistoryError, InternalError
from ftvm.events import Event, GuestFinished, HistoryGap, HostFailed, HostServiceFailed
from ftvm.history.history import History
from ftvm.interfaces import Guest, World
from ftvm.protocol.effects import Cut, RunGuest
from ftvm.protocol.reports import CaptureFailed, CutTaken
from ftvm.runtime.capture import Capturer
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.closing import Closing, close_behind
from ftvm.runtime.host import Repeater
from ftvm.runtime.protection import check_guest_id
from ftvm.runtime.recording import recorder_for
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.runtime.world import CallbackWorld

__all__ = ["LoneRecording", "record"]

_ENGINE: Final = "alone"
_INTERVAL_MIN: Final = 0.001


class LoneRecording:
    """A guest that runs here and is recorded, from when it is built until `close`. A context manager.

    failure  why recording has ended, None while it goes on
    end      why the guest has ended, None while it runs
    """

    def __init__(
        self,
        guest: Guest,
        history: History,
        *,
        interval: float,
        world: World,
        guest_id: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self.failure: FtvmError | None = None
        self.end: str | None = None
        self._guest, self._world, self._guest_id, self._on_event = guest, world, guest_id, on_event
        self._clock = MonotonicClock()
        self._sink = NumberingSink(lambda: None, self._clock)
        self._epoch = 0
        self._why: str | None = None
        self._is_closed = False
        with ExitStack() as undo:
            undo.callback(guest.close)
            undo.callback(world.close)
            check_guest_id(guest_id)
            if interval < _INTERVAL_MIN:
                raise ConfigError(f"an interval of {interval} s: give {_INTERVAL_MIN} or more")
            self._engine, self._limits = Remus(interval), Limits()
            memory = NativeMemory([region.buffer for region in guest.memory])
            held = CommittedMemory(memory)
            self._runner = GuestRunner(guest, self._sink, held, logs_always=True)
            self._capturer = Capturer(
                self._runner, guest, memory, self._sink, self._limits, self._clock, lambda: self._why is not None
            )
            shadow = NativeMemory([self._capturer.shadow_content()])
            make = recorder_for(history, guest, guest_id, undo, memory=shadow)
            if make is None:
                raise InternalError("a history that was given has no recorder")
            self._recorder = make(self._tell_gap, self._clock)
            guest.attach(self._sink)
            guest.collect_dirty()
            self._capturer.adopt(held.digests, self._limits.staging_bytes)  # the first base is read from there
            self._cut(is_first=True)
            self._recorder.begin(None)
            if isinstance(failed := self._runner.run(RunGuest(1, 1, (), self._engine)), GuestError):
                raise failed
            undo.pop_all()
        self._repeater = Repeater(self._step, lambda: interval, "ftvm-alone")
        self._repeater.start()

    def close(self) -> None:
        """End the guest and the recording; all that was committed is written. Idempotent. Raises BrokenError."""
        if self._is_closed:
            return
        self._is_closed = True
        closing = Closing()
        closing.do("its loop did not end", self._repeater.stop)
        closing.do("the guest could not be paused", self._guest.pause)
        closing.do("the history recorder could not be closed", self._recorder.close)
        closing.do("the world could not be closed", self._world.close)
        closing.do("the guest could not be closed", self._guest.close)
        closing.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        close_behind(self.close, error)

    # --- in the loop's thread --------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Cut an epoch, let its outputs out; return whether there is more to come."""
        self._runner.deliver(self._world.receive(self._limits.inputs_per_step))
        why = self._why = self._guest.failure()
        try:
            if self.failure is None:
                self._cut()
                self._recorder.step(self._clock.now())
        except FtvmError as wrong:
            self._give_up(wrong)
        except (MemoryError, OSError) as wrong:
            self._give_up(HistoryError(f"an epoch could not be kept: {type(wrong).__name__}: {wrong}"))
        if self.failure is not None:  # else what was said since the cut is the next epoch's
            self._let_out(output for output, _ in self._sink.drain().outputs)
        if why is None:
            return True
        at, guest_id = self._clock.now(), self._guest_id
        if self.end is not None:
            self._on_event(GuestFinished(at=at, guest_id=guest_id, reason=f"the guest ended: {self.end}"))
        else:
            self.end = why
            self._on_event(HostFailed(at=at, guest_id=guest_id, error=f"the guest ended: {why}"))
        return False

    def _give_up(self, wrong: FtvmError) -> None:
        """Record no longer: the guest runs on."""
        self.failure = wrong
        self._runner.stall_or_go_on(must_stand_still=self._why is not None)
        at, guest_id = self._clock.now(), self._guest_id
        self._on_event(HostServiceFailed(at=at, guest_id=guest_id, name="history recorder", error=str(wrong)))

    def _let_out(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.channel == END_CHANNEL:
                self.end = output.payload.decode(errors="replace")
            else:
                self._world.release(output)

    def _cut(self, *, is_first: bool = False) -> None:
        """Cut an epoch, and show it to the recorder, with copies of the batches: their buffers are used again."""
        cut = self._capturer.capture(Cut(self._epoch + 1, self._epoch, self._engine, lists_pages=False))
        if not isinstance(cut, CutTaken):
            why = cut.error if isinstance(cut, CaptureFailed) else "nothing was cut"
            raise HistoryError(f"an epoch could not be captured: {why}")
        self._epoch += 1
        batches, outputs = cut.checkpoint.batches, tuple(output for output, _ in cut.emitted.outputs)
        self._let_out(outputs)  # before anything that may fail: they are in no later epoch
        copies = tuple(map(_copied, batches))
        checkpoint = replace(cut.checkpoint, engine=_ENGINE, outputs=outputs, batches=copies)
        self._capturer.buffers.acknowledged(*batches)
        self._recorder.committed([Commit(checkpoint=checkpoint, log=tuple(cut.emitted.log), is_first=is_first)])

    def _tell_gap(self, reason: str) -> None:
        self._on_event(HistoryGap(at=self._clock.now(), guest_id=self._guest_id, reason=reason))


def _copied(batch: PageBatch) -> PageBatch:
    return PageBatch(
        count=batch.count,
        indices=bytes(batch.indices),
        lengths=bytes(batch.lengths),
        payload=bytes(batch.payload),
        digest=batch.digest,
    )


def record(
    guest: Guest,
    history: History,
    *,
    interval: float = 0.025,
    world: World | None = None,
    guest_id: str = "guest",
    on_event: Callable[[Event], None] | None = None,
) -> LoneRecording:
    """Run `guest` on this host, alone, and record its past into `history`. It is not protected.

    interval  seconds between epochs
    world     where outputs go, at once, and inputs come from; nowhere if not given
    on_event  called with `HistoryGap`, `HostServiceFailed`, and how the guest ended, from a separate thread

    Takes the three over: they are closed with what is returned. Takes as much memory as the guest has, for the shadow.
    Raises ConfigError, HistoryError, GuestError; the guest is closed then.
    """
    return LoneRecording(
        guest,
        history,
        interval=interval,
        world=world if world is not None else CallbackWorld(),
        guest_id=guest_id,
        on_event=on_event or (lambda _: None),
    )
