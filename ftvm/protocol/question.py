"""What a broken connection means: the start of a question, not a suspicion (docs/protocol.md, "Suspicion").

A firewall may reset a healthy link, and a takeover for that would be a false one. So whoever loses a connection dials
at once, where the peer was:

    IDLE --reset--> ASKING --refused--> PAUSING --10 ms--> ASKING --refused again--> the peer is gone
     ^                 |                   ^                  |
     +--- answered, or no answer ----------|------------------+
                       +------ unclear ----+

Only a refusal on both lanes, twice, 10 ms apart, with no reset between, says that the peer's process is gone. An answer
ends the question, and so does a connection that hangs: silence is for the watch to judge. One that is made and breaks
before anybody spoke may be that of a process that is just ending, so it is asked again. Who is gone is asked on for a
while: what it said before it ended may still come in, and be taken for a sign of life.

Knows nothing of sockets: the transport asks and reports. Time is an argument.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ftvm.interfaces import Sign
from ftvm.units import Nanos

__all__ = ["QUESTIONS", "Order", "Question", "QuestionState"]

REFUSALS_NEEDED: Final = 2
PAUSE_NS: Final = 10_000_000
PATIENCE_NS: Final = 1_000_000_000
"""So long an answer is waited for."""
ASKS_MAX: Final = 64


class QuestionState(Enum):
    """Where a question stands."""

    IDLE = "idle"
    ASKING = "asking"
    PAUSING = "pausing"


class Order(Enum):
    """What is to be done now."""

    NOTHING = "nothing"
    ASK = "ask"
    SUSPECT = "suspect"
    """The peer is gone."""


QUESTIONS: Final[dict[tuple[QuestionState, Sign | None], QuestionState]] = {
    (QuestionState.IDLE, Sign.RESET): QuestionState.ASKING,
    (QuestionState.IDLE, Sign.REFUSED): QuestionState.IDLE,
    (QuestionState.IDLE, Sign.ANSWERED): QuestionState.IDLE,
    (QuestionState.IDLE, Sign.UNCLEAR): QuestionState.IDLE,
    (QuestionState.IDLE, None): QuestionState.IDLE,
    (QuestionState.ASKING, Sign.RESET): QuestionState.ASKING,
    (QuestionState.ASKING, Sign.REFUSED): QuestionState.PAUSING,
    (QuestionState.ASKING, Sign.ANSWERED): QuestionState.IDLE,
    (QuestionState.ASKING, Sign.UNCLEAR): QuestionState.PAUSING,
    (QuestionState.ASKING, None): QuestionState.IDLE,
    (QuestionState.PAUSING, Sign.RESET): QuestionState.PAUSING,
    (QuestionState.PAUSING, Sign.REFUSED): QuestionState.PAUSING,
    (QuestionState.PAUSING, Sign.ANSWERED): QuestionState.PAUSING,
    (QuestionState.PAUSING, Sign.UNCLEAR): QuestionState.PAUSING,
    (QuestionState.PAUSING, None): QuestionState.ASKING,
}
"""Every pair of state and sign; None is that the time is up. The late answer to an older ask changes nothing."""


@dataclass(slots=True)
class Question:
    """Whether one peer is gone. `due_at` is when to call `step` with None, if nothing comes before."""

    state: QuestionState = QuestionState.IDLE
    due_at: Nanos | None = None
    _asks: int = 0
    _refusals: int = 0

    def step(self, sign: Sign | None, now: Nanos) -> Order:
        """Take a sign, or None when the time is up; return what to do."""
        before, self.state = self.state, QUESTIONS[self.state, sign]
        if sign is Sign.RESET:
            # rule: refusals_of_one_reset
            self._refusals = 0  # of a firewall that resets again and again, each refusal may be the first
        match before, self.state:
            case ((QuestionState.IDLE | QuestionState.PAUSING), QuestionState.ASKING):
                return self._ask(before, now)
            case QuestionState.ASKING, QuestionState.PAUSING:
                return self._count(sign, now)
            case _, QuestionState.IDLE:
                self.due_at = None
        return Order.NOTHING

    def _ask(self, before: QuestionState, now: Nanos) -> Order:
        if before is QuestionState.IDLE:
            self._asks = self._refusals = 0
        self._asks += 1
        self.due_at = Nanos(now + PATIENCE_NS)
        return Order.ASK  # rule: reset_is_asked_after

    def _count(self, sign: Sign | None, now: Nanos) -> Order:
        self._refusals = self._refusals + 1 if sign is Sign.REFUSED else 0  # rule: only_refusals_counted
        self.due_at = Nanos(now + PAUSE_NS)
        if self._asks >= ASKS_MAX:
            self.state, self.due_at = QuestionState.IDLE, None
        return Order.SUSPECT if self._refusals >= REFUSALS_NEEDED else Order.NOTHING  # rule: refusals_needed
