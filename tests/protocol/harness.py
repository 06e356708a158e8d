"""A pair of replicas connected by hand: the test is the network, the guest, the arbiter and the clock.

A Host performs the effects of one Replica the plainest way: captures are made up, memory is a digest that the batches
add to, messages lie in `sent` until the test moves them. The store is the record alone. Nothing happens unless a test
asks for it, so that a test can stop the world between any two steps.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ftvm.checkpoint import (
    Buffer,
    Checkpoint,
    Geometry,
    GuestPosition,
    Output,
    OutputTable,
    PageBatch,
    RegionShape,
    bitmap_bytes,
)
from ftvm.config import Limits, Timing
from ftvm.encode.messages import Envelope, Message
from ftvm.encode.versions import SPOKEN, Versions
from ftvm.engines.names import engine_named
from ftvm.engines.remus import Remus
from ftvm.errors import DigestMismatch
from ftvm.events import Event
from ftvm.interfaces import Answer, CompareAndSet, Record, Request
from ftvm.protocol import effects as do
from ftvm.protocol import reports
from ftvm.protocol.active.active_state import ActiveState, CheckpointSchedule
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.active.output import OutputBuffer
from ftvm.protocol.core import Core, Role, Settings
from ftvm.protocol.empty import Empty
from ftvm.protocol.replica import Replica
from ftvm.protocol.standby.standby_state import StandbyState
from ftvm.protocol.stop import StopKind, Stopping
from ftvm.units import Nanos, PageCount

MS = 1_000_000
ORIGIN = 7_000_000 * MS
"""Where the tests' clock starts: anywhere but 0."""

M = TypeVar("M")
E = TypeVar("E", bound=Event)

GEOMETRY = Geometry(machine="test/1", regions=(RegionShape(name="ram", page_count=PageCount(8)),))


def make_batch(value: int) -> PageBatch:
    """Return a batch that adds `value` to the digest of a FakeMemory."""
    return PageBatch(count=1, indices=bytes(4), lengths=bytes(2), payload=value.to_bytes(8, "little"), digest=bytes(16))


def digests_of(value: int) -> bytes:
    """Return the digests of all pages of a FakeMemory."""
    return value.to_bytes(16, "little") + bytes(16 * (GEOMETRY.page_count - 1))


class FakeMemory:
    """Keeps the contract of protocol.commit.Memory with a sum in place of page 0; the others are zero."""

    def __init__(self) -> None:
        self.memory_digest = 0

    def clear(self) -> None:
        self.memory_digest = 0

    def hold(self) -> tuple[tuple[int, int], ...]:
        return ((0, GEOMETRY.page_count),)

    def offer(self, first: int, count: int) -> bytes:
        return digests_of(self.memory_digest)[16 * first : 16 * (first + count)]

    def keep(self, first: int, count: int, kept: Buffer) -> int:
        if first == 0 and count and not kept[0] & 1:
            self.memory_digest = 0
        return int.from_bytes(kept, "little").bit_count()

    def after(self, batches: Sequence[PageBatch]) -> int:
        return self.memory_digest + sum(int.from_bytes(batch.payload, "little") for batch in batches)

    def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
        if expected_digest is not None and self.after(batches) != expected_digest:
            raise DigestMismatch("not what was sent")

    def commit(self, batches: Sequence[PageBatch]) -> None:
        self.memory_digest = self.after(batches)


class Store:
    """The arbiter's record. `apply` is the only way to change it."""

    def __init__(self, record: Record | None = None) -> None:
        self.record = record or Record(0, None, None)

    def apply(self, request: Request) -> Record:
        if isinstance(request, CompareAndSet) and request.record.generation == self.record.generation + 1:
            self.record = request.record
        return self.record


