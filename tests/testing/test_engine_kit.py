"""Each engine here breaks one promise, and check_engine names it. (The real ones: tests/engines/test_policies.py.)"""

from dataclasses import dataclass, field

import pytest

from ftvm.checkpoint import Watermarks
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.remus import Remus
from ftvm.interfaces import Engine, EngineView
from ftvm.testing import ContractBroken, check_engine
from ftvm.units import Nanos

SECOND = 1_000_000_000


class NeedsTheEpochBefore(Remus):
    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        return super().output_needs(epoch=epoch - 1, log_index=log_index)


class NeedsTheNextEpoch(Remus):
    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        return super().output_needs(epoch=epoch + 1, log_index=log_index)


class NeedsNothingOnEvenDays(Hybrid):
    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        return super().output_needs(epoch=epoch, log_index=log_index if epoch % 2 else 0)


class LogsForNobody(Hybrid):
    needs = frozenset()


class NeverCutsAQuietGuest(Remus):
    def next_cut(self, view: EngineView) -> Nanos:
        due = super().next_cut(view)
        return due if view.outputs_waiting else Nanos(due + 3600 * SECOND)


class CutsInThePast(Remus):
    def next_cut(self, view: EngineView) -> Nanos:
        return Nanos(view.last_cut_at - SECOND)


class BelievesThatTheClockStartsAtZero(Remus):
    def next_cut(self, view: EngineView) -> Nanos:
        return Nanos(max(super().next_cut(view), SECOND))


@dataclass(frozen=True, slots=True)
class Remembers(Remus):
    calls: list[EngineView] = field(default_factory=list, compare=False, repr=False)

    def next_cut(self, view: EngineView) -> Nanos:
        self.calls.append(view)
        return Nanos(view.last_cut_at + len(self.calls))


BROKEN = [
    (NeedsTheEpochBefore(), "An output needs its own epoch"),
    (NeedsTheNextEpoch(), "it would wait for ever"),
    (NeedsNothingOnEvenDays(), "An output needs its own epoch, or its own log record|A later output never needs less"),
    (LogsForNobody(), "An engine that logs asks for a guest that can be replayed"),
    (NeverCutsAQuietGuest(), "Every guest is cut again within a bounded time"),
    (CutsInThePast(), "No cut is due before the last one"),
    (BelievesThatTheClockStartsAtZero(), "No policy depends on where the clock starts"),
    (Remembers(), "The same view gives the same answer"),
]


@pytest.mark.parametrize(("engine", "complaint"), BROKEN, ids=[type(engine).__name__ for engine, _ in BROKEN])
def test_broken_engine_is_found(engine: Engine, complaint: str) -> None:
    with pytest.raises(ContractBroken, match=complaint):
        check_engine(engine)
