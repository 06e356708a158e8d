"""What a backup holds: messages that came early, a checkpoint that is not whole yet, and the committed state, which
changes by all of a checkpoint or by nothing (invariants I3, I4, I5).

A checkpoint is refused unless it extends exactly the state that is here, its pages decode, and the memory that results
has the digest that the primary computed from its own pages. All of that is known before the first byte of memory
changes.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, Protocol

from ftvm.checkpoint import Buffer, Checkpoint, GuestPosition, LogRecord, Output, OutputTable, PageBatch
from ftvm.config import Limits
from ftvm.encode.messages import CacheDigests, CacheKept, EpochPart, Sequenced
from ftvm.errors import BadFrame, LimitExceeded, must
from ftvm.logtable import KeptLog, LogTable
from ftvm.protocol.session import Outbox
from ftvm.protocol.timers import AT_ONCE, NEVER
from ftvm.units import Nanos

__all__ = ["CommittedState", "Durability", "Inbox", "Memory", "NotedLog", "Offering", "Staging"]

_DIGEST_BYTES: Final = 16


class Memory(Protocol):
    """The part of ftvm.encode.apply.CommittedMemory that is needed."""

    @property
    def memory_digest(self) -> int:
        """The digest of the memory as it is."""

    def clear(self) -> None:
        """Make all pages zero."""

    def hold(self) -> tuple[tuple[int, int], ...]:
        """Go on from the pages as they are, a cache; return what may be offered of them, as (first page, pages)."""

    def offer(self, first: int, count: int) -> bytes:
        """Return the digests of pages as they are now, 16 bytes each."""

    def keep(self, first: int, count: int, kept: Buffer) -> int:
        """Make pages zero but for those set in a bitmap; return how many these are."""

    def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
        """Raise BadFrame or DigestMismatch unless the batches apply and give memory of that digest; change nothing."""

    def commit(self, batches: Sequence[PageBatch]) -> None:
        """Apply batches that `verify` accepted."""


class KeptOutputs(Collection[Output]):
    """Outputs until they are told as released: tables that follow one another, `tables`, which are there to be read."""

    __slots__ = ("tables",)

    def __init__(self, tables: Iterable[OutputTable] = ()) -> None:
        self.tables = deque([table for table in tables if table.rows])

    def append(self, table: OutputTable) -> None:
        """Keep a table more, of at least one output, which goes on behind the last."""
        self.tables.append(table)

    def forget(self, number: int) -> None:
        """Let go of the outputs up to that one."""
        tables = self.tables
        while tables and tables[0].last <= number:
            tables.popleft()
        if tables and tables[0].first <= number:
            tables[0] = tables[0].behind(number)

    def __len__(self) -> int:
        return self.tables[-1].last + 1 - self.tables[0].first if self.tables else 0

    def __iter__(self) -> Iterator[Output]:
        return chain.from_iterable(self.tables)

    def __contains__(self, output: object) -> bool:
        return output in tuple(self)


@dataclass(slots=True)
class CommittedState:
    """The state that this replica could run from. `epoch` is None until the first whole checkpoint.

    engine   in force behind `epoch`: what a takeover goes on with
    copied_pages  of the first copy, that have come
    outputs  emitted up to `epoch` and not known to have been released: emitted again after a takeover
    log      what the guest took since `epoch`, up to `log_index`: replayed at a takeover
    """

    memory: Memory = field(repr=False)
    limits: Limits
    epoch: int | None = None
    copied_pages: int = 0
    devices: bytes = field(default=b"", repr=False)
    engine: str = ""
    position: GuestPosition | None = None
    output_next: int = 1
    log_index: int = 0
    outputs: KeptOutputs = field(default_factory=KeptOutputs, repr=False)
    log: KeptLog = field(default_factory=KeptLog, repr=False)

    @property
    def output_last(self) -> int:
        """The number of the last output that the state, with the log replayed, has made."""
        logged = self.log.last_output
        return self.output_next - 1 if logged is None else logged

    def clear(self) -> None:
        """Start from nothing: zero memory, no epoch."""
        self.memory.clear()
        self._begin()

    def hold(self) -> tuple[tuple[int, int], ...]:
        """Start from no epoch, with the memory as it is for a cache; return which pages of it may be offered."""
        self._begin()
        return self.memory.hold()

    def _begin(self) -> None:
        self.epoch = None  # rule: cache_is_no_state
        self.copied_pages = 0
        self.devices = b""
        self.output_next = 1
        self.log_index = 0
        self.outputs = KeptOutputs()
        self.log.clear()

    def adopt(self, checkpoint: Checkpoint) -> None:
        """Take what the paused guest holds as the state: it was active here until `checkpoint`, its last."""
        self._become(checkpoint, KeptOutputs())

    def append(self, records: LogTable) -> None:
        """Keep log records. Raises BadFrame if they do not follow the last one, LimitExceeded if they are too many."""
        if self.epoch is None or records.first != self.log_index + 1:
            raise BadFrame(f"log record {records.first} came after {self.log_index}, epoch {self.epoch}")
        count = self.log.record_count + records.record_count
        if count > self.limits.log_records:
            raise LimitExceeded("log records kept", limit=self.limits.log_records, wanted=count)
        size_bytes = self.log.payload_bytes + len(records.payloads)
        if size_bytes > self.limits.log_bytes:
            raise LimitExceeded("log bytes kept", limit=self.limits.log_bytes, wanted=size_bytes)
        self.log.append(records)
        self.log_index = records.first + records.record_count - 1

    def copy(self, batch: PageBatch) -> None:
        """Apply a batch of the first copy. Raises BadFrame or DigestMismatch; the memory is then as before."""
        if self.epoch is not None:
            raise BadFrame(f"a first copy came after epoch {self.epoch} was committed")
        self.memory.verify((batch,), None)
        self.memory.commit((batch,))
        self.copied_pages += batch.count

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the state.

        Raises BadFrame, DigestMismatch or LimitExceeded, all the peer's fault; the state is then as before.
        """
        # rule: chain_of_epochs
        if self.epoch is not None and (checkpoint.base != self.epoch or checkpoint.epoch <= self.epoch):
            raise BadFrame(f"epoch {checkpoint.epoch} extends {checkpoint.base}, but {self.epoch} is committed")
        if self.epoch is not None and checkpoint.log_index < self.log_index:
            raise BadFrame(f"epoch {checkpoint.epoch} covers log record {checkpoint.log_index}, not {self.log_index}")
        carried = OutputTable.of(checkpoint.outputs)
        first = checkpoint.output_next - len(carried)
        last = self.output_last if self.log.record_count else self.output_next - 1
        if self.epoch is not None and not self.output_next <= first <= last + 1:
            raise BadFrame(f"outputs of epoch {checkpoint.epoch} start at {first}, but {self.output_next} is next")
        # Outputs leave in order: where some that no checkpoint carries have left, all before them have, too.
        pending = KeptOutputs([*(self.outputs.tables if first == self.output_next else ()), carried])
        if len(pending) > self.limits.outputs_held:
            raise LimitExceeded("outputs kept", limit=self.limits.outputs_held, wanted=len(pending))
        self.memory.verify(checkpoint.batches, checkpoint.memory_digest)  # rule: digest_compared_there
        before = self.epoch
        self.memory.commit(checkpoint.batches)
        self._become(checkpoint, pending)  # rule: pending_outputs_kept
        must(before is None or before < checkpoint.epoch == self.epoch, "a commit takes the state to a later epoch")

    def agree(self, checkpoint: Checkpoint) -> None:
        """Note that the guest, executing here, reached the primary's state at `checkpoint`."""
        self.epoch = checkpoint.epoch
        self.devices = checkpoint.devices
        self.engine = checkpoint.engine
        self.position = checkpoint.position
        self.log.forget(checkpoint.log_index)

    def made(self, outputs: OutputTable, released: int) -> None:
        """Keep outputs that the guest made, executing here. Raises LimitExceeded if too many wait for their release."""
        if outputs.rows:
            self.output_next = outputs.last + 1
            if outputs.last > released:
                self.outputs.append(outputs.behind(released))
        if len(self.outputs) > self.limits.outputs_held:
            raise LimitExceeded("outputs kept", limit=self.limits.outputs_held, wanted=len(self.outputs))

    def forget_released(self, released: int) -> None:
        """Let go of outputs that the active reports as released.

        Raises BadFrame if it claims to have released what is not committed here: it broke the release rule.
        """
        if self.epoch is not None and released >= self.output_next and released > self.output_last:
            raise BadFrame(f"output {released} was released, but only those up to {self.output_last} are safe here")
        self.outputs.forget(released)  # rule: kept_until_told_as_released

    def _become(self, checkpoint: Checkpoint, outputs: KeptOutputs) -> None:
        self.epoch = checkpoint.epoch
        self.devices = checkpoint.devices  # rule: devices_committed
        self.engine = checkpoint.engine
        self.position = checkpoint.position
        self.output_next = checkpoint.output_next
        self.log_index = checkpoint.log_index
        if self.log.record_count:
            self.log.forget(checkpoint.log_index)
        self.outputs = outputs