def make_settings(
    *,
    geometry: Geometry = GEOMETRY,
    engines: tuple[str, ...] = ("remus",),
    guest_id: str = "vm",
    timing: Timing | None = None,
    limits: Limits | None = None,
    creates: bool = True,
    dialled: tuple[str, ...] = (),
    halts_alone: bool = False,
    versions: Versions = SPOKEN,
    keeps_disks: bool = False,
) -> Settings:
    return Settings(
        guest_id=guest_id,
        geometry=geometry,
        engine=Remus(interval=0.02),
        engines={name: engine_named(name, 0.02) for name in engines},
        dialled=dialled,
        creates=creates,
        timing=timing or Timing(),
        limits=limits or Limits(),
        halts_alone=halts_alone,
        versions=versions,
        keeps_disks=keeps_disks,
    )


def ids(prefix: str) -> Callable[[], str]:
    """Return a maker of ids: prefix1, prefix2, ..."""
    count = 0

    def fresh() -> str:
        nonlocal count
        count += 1
        return f"{prefix}{count}"

    return fresh


def lone_replica(settings: Settings | None = None, *, starts: bool = False) -> Replica:
    return Replica(settings or make_settings(), FakeMemory(), fresh_id=ids("r"), starts=starts, now=Nanos(ORIGIN))


def lone_active() -> ActiveState:
    core = lone_replica()._core
    return ActiveState(core, OutputBuffer(0), 0, Nanos(ORIGIN), CheckpointSchedule(core.settings.engine, Nanos(ORIGIN)))


