"""An active's session with the replica that is, or is to become, its standby: what was sent, what was acknowledged.

What builds up the standby's state is an ordered stream over a link that may lose, repeat and reorder. ZeroMQ keeps
order within one connection and loses only with the connection, so the rules are simple: a window, a cumulative
acknowledgement, a bounded reorder buffer at the other end (standby/commit.py:Inbox; go-back-N starved under reordering:
docs/protocol.md, "Mistakes made once", 6), and a repeat of what is overdue with a delay that doubles until something
moves.

Acknowledgements count in the session in which they were given and nowhere else (docs/protocol.md, "Sessions"). The
standby's digest of each epoch is compared with the one captured: a difference means that one of the two memories is
wrong.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

from ftvm.checkpoint import NOTHING_SAFE, Checkpoint, OutputTable, PageBatch, Watermarks
from ftvm.config import Limits
from ftvm.encode.messages import (
    Ack,
    CacheDigests,
    CacheKept,
    Copy,
    Envelope,
    EpochPart,
    Log,
    Ping,
    Sequenced,
    SessionId,
)
from ftvm.encode.versions import FLAT_SINCE
from ftvm.errors import BadFrame, DigestMismatch, InternalError
from ftvm.interfaces import Engine, Record
from ftvm.logtable import LogTable, joined
from ftvm.protocol.detector import FailureDetector
from ftvm.protocol.timers import NEVER
from ftvm.units import Nanos

__all__ = [
    "HANDING_LIMITS",
    "Contact",
    "InFlight",
    "Matching",
    "Outbox",
    "Session",
    "SessionOffer",
    "Switchover",
    "batches_of",
    "session_after",
]

_SMOOTHED: Final = 8
"""The weight of a new commit time is one part in this many: a single late acknowledgement must not move the cuts
much. The same for a new round trip."""

_PINGS_KEPT: Final = 64
"""Heartbeats that wait for their answers: three seconds' worth."""


def batches_of(messages: list[Sequenced]) -> tuple[PageBatch, ...]:
    """Return the page batches that the messages carried."""
    return tuple([each.batch for each in messages if isinstance(each, Copy | EpochPart) and each.batch is not None])


REPEAT_FACTOR_MAX: Final = 64
LOGS_IN_FLIGHT: Final = 64
"""So many messages of the log may be on their way: each is short, but takes a place for a round trip, and outputs wait
for it. Counted with the batches, the ninth would have clients wait twice where the standby is far away."""
_DIGEST_BYTES: Final = 16


class Numbered(Protocol):
    """What an outbox keeps: messages that are counted."""

    @property
    def sequence(self) -> int:
        """Its number."""


M = TypeVar("M", bound=Numbered)


@dataclass(slots=True)
class Outbox(Generic[M]):
    """The sender's end: keeps each message until it is acknowledged. At most `window` are on their way, `flying`, and
    LOGS_IN_FLIGHT of the log, of which `logs` are; the others are `waiting`. `advanced_at` is when one was acknowledged
    last, or when the first of them went; `repeats_at` when what is on its way is sent again."""

    window: int
    repeat_ns: Nanos
    next_sequence: int = 0
    logs: int = 0
    waiting: deque[M] = field(default_factory=deque, repr=False)
    flying: deque[M] = field(default_factory=deque, repr=False)
    advanced_at: Nanos = Nanos(0)
    repeats_at: Nanos = Nanos(0)
    _repeats: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether everything put in was acknowledged."""
        return not self.waiting and not self.flying

    @property
    def room(self) -> int:
        """How many more messages may be put in before they would only wait."""
        return max(0, self.window - len(self.flying) - len(self.waiting))

    def put(self, message: M) -> None:
        """Take a message, whose sequence is `next_sequence`."""
        self.next_sequence = message.sequence + 1
        self.waiting.append(message)

    def due(self, now: Nanos) -> list[M]:
        """Return what to send now: new messages as the window allows, or all on their way again if nothing moved."""
        repeat: list[M] = []
        if not self.flying:
            self.advanced_at, self.repeats_at = now, Nanos(now + self.repeat_ns)
        elif now >= self.repeats_at:
            repeat = list(self.flying)
            self._repeats = min(self._repeats * 2 + 1, REPEAT_FACTOR_MAX)
            self.repeats_at = Nanos(now + self.repeat_ns * (1 + self._repeats))
        fresh: list[M] = []
        while self.waiting:
            message = self.waiting[0]
            if type(message) is Log:
                if self.logs >= LOGS_IN_FLIGHT:
                    break
                self.logs += 1
            elif len(self.flying) - self.logs >= self.window:
                break
            self.flying.append(self.waiting.popleft())
            fresh.append(message)
        return repeat + fresh

    def acknowledge(self, received: int, now: Nanos) -> list[M]:
        """Let go of all messages below `received`; one that was never sent cannot be acknowledged and stays."""
        done: list[M] = []
        while self.flying and self.flying[0].sequence < received:
            done.append(self.flying.popleft())
            self.logs -= type(done[-1]) is Log
        if done:
            self.advanced_at, self.repeats_at = now, Nanos(now + self.repeat_ns)
            self._repeats = 0
        return done

    def clear(self) -> list[M]:
        """Forget everything: the session is over."""
        left = [*self.flying, *self.waiting]
        self.flying.clear()
        self.waiting.clear()
        self.logs = 0
        return left


@dataclass(slots=True)
class Matching:
    """The active's end, until the last piece was compared. `since` is when it got on last."""

    page_count: int
    since: Nanos
    expected: int = 0
    next_page: int = 0

    def accept(self, offered: CacheDigests, now: Nanos) -> bool:
        """Tell whether these digests are next. Raises BadFrame if they are of pages that cannot be."""
        if offered.sequence != self.expected:
            return False
        behind = offered.first + len(offered.digests) // _DIGEST_BYTES
        if not (offered.first >= self.next_page or behind == offered.first) or behind > self.page_count:
            raise BadFrame(f"digests of pages {offered.first} to {behind}, where {self.next_page} is the next")
        self.expected, self.next_page, self.since = self.expected + 1, max(behind, self.next_page), now
        return True


