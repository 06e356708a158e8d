"""The simulator's arbiter: linearizable, but its answers come late, get lost after taking effect, or never set out, and
a change may be refused before anything is done, as with a full disk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ftvm.errors import LocalProtocolError
from ftvm.interfaces import Answer, CompareAndSet, Record, Request
from ftvm.sim.faultlog import FaultLog
from ftvm.sim.rng import stream
from ftvm.sim.schedule import Schedule

__all__ = ["PLACE", "ArbiterFaults", "SimArbiter", "SimStore"]

PLACE: Final = "0" * 32
"""Where the record is, in every world."""

DELAY_NS = 200_000
LATE_NS = 60_000_000
REPEAT_NS_MAX = 1_000_000_000
"""A repeat of a request comes up to this long after it: long enough for other changes between."""


@dataclass(slots=True, kw_only=True)
class ArbiterFaults:
    """How bad the arbiter is now.

    An `arbiter_answer_lost` takes effect, an `arbiter_request_lost` does not, and nobody who asked can tell them apart;
    an `arbiter_refusal` does not, and says so.
    """

    is_down: bool = False
    disk_ns: int = 0


class SimStore:
    """The record itself, and the name of its place. `on_change` is told of every change as it takes effect."""

    def __init__(self, on_change: Callable[[Record, Record], None], place: str) -> None:
        self.record = Record(0, None, None)
        self.place = place
        self._on_change = on_change

    def apply(self, request: Request) -> Record:
        """Apply the request; return the record in force."""
        # rule: record_compared
        if isinstance(request, CompareAndSet) and request.record.generation == self.record.generation + 1:
            before, self.record = self.record, request.record
            self._on_change(before, self.record)
        return self.record


class SimArbiter:
    """One host's line to the store; implements interfaces.Arbiter."""

    def __init__(
        self,
        store: SimStore,
        schedule: Schedule,
        faults: ArbiterFaults,
        log: FaultLog,
        line: tuple[int, str],
        wake: Callable[[], None],
    ) -> None:
        """`line` is the seed, and the name of who asks: together the source of all randomness here."""
        self._store = store
        self._schedule = schedule
        self._faults = faults
        self._log = log
        self._who = line[1]
        self._delays = stream(line[0], "arbiter", line[1])
        self._wake = wake
        self._answer: Answer | None = None
        self._is_busy = False

    def submit(self, request: Request) -> None:
        """See interfaces.Arbiter."""
        if self._is_busy:
            raise LocalProtocolError("one request is outstanding already")
        self._is_busy = True
        is_refused = isinstance(request, CompareAndSet) and self._strikes("arbiter_refusal")
        self._schedule.after(self._delay_ns(), lambda: self._reach(request, is_refused))
        if not is_refused and self._strikes("arbiter_repeat"):
            self._schedule.after(self._delays.randrange(REPEAT_NS_MAX), lambda: self._repeat(request))

    def poll(self) -> Answer | None:
        """See interfaces.Arbiter."""
        answer, self._answer = self._answer, None
        if answer is not None:
            self._is_busy = False
        return answer

    def _reach(self, request: Request, is_refused: bool) -> None:
        if self._faults.is_down or self._strikes("arbiter_request_lost"):
            self._come_back(Answer(request, None, "the request was lost"))
        elif is_refused:
            self._come_back(Answer(request, None, "the disk is full", is_unapplied=True))
        elif isinstance(request, CompareAndSet) and self._faults.disk_ns:
            self._schedule.after(self._faults.disk_ns, lambda: self._apply(request))
        else:
            self._apply(request)

    def _repeat(self, request: Request) -> None:
        self._store.apply(request)  # the asker is gone

    def _apply(self, request: Request) -> None:
        record = self._store.apply(request)
        if self._strikes("arbiter_answer_lost"):
            self._come_back(Answer(request, None, "the answer was lost"))
        else:
            self._come_back(Answer(request, record, None, place=self._store.place))

    def _come_back(self, answer: Answer) -> None:
        def arrive() -> None:
            self._answer = answer
            self._wake()

        self._schedule.after(self._delay_ns(), arrive)

    def _delay_ns(self) -> int:
        return self._delays.randrange(LATE_NS if self._strikes("arbiter_late") else DELAY_NS)

    def _strikes(self, kind: str) -> bool:
        return self._log.strikes(kind, self._who)
