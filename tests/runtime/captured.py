"""A guest that has run some steps, and who captures it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import CapturePolicy
from ftvm.checkpoint import Checkpoint
from ftvm.config import Limits
from ftvm.engines.remus import Remus
from ftvm.interfaces import Capability
from ftvm.protocol.effects import Cut, StartCopy
from ftvm.protocol.reports import (
    CutTaken,
)
from ftvm.runtime.capture import Capturer, CaptureReport
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import ManualClock

LIMITS = Limits(batch_bytes=1 << 16, devices_bytes=4096)


ORDER = Cut(1, 0, Remus(), False)


class Primary:
    """A guest that has run some steps, and who captures it. It goes on by `on_go_on` as soon as a capture lets it."""

    def __init__(self, policy: CapturePolicy | None = None, kind: type[SimGuest] = SimGuest) -> None:
        self.guest: Any = kind(page_count=24, pages_per_step=2, output_every=2, boots=True)
        self.on_go_on: Callable[[], None] = lambda: None
        self.sink = NumberingSink(lambda: None, ManualClock())
        self.sink.open(1, 1, is_logging=False)
        self.guest.attach(self.sink)
        memory = NativeMemory([region.buffer for region in self.guest.memory])
        self.runner: Any = SimpleNamespace(
            stall=self.guest.pause, stall_or_go_on=lambda **_: self.on_go_on(), use=lambda _: None, engine=Remus()
        )
        self.capturer = Capturer(self.runner, self.guest, memory, self.sink, LIMITS, ManualClock(), lambda: False)
        if policy is not None:
            self.capturer._policy = policy
        self.capturer.capture(StartCopy(LIMITS.staging_bytes))
        self.run()

    def run(self) -> None:
        self.guest.resume()
        for _ in range(20):
            self.guest.advance()
        self.guest.pause()

    def report(self, order: Cut = ORDER) -> CaptureReport:
        report = self.capturer.capture(order)
        if isinstance(report, CutTaken):
            self.capturer.buffers.acknowledged(*report.checkpoint.batches)
        return report

    def cut(self, order: Cut = ORDER) -> Checkpoint:
        report = self.report(order)
        assert isinstance(report, CutTaken)
        return report.checkpoint


QUIET = Cut(2, 1, Remus(), False, may_skip=True)


class TellingGuest(SimGuest):
    """It tells whether it has written, and counts its pauses."""

    pauses = 0

    @property
    def can(self) -> frozenset[Capability]:
        return super().can | {Capability.TELLS_WRITES}

    def pause(self) -> None:
        self.pauses += 1
        super().pause()

    def has_written(self) -> bool:
        return any(self._dirty)


class RestingGuest(TellingGuest):
    """It tells whether it waits, too; `on_asked` is what it does as soon as it has told."""

    waits = True

    def __init__(self, **shape: Any) -> None:
        super().__init__(**shape)
        self.on_asked: Callable[[], None] = lambda: None

    @property
    def can(self) -> frozenset[Capability]:
        return super().can | {Capability.TELLS_IDLE}

    def is_idle(self) -> bool:
        waits = self.waits
        self.on_asked()
        return waits