@dataclass(frozen=True, slots=True)
class SessionOffer:
    """A session that an active has opened for this replica."""

    session: SessionId
    peer: str
    key: str | None
    staging_bytes: int
    engines: tuple[str, ...]
    """What the other side knows, by name."""
    takes_cache: bool = False
    """Whether it waits for the digests of what this replica still has."""

    def is_of(self, peer: str, key: str | None, envelope: Envelope) -> bool:
        """Tell whether a message of this envelope, from this peer, is of the session, be that over or not."""
        # rule: session_compared
        is_ours = (envelope.session, peer, key) == (self.session, self.peer, self.key)
        return is_ours and envelope.sender == self.session.active  # rule: sender_compared


@dataclass(frozen=True, slots=True)
class Logged:
    """So much was logged since a session began."""

    records: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InFlight:
    """An epoch that was captured and is not acknowledged yet. `engine` is in force behind it; it covers `logged`."""

    epoch: int
    engine: Engine
    logged: "Logged"
    memory_digest: int
    dirty_pages: int
    sent_bytes: int
    pause_ns: int
    cut_at: Nanos


class Contact(Enum):
    """How far an active has come with the other side of a session; it only goes forward."""

    WELCOMED = "welcomed"
    """The welcome was sent, and may not have been heard."""
    ANSWERED = "answered"
    """The other side has acknowledged something: its replica id is in use."""
    LOST = "lost"
    """The session is over here; the record may still name the other side."""