@dataclass(slots=True)
class NotedLog:
    """The log since the last epoch where the engine does not need it: for who looks on. A takeover leaves it out."""

    records: list[LogRecord] = field(default_factory=list, repr=False)
    size_bytes: int = 0

    def append(self, records: LogTable, limits: Limits) -> None:
        """Keep records. Raises LimitExceeded if they are too many."""
        self.records.extend(records)
        self.size_bytes += len(records.payloads)
        if len(self.records) > limits.log_records or self.size_bytes > limits.log_bytes:
            wanted = max(len(self.records), self.size_bytes)
            raise LimitExceeded("log noted, records or bytes", limit=limits.log_records, wanted=wanted)

    def take(self) -> list[LogRecord]:
        """Return what was kept, and keep it no longer."""
        taken, self.records, self.size_bytes = self.records, [], 0
        return taken


@dataclass(frozen=True, slots=True)
class Asked:
    """What is being put on the disks' devices: a wish's number, and what may be acknowledged once that is done."""

    number: int
    epoch: int
    digest: int
    received: int


@dataclass(slots=True)
class Durability:
    """What may be acknowledged where disks are kept: a flush of the guest only once it is on their devices here.

    So an epoch that holds one waits for that, and the first one, with which the state is whole. A first copy is
    acknowledged as the devices take it: with its last epoch, for which outputs wait, little is left to be written.

    safe      the epoch that may be acknowledged, and the digest of the memory then; None: all that is committed
    received  as much of a first copy as may be acknowledged, in messages; None: all
    asked     what is being put on the devices; None while nothing is
    is_owed   something that has to be there was committed behind that
    """

    safe: tuple[int, int] | None = None
    received: int | None = None
    asked: Asked | None = None
    is_owed: bool = False

    def hold(self, epoch: int, digest: int) -> None:
        """Acknowledge no more than this epoch until what was committed behind it is durable."""
        if self.safe is None:
            self.safe = epoch, digest
        self.is_owed = True

    def hold_copy(self, received: int) -> None:
        """Acknowledge no more of a first copy than so many messages, until what came behind them is durable."""
        if self.received is None:
            self.received = received
        self.is_owed = True

    def ask(self, number: int, epoch: int, digest: int, received: int) -> None:
        """Note that all up to here is being put on the devices."""
        self.asked, self.is_owed = Asked(number, epoch, digest, received), False

    @property
    def must_ask(self) -> bool:
        """Whether something has to be put on the devices, and nothing is."""
        return self.is_owed and self.asked is None

    def take(self, number: int) -> bool:
        """Note that what was asked for by this number is durable; tell whether that is news."""
        asked = self.asked
        if asked is None or asked.number != number:
            return False
        self.asked = None
        if self.is_owed:
            self.safe = None if self.safe is None else (asked.epoch, asked.digest)
            self.received = None if self.received is None else asked.received
        else:
            self.safe = self.received = None
        return True


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


