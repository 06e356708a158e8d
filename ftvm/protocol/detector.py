"""Whether a peer is dead, and whom to ignore for a while. No safety depends on it: the arbiter decides, this only asks.

FailureDetector   when silence becomes suspicion
Question          whether a peer whose connection broke is gone (docs/protocol.md, "Suspicion", for both)
Backoff           who fails again and again is ignored, each time for longer

They know nothing of sockets. Time is an argument.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ftvm.interfaces import Sign
from ftvm.units import Nanos

__all__ = ["QUESTIONS", "Backoff", "FailureDetector", "Order", "Question", "QuestionState"]

GAP_FACTOR: Final = 4
LIMIT_FACTOR_MAX: Final = 10
PROGRESS_FACTOR: Final = 4
MEMORY_NS: Final = 60_000_000_000
BUCKET_NS: Final = 1_000_000_000
"""Gaps are remembered by the second, each second's longest: bounded, whatever the peer sends."""
EXCUSES_MAX: Final = 8
"""How many stalls of ours are excused until the peer is heard: a host that is stopped again and again would wait for
a dead peer for ever."""


@dataclass(slots=True)
class _Gaps:
    """The longest gaps between heartbeats: of each second that has one longer than all later ones, by the second. The
    first is the longest of the last minute, as of the last heartbeat."""

    last_at: Nanos | None = None
    longest: deque[tuple[int, int]] = field(default_factory=deque)

    def note(self, now: Nanos) -> None:
        """Note a heartbeat."""
        last_at, self.last_at = self.last_at, now
        if last_at is None:
            return
        gap_ns, second = now - last_at, now // BUCKET_NS
        while self.longest and self.longest[-1][1] <= gap_ns:
            self.longest.pop()
        if not self.longest or self.longest[-1][0] != second:
            self.longest.append((second, gap_ns))
        while self.longest[0][0] < second - MEMORY_NS // BUCKET_NS:
            self.longest.popleft()


@dataclass(slots=True)
class FailureDetector:
    """Watches one peer. `patience` multiplies the limit while the peer is not yet expected to be prompt (first
    copy). `suspects_at` is when the peer will be suspected.

    Once the peer is expected to be prompt, the limit adapts: it is never under four times the longest gap between two
    heartbeats of the last minute, and never over ten times what was configured, so that neither a jittery link nor a
    slow peer on purpose sets it at will. Only heartbeats count for that: they are sent evenly, the other messages in
    bursts.

    A heartbeat says that the peer's process lives, and by its number whether its loop goes on: a thread repeats the
    last one while the loop is busy (runtime/host.py). A loop that makes no progress for four limits is as good as
    silent.
    """

    configured_ns: Nanos
    heard_at: Nanos
    patience: int = 1
    suspects_at: Nanos = field(init=False)
    _progressed_at: Nanos = field(init=False)
    _limit_ns: Nanos = field(init=False)
    _reason: str = ""
    _beat: int | None = None
    _excuses: int = 0
    _gaps: _Gaps = field(default_factory=_Gaps)

    def __post_init__(self) -> None:
        self._progressed_at = self.heard_at
        self._measure()

    def heard(self, now: Nanos, beat: int | None = None) -> None:
        """Note a sign of life; `beat` is its number if it is a heartbeat, which counts what the peer's loop does."""
        self.heard_at = now
        self._reason = ""
        self._excuses = 0
        if beat is None:
            self._progressed_at = now
            self.suspects_at = Nanos(now + self._limit_ns)
            return
        self._gaps.note(now)
        if self._beat is None or beat > self._beat:  # rule: beat_must_grow
            self._beat, self._progressed_at = beat, now
        self._measure()

    def excuse(self, stall_ns: int, now: Nanos) -> None:
        """Leave out of the silence that we were not listening ourselves for `stall_ns`, until now.

        The silence before it still counts. After a few such stalls without a sign of life, no more are left out.
        """
        if self._excuses >= EXCUSES_MAX:  # rule: excuses_bounded
            return
        self._excuses += 1
        self.heard_at = Nanos(min(now, self.heard_at + stall_ns))  # rule: only_the_stall_excused
        self._progressed_at = Nanos(min(now, self._progressed_at + stall_ns))
        if self._gaps.last_at is not None:
            self._gaps.last_at = Nanos(min(now, self._gaps.last_at + stall_ns))
        self._measure()

    def hurry(self, reason: str) -> None:
        """Suspect at once, and say why: the peer said that it leaves, or its process is known to be gone.

        Any sign of life undoes it.
        """
        self._reason = reason
        self._measure()

    def arm(self, now: Nanos) -> None:
        """Expect the peer to be prompt from now on; gaps of the time before do not count."""
        self.patience = 1
        self._gaps = _Gaps()
        self.heard_at = self._progressed_at = now
        self._measure()

    def _measure(self) -> None:
        """Note how long a silence is tolerated, and until when this one is: asked far more often than it changes."""
        limit_ns = self.configured_ns * self.patience
        gaps = self._gaps.longest
        if self.patience == 1 and gaps:
            limit_ns = max(limit_ns, min(gaps[0][1] * GAP_FACTOR, self.configured_ns * LIMIT_FACTOR_MAX))
        self._limit_ns = Nanos(limit_ns)
        tolerated_ns = self.limit_ns()
        progress_at = self._progressed_at + tolerated_ns * PROGRESS_FACTOR
        self.suspects_at = Nanos(min(progress_at, self.heard_at + tolerated_ns))

    def limit_ns(self) -> Nanos:
        """Return how long a silence is tolerated now."""
        return Nanos(0) if self._reason else self._limit_ns

    def silence_ns(self, now: Nanos) -> Nanos:
        """Return how long the peer has been silent."""
        return Nanos(now - self.heard_at)

    def is_silent(self, now: Nanos) -> bool:
        """Tell whether the silence has passed the limit, or the peer's loop has made no progress for too long."""
        return now >= self.suspects_at

    def reason(self, whom: str, now: Nanos) -> str:
        """Return why the peer, called `whom`, is suspected, where that is not its silence; empty if it is."""
        if self._reason or self.silence_ns(now) >= self.limit_ns():
            return self._reason
        stuck_ms = (now - self._progressed_at) / 1e6
        return f"{whom}'s process lives, but its loop has made no progress for {stuck_ms:.0f} ms"


