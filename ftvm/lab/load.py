"""The requests of the lab's client: several logical clients, each with one request outstanding, and the record of all.

`Workload` says which requests are due, takes the replies, and keeps every call for `linearizability`. First it works: a
steady mix of PUT and GET on a few keys that all clients share, each PUT with its own value. After `begin_audit` it
reads every key once more and is then finished. Pure: time is an argument, chance a seed, requests and replies bytes.
"""

import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from ftvm.errors import BadFrame, ConfigError
from ftvm.lab.kv import VALUE_BYTES_MAX, Operation, Reply, ReplyStatus, Request
from ftvm.lab.linearizability import Call
from ftvm.units import Nanos

__all__ = ["PACE_NS", "PATIENCE_NS", "LoadCounters", "Workload"]

RETRY_NS_FIRST: Final = 50_000_000
PATIENCE_NS: Final = 100_000_000
"""Doubling stops here: a client that waits longer would measure its own patience, not the takeover. Where a guest may
be slower than that for long, be more patient: each repetition costs it an answer."""

PACE_NS: Final = 10_000_000
"""A client begins at most one request in so long: a solo guest answers at once, and would take a whole core."""

CLIENTS_MAX: Final = 128
"""The guest remembers the last answers of 256 clients; beyond that a retransmission could act twice."""

CALLS_MAX: Final = 2_000_000
"""The record lives in memory; a load that reaches this goes on to its audit."""

REPLIES_KEPT: Final = 4
"""Different answers kept for one request; the second is a violation already."""


@dataclass(slots=True, kw_only=True)
class LoadCounters:
    """What was sent and what came."""

    acknowledged: int = 0
    retransmissions: int = 0
    repeats: int = 0
    """Answers that had come before: a repeated request's, or an output emitted again after a takeover."""
    refused: int = 0
    """Datagrams that answer no request."""


@dataclass(slots=True, kw_only=True)
class _Outstanding:
    request: Request
    invoked_at: Nanos
    """When it was sent first; until then, when it is to be."""
    send_at: Nanos
    retry_ns: int = RETRY_NS_FIRST
    sends: int = 0