@dataclass(slots=True)
class Staging:
    """At most one unfinished checkpoint, held aside from the committed state (invariant I4).

    Parts come in order (Inbox); they must be of one epoch, counted from 0 without a gap, and stay within
    `limit_bytes` of encoded pages, which was agreed in the handshake. The end makes it whole.
    """

    limit_bytes: int
    epoch: int | None = None
    batches: list[PageBatch] = field(default_factory=list, repr=False)
    size_bytes: int = 0

    def add(self, part: EpochPart) -> Checkpoint | None:
        """Take a part; return the checkpoint if it is whole now, and be empty again.

        Raises BadFrame for a part out of place and LimitExceeded beyond the bound; the session cannot go on after
        either.
        """
        if part.part != len(self.batches) or self.epoch not in (None, part.epoch):
            raise BadFrame(
                f"part {part.part} of epoch {part.epoch} came while part {len(self.batches)} "
                f"of epoch {self.epoch or part.epoch} was due"
            )
        if part.batch is None and part.checkpoint is None:
            raise BadFrame("a part of an epoch carries neither pages nor the end")
        if part.batch is not None:
            wanted = self.size_bytes + part.batch.size_bytes
            if wanted > self.limit_bytes:
                raise LimitExceeded(f"staging of epoch {part.epoch}, bytes", limit=self.limit_bytes, wanted=wanted)
            self.epoch, self.size_bytes = part.epoch, wanted
            self.batches.append(part.batch)
        if part.checkpoint is None:
            return None
        whole = replace(part.checkpoint, batches=tuple(self.batches))  # rule: all_batches_committed
        self.clear()
        return whole

    def clear(self) -> None:
        """Forget the unfinished checkpoint."""
        self.epoch = None
        self.batches = []
        self.size_bytes = 0