@dataclass(slots=True)
class Host:
    """One replica and the plainest hands for it. `peer` is what the other host calls this one."""

    world: "Pair"
    name: str
    replica: Replica
    memory: FakeMemory
    sent: deque[do.Send] = field(default_factory=deque)
    released: list[Output] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    wanted: list[do.Effect] = field(default_factory=list)
    """What is still to be performed."""
    performed: list[do.Effect] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    outstanding: Request | None = None
    is_running: bool = False
    load_error: str | None = None
    capture_error: str | None = None
    more_batches: tuple[PageBatch, ...] = ()
    output_next: int = 1
    value: int = 0
    """What the guest's memory adds up to."""
    shipped: int = 0
    """What of it the session has shipped."""
    matched: int = 0
    """How many pages the joiner still had."""
    flushes: bool = True
    """Whether each epoch that is cut holds a flush."""
    asked: list[int] | None = None
    """What its disk was asked to make durable and has not; None: a disk that does so at once."""

    # --- the guest -------------------------------------------------------------------------------------------------

    def emit(self, *payloads: bytes) -> None:
        """Have the guest say something."""
        outputs = []
        for payload in payloads:
            outputs.append(Output(number=self.output_next, channel="net0", payload=payload))
            self.output_next += 1
            self.value += 1
        self.give(reports.Emitted(said=[(OutputTable.of(outputs), 0)] if outputs else ()))
        self.perform()

    # --- steps -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due, and submit what the arbiter client wants; the answer waits for `answer`."""
        self.give(reports.STEP_BEGUN)
        self.give(reports.TICK)
        self.perform()
        if self.outstanding is None:
            self.outstanding = self.replica.end_step(self.world.now).request

    def refuse(self) -> None:
        """Let the arbiter say that it certainly has not done what is outstanding."""
        request, self.outstanding = self.outstanding, None
        assert request is not None
        self.give(Answer(request, None, "the disk is full", is_unapplied=True))
        self.perform()

    def answer(self, *, is_lost: bool = False, is_applied: bool = True) -> None:
        """Let the arbiter answer what is outstanding; a lost answer takes effect unless told otherwise."""
        request, self.outstanding = self.outstanding, None
        assert request is not None
        record = self.world.store.apply(request) if is_applied else None
        answer = Answer(request, None, "the answer was lost") if is_lost or record is None else None
        self.give(answer or Answer(request, record, None))
        self.perform()

    def take(self, sender: "Host", sent: do.Send) -> None:
        self.hear(sender.name, None, sent.envelope, sent.message)
        self.perform()

    def hear(self, peer: str, key: str | None, envelope: Envelope, message: Message) -> None:
        """Take a message; what it asks for waits for `perform`."""
        self.give(reports.Received(peer, key, envelope, message))

    def give(self, report: reports.Report) -> None:
        """Report something; what it asks for waits for `perform`."""
        self.wanted += self.replica.step(report, self.world.now)

    def stop(self, kind: StopKind, reason: str) -> Stopping:
        """Have the host stop in order; what that asks for waits for `perform`."""
        self.wanted += self.replica.stop(kind, reason, self.world.now)
        stopping = self.replica.view().stop
        assert stopping is not None
        return stopping

    def persist(self, error: str | None = None) -> None:
        """Let the disk have all that it was asked for, or fail."""
        assert self.asked is not None
        asked, self.asked = self.asked, []
        for number in asked:
            self.give(reports.Persisted(number, error))
        self.perform()

    # --- effects ---------------------------------------------------------------------------------------------------

    def perform(self) -> None:
        self.wanted += self.core.take_effects()  # of a test that reached inside
        while self.wanted:
            wanted, self.wanted = self.wanted, []
            for effect in wanted:
                self.performed.append(effect)
                self._perform_one(effect)

    def _perform_one(self, effect: do.Effect) -> None:
        match effect:
            case do.Send():
                self.sent.append(effect)
            case do.Tell():
                self.events.append(effect.event)
            case do.Release():
                self.released += effect.outputs
            case do.Fail():
                self.failures.append(str(effect.error))
            case do.RunGuest():
                self.output_next, self.is_running = effect.output_next, True
                self.value = self.memory.memory_digest
            case do.Stop() | do.Unload():
                self.is_running = False
            case do.Load() if self.load_error is not None:
                self.give(reports.LoadFailed(self.load_error))
            case do.Load():
                self.give(reports.StateLoaded())
            case do.WarmUp():
                self.give(reports.ShadowWarmed())
            case do.Measure():
                self.memory.memory_digest = self.value
                self.give(reports.MemoryMeasured())
            case do.Adopt():
                self.value = self.shipped = self.memory.memory_digest
            case do.StartCopy():
                self.shipped = self.matched = 0
                self.give(reports.RoundCollected(8))
            case do.MatchPages():
                self.give(self._match(effect))
            case do.CollectRound():
                self.give(reports.RoundCollected(1))
            case do.CopyMore():
                self.give(reports.PagesCopied((self._capture(),), 0))
            case do.Use():
                self.give(reports.EngineUsed(effect.engine))
            case do.Persist() if self.asked is None:
                self.give(reports.Persisted(effect.number))
            case do.Persist():
                self.asked.append(effect.number)
            case do.Cut() if self.capture_error is not None:
                self.give(reports.CaptureFailed(self.capture_error))
            case do.Cut():
                self._cut(effect)
            case _:
                pass

    def _match(self, order: do.MatchPages) -> reports.PagesMatched:
        pages = len(order.digests) // 16
        ours = digests_of(self.value)[16 * order.first :]
        same = [order.digests[16 * page : 16 * page + 16] == ours[16 * page : 16 * page + 16] for page in range(pages)]
        if order.first == 0 and same[:1] == [True]:
            self.shipped = self.value
        kept = sum(is_same << page for page, is_same in enumerate(same)).to_bytes(bitmap_bytes(pages), "little")
        self.matched += sum(same)
        left = GEOMETRY.page_count - self.matched if order.is_last else 0
        return reports.PagesMatched(first=order.first, pages=pages, kept=kept, is_last=order.is_last, left=left)

    def _capture(self) -> PageBatch:
        batch = make_batch(self.value - self.shipped)
        self.shipped = self.value
        return batch

    def _cut(self, order: do.Cut) -> None:
        checkpoint = Checkpoint(
            epoch=order.epoch,
            base=order.base,
            engine=order.engine.name,
            batches=() if order.lists_pages else (self._capture(), *self.more_batches),
            devices=b"devices %d" % self.value,
            outputs=(),
            output_next=self.output_next,
            log_index=0,
            memory_digest=self.value,
            dirty_pages=1,
            position=GuestPosition(self.value, 0) if order.engine.logs else None,
            has_flush=self.flushes,
        )
        self.give(
            reports.CutTaken(
                emitted=reports.NOTHING_EMITTED,
                engine=order.engine,
                checkpoint=checkpoint,
                paused_at=self.world.now,
                pause_ns=100,
            )
        )

    # --- what to look at -------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.core.id

    @property
    def core(self) -> Core:
        """What all roles share: for tests that look inside."""
        return self.replica._core

    @property
    def role(self) -> Role:
        return self.replica.view().role

    @property
    def active(self) -> ActiveState:
        assert isinstance(self.replica._role_state, ActiveState)
        return self.replica._role_state

    @property
    def standby(self) -> StandbyState:
        assert isinstance(self.replica._role_state, StandbyState)
        return self.replica._role_state

    @property
    def empty(self) -> Empty:
        assert isinstance(self.replica._role_state, Empty)
        return self.replica._role_state

    @property
    def said(self) -> list[bytes]:
        """What left this host."""
        return [output.payload for output in self.released]

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def waiting(self, kind: type[M]) -> list[M]:
        """Return the messages of a kind that wait to be carried."""
        return [sent.message for sent in self.sent if isinstance(sent.message, kind)]