class Workload:
    """The requests of several logical clients, and the history of their calls."""

    def __init__(
        self,
        now: Nanos,
        *,
        seed: int,
        clients: int = 16,
        keys: int = 64,
        pace_ns: int = PACE_NS,
        patience_ns: int = PATIENCE_NS,
    ) -> None:
        if not 0 < clients <= CLIENTS_MAX:
            raise ConfigError(f"a load has 1 to {CLIENTS_MAX} clients, not {clients}")
        if keys < 1:
            raise ConfigError("a load needs at least one key")
        self.counters = LoadCounters()
        self._pace_ns = pace_ns
        self._patience_ns = patience_ns
        self._random = random.Random(seed)
        # Names of this run only, so that a guest that served another run before is judged by this one alone.
        run = self._random.getrandbits(32)
        self._keys = [b"%08x/%d" % (run, key) for key in range(keys)]
        self._first_client = run << 16
        self._audit: deque[bytes] | None = None
        self._calls: list[list[Call]] = [[] for _ in range(clients)]
        self._call_count = 0
        self._outstanding: list[_Outstanding | None] = [None] * clients
        for client in range(clients):
            self._ask_next(client, now)

    @property
    def is_finished(self) -> bool:
        """Tell whether the audit is over: every request, the audit's too, has its answer."""
        return self._audit is not None and not any(self._outstanding)

    @property
    def next_due(self) -> Nanos | None:
        """When the next request must be sent, or sent again; None if none is outstanding."""
        return min((waiting.send_at for waiting in self._outstanding if waiting), default=None)

    def oldest_wait_ns(self, now: Nanos) -> int:
        """Return how long the oldest request has been waiting for its answer."""
        return max((now - waiting.invoked_at for waiting in self._outstanding if waiting and waiting.sends), default=0)

    def due(self, now: Nanos) -> list[bytes]:
        """Return the requests to send now, new ones and those that were not answered in time."""
        return [self._send(waiting, now) for waiting in self._outstanding if waiting and waiting.send_at <= now]

    def _send(self, waiting: _Outstanding, now: Nanos) -> bytes:
        if waiting.sends:
            self.counters.retransmissions += 1
        else:
            waiting.invoked_at = now
        waiting.sends += 1
        waiting.send_at = Nanos(now + waiting.retry_ns)
        waiting.retry_ns = min(2 * waiting.retry_ns, self._patience_ns)
        return waiting.request.encode()

    def on_reply(self, payload: bytes, now: Nanos) -> bool:
        """Take a datagram from the guest; return whether it is the first answer to a request."""
        try:
            reply = Reply.decode(payload)
        except BadFrame:
            self.counters.refused += 1
            return False
        client = reply.client - self._first_client
        if not 0 <= client < len(self._calls):
            self.counters.refused += 1
            return False
        waiting = self._outstanding[client]
        if waiting is not None and reply.number == waiting.request.number:
            self._record(client, _call(waiting, now, reply))
            self.counters.acknowledged += self._calls[client][-1].is_acknowledged
            self._ask_next(client, Nanos(max(now, waiting.invoked_at + self._pace_ns)))
            return True
        self._take_repeat(self._calls[client], reply)
        return False

    def _take_repeat(self, calls: list[Call], reply: Reply) -> None:
        """Compare an answer with the one that came first."""
        if not 1 <= reply.number <= len(calls):
            self.counters.refused += 1
            return
        self.counters.repeats += 1
        if reply.status is ReplyStatus.STALE:
            return  # a copy of an old request was slow: the guest no longer holds its answer, and says so
        call = calls[reply.number - 1]
        if reply not in call.replies and len(call.replies) < REPLIES_KEPT:
            calls[reply.number - 1] = replace(call, replies=(*call.replies, reply))

    def begin_audit(self) -> None:
        """Ask nothing new but, once, for the value of every key. Idempotent."""
        if self._audit is None:
            self._audit = deque(self._keys)

    def history(self) -> list[Call]:
        """Return all calls, those still without an answer included."""
        answered = [call for calls in self._calls for call in calls]
        return answered + [_call(waiting, None, None) for waiting in self._outstanding if waiting and waiting.sends]

    def _record(self, client: int, call: Call) -> None:
        self._calls[client].append(call)
        self._call_count += 1
        if self._call_count >= CALLS_MAX:
            self.begin_audit()

    def _ask_next(self, client: int, send_at: Nanos) -> None:
        number = len(self._calls[client]) + 1
        name = self._first_client + client
        if self._audit is None:
            request = self._work(name, number)
        elif self._audit:
            request = Request(operation=Operation.GET, client=name, number=number, key=self._audit.popleft())
        else:
            self._outstanding[client] = None
            return
        self._outstanding[client] = _Outstanding(request=request, invoked_at=send_at, send_at=send_at)

    def _work(self, client: int, number: int) -> Request:
        key = self._random.choice(self._keys)
        if self._random.random() < 0.5:
            return Request(operation=Operation.GET, client=client, number=number, key=key)
        # The name makes the value unique, as the checker needs; the filler makes PUTs of different sizes.
        value = b"%x.%d." % (client, number)
        value = value.ljust(self._random.randint(len(value), VALUE_BYTES_MAX), b"-")
        return Request(operation=Operation.PUT, client=client, number=number, key=key, value=value)


def _call(waiting: _Outstanding, returned_at: Nanos | None, reply: Reply | None) -> Call:
    return Call(
        client=waiting.request.client,
        number=waiting.request.number,
        operation=waiting.request.operation,
        key=waiting.request.key,
        value=waiting.request.value,
        invoked_at=waiting.invoked_at,
        returned_at=returned_at,
        replies=() if reply is None else (reply,),
        sends=waiting.sends,
    )
