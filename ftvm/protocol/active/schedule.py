"""Which engine is in force on an active, which one is to follow it, and when the next checkpoint is due.

An engine changes at a cut, while the guest stands still, so that each output is judged by the engine under which it was
made: what came before belongs to that checkpoint; what comes after waits for what the new engine asks. The checkpoint's
header tells the backup what to do behind it: execute, or come to rest. Without a backup there is no cut to wait for.
"""

import math
from dataclasses import dataclass, field

from ftvm.interfaces import Engine, EngineView
from ftvm.protocol.active.output import OutputBuffer
from ftvm.protocol.effects import Cut
from ftvm.protocol.session import Session
from ftvm.units import Nanos

__all__ = ["CheckpointSchedule", "interval_ms_of"]


@dataclass(slots=True)
class CheckpointSchedule:
    """`engine` is the one under which the guest runs now, `wanted` what was asked for and is not in force yet.

    told  the last engine of which the listeners know that it is in force
    """

    engine: Engine
    last_cut_at: Nanos
    told: Engine = field(init=False)
    wanted: Engine | None = None
    is_cutting: bool = False
    _epoch_ns: int = 0
    _pause_ns: int = 0
    _dirty_pages: int = 0

    def __post_init__(self) -> None:
        self.told = self.engine

    def order(self, epoch: int, *, lists_pages: bool, now: Nanos) -> Cut:
        """Begin a cut: the epoch behind `epoch`, with the engine that is to be in force behind it."""
        self.is_cutting = True
        self._epoch_ns = now - self.last_cut_at
        self.last_cut_at = now
        return Cut(epoch + 1, epoch, self.wanted or self.engine, lists_pages)

    def cut(self, *, pause_ns: int, dirty_pages: int) -> None:
        """Note what a cut has cost."""
        self._pause_ns, self._dirty_pages = pause_ns, dirty_pages

    def use(self, engine: Engine) -> None:
        """Note that the guest stands still and runs on under `engine`."""
        self.engine = engine
        if self.wanted == engine:
            self.wanted = None

    def next_cut(self, session: Session, outputs: OutputBuffer) -> Nanos:
        """Return when the next checkpoint is due; a change of engine waits for nothing."""
        if self.wanted is not None:
            return self.last_cut_at
        return self.engine.next_cut(
            EngineView(
                last_cut_at=self.last_cut_at,
                epochs_in_flight=len(session.in_flight),
                outputs_waiting=len(outputs.held),
                oldest_output_at=outputs.held[0].since if outputs.held else None,
                oldest_uncut_at=outputs.since(session.shipped_next),
                epoch_ns=self._epoch_ns,
                dirty_pages=self._dirty_pages,
                pause_ns=self._pause_ns,
                commit_ns=session.commit_ns,
            )
        )


def interval_ms_of(engine: Engine) -> float | None:
    """Return the milliseconds between checkpoints that an engine was given, None if it has no such parameter."""
    interval = getattr(engine, "interval", None)  # not asked of an Engine: one of somebody's own may have anything
    return round(interval * 1000, 6) if isinstance(interval, int | float) and math.isfinite(interval) else None