@dataclass(slots=True)
class Session:
    """Mutable. `shipped_next` is the first output number that no epoch of this session carries yet; `commit_ns` the
    time from a cut to its acknowledgement, smoothed, 0 while none came; `round_trip_ns` that from a heartbeat to its
    answer.

    engines      those that the standby knows, by name
    has_left     whether the other side said goodbye: it will take nothing over
    is_followed  the standby executes the log, or will behind what was shipped; no pages go to it then
    logged       all of it, and `covered` what checkpoints that were acknowledged have made dispensable
    is_log_long  the standby has half of all the log to keep that it can
    rest_epoch   the mark at which it is to come to rest; no checkpoint follows before it has
    matching     what it still has is compared with what is here; None once that is over
    is_cached    its first copy rests on what it had before
    generation   the highest one of the record that the standby is known to know
    """

    id: SessionId
    peer: str
    key: str | None
    standby: str
    engines: tuple[str, ...]
    staging_bytes: int
    outbox: Outbox[Sequenced]
    detector: FailureDetector
    limits: Limits
    shipped_next: int
    acked: Watermarks = NOTHING_SAFE
    log_shipped: int = 0
    contact: Contact = Contact.WELCOMED
    has_left: bool = False
    opened_at: Nanos = Nanos(0)
    ping_number: int = 0
    round_trip_ns: int = 0
    _pings: deque[tuple[int, Nanos]] = field(default_factory=lambda: deque(maxlen=_PINGS_KEPT), repr=False)
    in_flight: deque[InFlight] = field(default_factory=deque)
    digests_compared: int = 0
    commit_ns: int = 0
    is_followed: bool = False
    rest_epoch: int | None = None
    logged: Logged = Logged()
    covered: Logged = Logged()
    is_log_long: bool = False
    matching: Matching | None = None
    is_cached: bool = False
    generation: int = 0

    def log(self, records: LogTable) -> None:
        """Count records that the standby is to keep, or to execute, until a checkpoint covers them."""
        self.logged = Logged(self.logged.records + records.record_count, self.logged.size_bytes + len(records.payloads))
        self._measure_log()

    def _measure_log(self) -> None:
        records = self.logged.records - self.covered.records
        size_bytes = self.logged.size_bytes - self.covered.size_bytes
        self.is_log_long = records >= self.limits.log_records // 2 or size_bytes >= self.limits.log_bytes // 2

    @property
    def has_answered(self) -> bool:
        """Whether the other side is known to take part."""
        return self.contact is Contact.ANSWERED

    @property
    def is_lost(self) -> bool:
        """Whether the session is over."""
        return self.contact is Contact.LOST

    def ship_copy(self, batch: PageBatch, round_number: int) -> None:
        """Queue a batch of the first copy."""
        self.outbox.put(Copy(sequence=self.outbox.next_sequence, round=round_number, batch=batch))

    def ship_keep(self, first: int, pages: int, kept: bytes) -> None:
        """Queue the answer to digests: what the other side keeps."""
        self.outbox.put(CacheKept(sequence=self.outbox.next_sequence, first=first, pages=pages, kept=kept))

    def ship_log(self, tables: Sequence[LogTable]) -> None:
        """Queue log records, in one message: tables that follow one another, at least one."""
        records = tables[0] if len(tables) == 1 else joined(tables)
        self.outbox.put(Log(sequence=self.outbox.next_sequence, records=records))
        self.log_shipped = records.first + records.record_count - 1

    def ship_epoch(
        self, checkpoint: Checkpoint, outputs: OutputTable, engine: Engine, pause_ns: int, now: Nanos
    ) -> None:
        """Queue a checkpoint with outputs: its batches, then the end, which the last batch travels with where the
        version allows.

        `engine` is in force behind it.
        """
        batches, epoch, outbox = checkpoint.batches, checkpoint.epoch, self.outbox
        end = replace(checkpoint, batches=(), outputs=outputs)
        alone = len(batches) - 1 if batches and self.id.version >= FLAT_SINCE else len(batches)
        for part in range(alone + 1):
            outbox.put(
                EpochPart(
                    sequence=outbox.next_sequence,
                    epoch=epoch,
                    part=part,
                    batch=batches[part] if part < len(batches) else None,
                    checkpoint=end if part == alone else None,
                )
            )
        self.shipped_next = checkpoint.output_next
        self.log_shipped = max(self.log_shipped, checkpoint.log_index)
        self.in_flight.append(
            InFlight(
                epoch=epoch,
                engine=engine,
                logged=self.logged,
                memory_digest=checkpoint.memory_digest,
                dirty_pages=checkpoint.dirty_pages,
                sent_bytes=sum([batch.size_bytes for batch in batches]) + len(checkpoint.devices),
                pause_ns=pause_ns,
                cut_at=now,
            )
        )
        if engine.executes:
            self.is_followed = True
        elif self.is_followed:
            self.rest_epoch = checkpoint.epoch

    def ping(self, now: Nanos) -> Ping:
        """Return the next heartbeat, which is sent now."""
        self.ping_number += 1
        self._pings.append((self.ping_number, now))
        return Ping(number=self.ping_number)

    def take_pong(self, number: int, now: Nanos) -> None:
        """Note how long the answer to a heartbeat took; that of one that was answered before says nothing."""
        while self._pings and self._pings[0][0] <= number:
            known, pinged_at = self._pings.popleft()
            if known == number:
                taken_ns = now - pinged_at
                self.round_trip_ns += (taken_ns - self.round_trip_ns) // (_SMOOTHED if self.round_trip_ns else 1)

    @property
    def owes_since(self) -> Nanos:
        """Since when the standby has owed an answer, a receipt or a commit without any progress; NEVER if it does
        not."""
        if self.contact is Contact.WELCOMED:
            return self.opened_at
        received_at = self.outbox.advanced_at if self.outbox.flying else NEVER
        if self.matching is not None:
            received_at = min(received_at, self.matching.since)
        return min(self.in_flight[0].cut_at, received_at) if self.in_flight else received_at

    def acknowledge(self, ack: Ack, now: Nanos) -> tuple[tuple[PageBatch, ...], Sequence[InFlight]]:
        """Take an acknowledgement; return the batches let go and the epochs committed by it.

        Raises BadFrame if it acknowledges what was never sent, DigestMismatch if the standby's memory is not ours.
        """
        in_flight, acked = self.in_flight, self.acked
        if ack.received > self.outbox.next_sequence:
            raise BadFrame(f"{ack.received} messages acknowledged, {self.outbox.next_sequence} exist")
        last = in_flight[-1].epoch if in_flight else acked.epoch
        if ack.epoch > last:
            raise BadFrame(f"epoch {ack.epoch} acknowledged, {last} is the last")
        if ack.log_index > self.log_shipped:
            raise BadFrame(f"log record {ack.log_index} acknowledged, {self.log_shipped} is the last")
        if self.contact is Contact.WELCOMED:
            self.contact = Contact.ANSWERED
        committed: list[InFlight] = []
        while in_flight and in_flight[0].epoch <= ack.epoch:
            committed.append(in_flight.popleft())
        if committed:
            sent = committed[-1]
            if sent.logged is not self.covered:
                self.covered = sent.logged
                self._measure_log()
            if sent.epoch == ack.epoch and sent.memory_digest != ack.memory_digest:  # rule: digest_compared_here
                here, there = f"{sent.memory_digest:032x}", f"{ack.memory_digest:032x}"
                raise DigestMismatch(f"epoch {ack.epoch}: memory digest is {here} here, {there} there")
            self.digests_compared += 1
            taken_ns = now - sent.cut_at
            self.commit_ns += (taken_ns - self.commit_ns) // (_SMOOTHED if self.commit_ns else 1)
        self.acked = Watermarks(
            max(ack.epoch, acked.epoch),
            max(ack.log_index, acked.log_index),  # rule: log_acknowledged_as_it_came
        )
        if self.rest_epoch is not None and self.acked.epoch >= self.rest_epoch:
            self.is_followed, self.rest_epoch = False, None
        done = self.outbox.acknowledge(ack.received, now)
        carried = [each.batch for each in done if isinstance(each, Copy | EpochPart) and each.batch is not None]
        return tuple(carried), committed


