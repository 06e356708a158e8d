"""Both ends of the ordered stream that builds up a standby's state, over a link that may lose, repeat and reorder.

ZeroMQ keeps order within one connection and loses only with the connection, so the rules are simple: a window, a
cumulative acknowledgement, a bounded reorder buffer (go-back-N starved under reordering: docs/protocol.md, "Mistakes
made once", 6), and a repeat of what is overdue with a delay that doubles until something moves.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ftvm.encode.messages import Sequenced
from ftvm.protocol.timers import NEVER
from ftvm.units import Nanos

__all__ = ["Inbox", "Outbox"]

REPEAT_FACTOR_MAX: Final = 64


@dataclass(slots=True)
class Outbox:
    """The sender's end: keeps each message until it is acknowledged. At most `window` are on their way, or `flying`;
    the others are `waiting`. `advanced_at` is when one was acknowledged last, or when the first of them went."""

    window: int
    repeat_ns: Nanos
    next_sequence: int = 0
    waiting: deque[Sequenced] = field(default_factory=deque, repr=False)
    flying: deque[Sequenced] = field(default_factory=deque, repr=False)
    _moved_at: Nanos = Nanos(0)
    advanced_at: Nanos = Nanos(0)
    _repeats: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything put in was acknowledged."""
        return not self.waiting and not self.flying

    @property
    def room(self) -> int:
        """How many more messages may be put in before they would only wait."""
        return max(0, self.window - len(self.flying) - len(self.waiting))

    def put(self, message: Sequenced) -> None:
        """Take a message, whose sequence is `next_sequence`."""
        self.next_sequence = message.sequence + 1
        self.waiting.append(message)

    def due(self, now: Nanos) -> list[Sequenced]:
        """Return what to send now: new messages as the window allows, or all on their way again if nothing moved."""
        repeat: list[Sequenced] = []
        if not self.flying:
            self._moved_at = self.advanced_at = now
        elif now >= self._moved_at + self.repeat_ns * (1 + self._repeats):
            repeat = list(self.flying)
            self._repeats = min(self._repeats * 2 + 1, REPEAT_FACTOR_MAX)
            self._moved_at = now
        fresh: list[Sequenced] = []
        while self.waiting and len(self.flying) < self.window:
            message = self.waiting.popleft()
            self.flying.append(message)
            fresh.append(message)
        return repeat + fresh

    def acknowledge(self, received: int, now: Nanos) -> list[Sequenced]:
        """Let go of all messages below `received`; one that was never sent cannot be acknowledged and stays."""
        done: list[Sequenced] = []
        while self.flying and self.flying[0].sequence < received:
            done.append(self.flying.popleft())
        if done:
            self._moved_at = self.advanced_at = now
            self._repeats = 0
        return done

    def clear(self) -> list[Sequenced]:
        """Forget everything: the session is over."""
        left = [*self.flying, *self.waiting]
        self.flying.clear()
        self.waiting.clear()
        return left

    @property
    def repeats_at(self) -> Nanos:
        """When what is on its way is sent again; NEVER if nothing is."""
        return Nanos(self._moved_at + self.repeat_ns * (1 + self._repeats)) if self.flying else NEVER


@dataclass(slots=True)
class Inbox:
    """The receiver's end: gives messages in order, each once. At most `window` that came early are kept aside."""

    window: int
    expected: int = 0
    _aside: dict[int, Sequenced] = field(default_factory=dict, repr=False)

    def take(self, message: Sequenced) -> list[Sequenced]:
        """Take what came; return what is next in order now. Repeats, and what is too far ahead, are dropped."""
        if not self.expected <= message.sequence < self.expected + self.window:
            return []
        self._aside.setdefault(message.sequence, message)  # rule: gap_waited_for
        ready: list[Sequenced] = []
        while self.expected in self._aside:
            ready.append(self._aside.pop(self.expected))
            self.expected += 1
        return ready
