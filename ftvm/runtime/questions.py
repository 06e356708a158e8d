"""The questions that broken connections raise (protocol/detector.py), one for each peer that a guest here depends on.

Only peers in session with a guest of this endpoint matter: connections of strangers may break.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from ftvm.interfaces import Sign
from ftvm.protocol.detector import Order, Question
from ftvm.units import Nanos

__all__ = ["Questions"]


class Questions:
    """All questions of one endpoint; bounded by the number of its guests."""

    def __init__(self, ask: Callable[[str], bool]) -> None:
        """Ask by `ask`, which is Transport.ask."""
        self._ask = ask
        self._open: dict[str, Question] = {}

    def step(self, signs: Sequence[tuple[str, Sign]], partners: AbstractSet[str], now: Nanos) -> set[str]:
        """Take what the transport saw, and do what is due; return who is gone.

        partners  the peers that are in session with a guest here
        """
        for peer in self._open.keys() - partners:
            del self._open[peer]
        gone: set[str] = set()
        for peer, sign in signs:
            if peer in partners:
                self._step(peer, sign, now, gone)
        for peer, question in list(self._open.items()):
            if question.due_at is not None and now >= question.due_at:
                self._step(peer, None, now, gone)
        return gone

    def deadline(self) -> Nanos | None:
        """Return when the next step is due, if nothing comes before."""
        return min((question.due_at for question in self._open.values() if question.due_at is not None), default=None)

    def _step(self, peer: str, sign: Sign | None, now: Nanos, gone: set[str]) -> None:
        question = self._open.setdefault(peer, Question())
        order = question.step(sign, now)
        if order is Order.SUSPECT:
            gone.add(peer)
        if question.due_at is None or (order is Order.ASK and not self._ask(peer)):
            del self._open[peer]  # answered, or there is no way to ask: then silence alone tells