@dataclass(slots=True)
class Offering:
    """What a loser still has: it offers digests of its pages, and is sent only what differs (docs/protocol.md, "A loser
    that lives").

    That is a cache and no state: the joiner has a fresh id and no epoch, and serves nobody before a first copy was
    whole and verified. Digests go in pieces, a few at a time, each as the memory is when it is sent. Each is answered
    in the stream of the first copy, so what is kept, what becomes zero and what is copied come in one order.

    left  the ranges of pages not offered yet, each as (first page, pages)
    """

    memory: Memory
    outbox: Outbox[CacheDigests]
    pages_each: int
    left: deque[tuple[int, int]]
    kept_pages: int = 0
    is_last_offered: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all that was offered was answered: the memory is that which the first copy begins from."""
        return self.is_last_offered and self.outbox.is_empty

    @property
    def due_at(self) -> Nanos:
        """When there is something to send."""
        if self._may_offer:
            return AT_ONCE
        return self.outbox.repeats_at if self.outbox.flying else NEVER

    @property
    def _may_offer(self) -> bool:
        return not self.is_last_offered and self.outbox.room > 0

    def offer(self, now: Nanos) -> list[CacheDigests]:
        """Look at the next pages, if the active has answered for most of those before; return what to send."""
        if self._may_offer:
            first, pages = self._next_pages()
            self.is_last_offered = not self.left
            digests = self.memory.offer(first, pages)
            self.outbox.put(
                CacheDigests(
                    sequence=self.outbox.next_sequence, first=first, digests=digests, is_last=self.is_last_offered
                )
            )
        return self.outbox.due(now)

    def _next_pages(self) -> tuple[int, int]:
        if not self.left:
            return 0, 0
        first, count = self.left.popleft()
        pages = min(count, self.pages_each)
        if pages < count:
            self.left.appendleft((first + pages, count - pages))
        return first, pages

    def take(self, answer: CacheKept, now: Nanos) -> None:
        """Keep what the active says, and no more of those pages. Raises BadFrame if it was not asked about them."""
        asked = self.outbox.flying[0] if self.outbox.flying else None
        if asked is None or (answer.first, answer.pages) != (asked.first, len(asked.digests) // _DIGEST_BYTES):
            raise BadFrame(f"{answer.pages} pages from {answer.first} on are to be kept, and were not offered next")
        self.kept_pages += self.memory.keep(answer.first, answer.pages, answer.kept)
        self.outbox.acknowledge(asked.sequence + 1, now)
