"""The simulator's arbiter: linearizable, but its answers come late, get lost after taking effect, or never set out."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ftvm.errors import LocalProtocolError
from ftvm.interfaces import Answer, CompareAndSet, Record, Request
from ftvm.sim.timeline import Timeline

__all__ = ["ArbiterFaults", "SimArbiter", "SimStore"]


@dataclass(slots=True, kw_only=True)
class ArbiterFaults:
    """How bad the arbiter is now. `lost_answer` takes effect, `lost_request` does not; both end in an error."""

    delay_ns: int = 200_000
    lost_request: float = 0.0
    lost_answer: float = 0.0
    is_down: bool = False


class SimStore:
    """The record itself. `on_change` is told of every change as it takes effect."""

    def __init__(self, on_change: Callable[[Record, Record], None]) -> None:
        self.record = Record(0, None, None)
        self._on_change = on_change

    def apply(self, request: Request) -> Record:
        """Do what is asked; return the record in force."""
        if isinstance(request, CompareAndSet) and request.record.generation == self.record.generation + 1:
            before, self.record = self.record, request.record
            self._on_change(before, self.record)
        return self.record


class SimArbiter:
    """One node's line to the store; implements interfaces.Arbiter."""

    def __init__(
        self,
        store: SimStore,
        timeline: Timeline,
        faults: ArbiterFaults,
        chance: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._timeline = timeline
        self._faults = faults
        self._chance = chance
        self._wake = wake
        self._answer: Answer | None = None
        self._is_busy = False

    def submit(self, request: Request) -> None:
        """See interfaces.Arbiter."""
        if self._is_busy:
            raise LocalProtocolError("one request is outstanding already")
        self._is_busy = True
        delay_ns = self._chance.randrange(self._faults.delay_ns + 1)
        draw = self._chance.random()
        self._timeline.after(delay_ns, lambda: self._reach(request, draw))

    def poll(self) -> Answer | None:
        """See interfaces.Arbiter."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._is_busy = False
        return answer

    def _reach(self, request: Request, draw: float) -> None:
        faults = self._faults
        if faults.is_down or draw < faults.lost_request:
            self._come_back(Answer(request, None, "the request was lost"))
            return
        record = self._store.apply(request)
        is_lost = draw < faults.lost_request + faults.lost_answer
        self._come_back(Answer(request, None, "the answer was lost") if is_lost else Answer(request, record, None))

    def _come_back(self, answer: Answer) -> None:
        def arrive() -> None:
            self._answer = answer
            self._wake()

        self._timeline.after(self._chance.randrange(self._faults.delay_ns + 1), arrive)