class Pair:
    """Hosts a (starts) and b (joins), an arbiter between them."""

    host: type[Host] = Host
    """What `boot` makes."""

    def __init__(
        self, settings: Settings | None = None, *, other: Settings | None = None, record: Record | None = None
    ) -> None:
        self.now = Nanos(ORIGIN)
        self.store = Store(record)
        base = settings or make_settings()
        self.a = self.boot("a", base, "b", starts=True)
        self.b = self.boot("b", other or base, "a", starts=False)

    def boot(self, name: str, settings: Settings, peer: str, *, starts: bool, prefix: str | None = None) -> Host:
        """Return a fresh host; it replaces whoever had the name."""
        memory = FakeMemory()
        settings = replace(settings, dialled=(peer,))
        replica = Replica(
            settings,
            memory,
            fresh_id=ids(prefix or name),
            starts=starts,
            now=self.now,
        )
        return self.host(self, name, replica, memory)

    # --- moving things ---------------------------------------------------------------------------------------------

    def carry(self, sender: Host, receiver: Host) -> int:
        """Deliver what `sender` has sent so far."""
        count = len(sender.sent)
        for _ in range(count):
            receiver.take(sender, sender.sent.popleft())
        return count

    def elapse(self, milliseconds: float) -> None:
        self.now = Nanos(self.now + int(milliseconds * MS))

    def moves(self) -> Iterator[None]:
        """Let both hosts step, answer every request and deliver every message, one thing after the other, until rest.

        Time does not pass meanwhile.
        """
        for _ in range(100):
            has_moved = False
            for host, other in ((self.a, self.b), (self.b, self.a)):
                host.tick()
                yield
                if host.outstanding is not None:
                    has_moved = True
                    host.answer()
                    yield
                while host.sent:
                    has_moved = True
                    other.take(host, host.sent.popleft())
                    yield
            if not has_moved:
                return
        raise AssertionError("the pair does not come to rest")

    def exchange(self) -> None:
        """Let everything happen that can happen now."""
        for _ in self.moves():
            pass

    def run(self, milliseconds: float, *, step: float = 5) -> None:
        """Let both hosts live for a while."""
        for _ in range(int(milliseconds / step)):
            self.elapse(step)
            self.exchange()

    def started(self) -> "Pair":
        """Bring a to be active."""
        self.a.tick()
        for _ in range(2):
            self.a.answer()
            self.a.tick()
        assert self.a.role is Role.ACTIVE
        return self

    def protected(self) -> "Pair":
        """Bring a to be active and b to be its standby."""
        self.started()
        self.until(lambda: self.a.active.link is LinkState.PROTECTED)
        assert self.b.role is Role.STANDBY
        return self

    def until(self, is_true: Callable[[], object]) -> None:
        """Let both hosts live until something is so, and stop the world right then."""
        for _ in range(1000):
            if is_true() or any(is_true() for _ in self.moves()):
                return
            self.elapse(5)
        raise AssertionError("it does not come about")