REFUSALS_NEEDED: Final = 2
PAUSE_NS: Final = 10_000_000
PATIENCE_NS: Final = 1_000_000_000
"""How long to wait for an answer."""
ASKS_MAX: Final = 64


class QuestionState(Enum):
    """Where a question stands.

    What a broken connection means: the start of a question, not a suspicion (docs/protocol.md, "Suspicion").

    A firewall may reset a healthy link, and a takeover for that would be a false one. So the host that loses a
    connection dials the peer's address at once:

        IDLE --reset--> ASKING --refused--> PAUSING --10 ms--> ASKING --refused again--> the peer is gone
         ^                 |                   ^                  |
         +--- answered, or no answer ----------|------------------+
                           +------ unclear ----+

    Only a refusal on both lanes, twice, 10 ms apart, with no reset between, says that the peer's process is gone. An
    answer ends the question, and so does a connection that hangs: silence is for the failure detector to judge. One
    that is made and breaks before anybody spoke may be that of a process that is just ending, so it is asked again. A
    peer that is gone is asked for a while longer: its last messages may still come in, and look like a sign of life.

    Knows nothing of sockets: the transport asks and reports. Time is an argument.
    """

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


_NAMES_MAX: Final = 1024
"""Beyond it the name that failed longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class _Record:
    strikes: int
    struck_at: Nanos
    ignored_until: Nanos


@dataclass(slots=True)
class Backoff:
    """The first `tolerated` failures of a name cost nothing; each later one has it ignored for twice as long, from
    `first_ns` to `longest_ns`. A name that has not failed for `longest_ns` after that starts again.

    A failure by itself costs its author only the message or the session. What this bounds is the cost of failing on and
    on: of the one place for a joining standby, of log lines, of decoding. Names are keys where there are keys: a peer
    can change everything else about itself.
    """

    tolerated: int
    first_ns: Nanos
    longest_ns: Nanos
    records: dict[str, _Record] = field(default_factory=dict, repr=False)

    def strike(self, name: str, now: Nanos) -> Nanos:
        """Note a failure; return for how long the name is ignored from now on, 0 if it is tolerated."""
        before = self.records.pop(name, None)
        if before is None or now - max(before.struck_at, before.ignored_until) >= self.longest_ns:
            before = _Record(0, now, now)
        strikes = before.strikes + 1
        ignored_ns = self._price(strikes)
        self.records[name] = _Record(strikes, now, Nanos(now + ignored_ns))
        if len(self.records) > _NAMES_MAX:
            del self.records[next(iter(self.records))]
        return ignored_ns

    def ignored_ns(self, name: str, now: Nanos) -> Nanos:
        """Return for how long the name is still ignored; 0 if it is not."""
        record = self.records.get(name)
        return Nanos(0) if record is None else Nanos(max(0, record.ignored_until - now))

    def _price(self, strikes: int) -> Nanos:
        beyond = strikes - self.tolerated
        if beyond <= 0:
            return Nanos(0)
        doublings = min(beyond - 1, self.longest_ns.bit_length())
        return Nanos(min(self.first_ns << doublings, self.longest_ns))