HANDING_LIMITS: Final = 4
"""For how many of the primary's limits the guest may be paused before anything is proposed."""

_COUNTER: Final = 0
"""Sessions that a JOIN opened count from 1."""


def session_after(record: Record, before: SessionId) -> SessionId:
    """Return the session that a SWITCH to this record opens, from the new active to the old, behind the one before."""
    if record.active is None:
        raise InternalError(f"{record} is not what a SWITCH leads to")
    return SessionId(_COUNTER, record.active, record.generation, before.version)


@dataclass(slots=True)
class Switchover:
    """Mutable; read by the thread that asked, which waits for `is_over`.

    fresh_at    the arbiter client's count of reads from which on the arbiter is known to answer
    warm_epoch  the epoch that is cut while the guest still runs
    ends_at     when it is called off, if nothing was proposed until then
    switched_at when the record was learned that names the standby active
    is_warm     whether the standby has said that its shadow is there
    final       the epoch that the guest stands still at, without its pages
    error       why it failed, once it is over; None if the guest runs on the other host

    A planned switchover, as the active that was asked for it keeps it (docs/protocol.md, "SWITCH").

        settle   the guest runs; the standby copies its memory into the shadow that it will need, one more epoch is
                 cut, so that the last pause ships little, and the arbiter is seen to answer
        hand     the guest stands still; the last epoch is cut, acknowledged, and loaded by the standby
        switch   the SWITCH is proposed; the guest stands still until that is resolved, however long it takes, or it is
                 certain that it has no effect and never will have one

    Nothing is proposed before the standby has said that it loads, so a switchover that cannot work is called off and
    the guest goes on where it was. A SWITCH opens the session in the other direction by itself: both sides know its id,
    the memory it starts from and each other's address, so no message is needed and no page is sent.
    """

    asked_at: Nanos
    fresh_at: int
    warm_epoch: int
    ends_at: Nanos
    paused_at: Nanos | None = None
    switched_at: Nanos | None = None
    prepare_at: Nanos | None = None
    is_warm: bool = False
    final: Checkpoint | None = None
    is_over: bool = False
    error: str | None = None

    def pause(self, now: Nanos, primary_limit_ns: Nanos) -> None:
        """Note that the guest is paused from now on; that must be short."""
        self.paused_at = now
        self.ends_at = Nanos(min(self.ends_at, now + HANDING_LIMITS * primary_limit_ns))

    def end(self, error: str | None) -> None:
        """Note how it ended; only the first call counts."""
        if not self.is_over:
            self.error = error
            self.is_over = True
