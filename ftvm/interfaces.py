"""What ftvm asks of a hypervisor, a transport, an arbiter, an engine, a world and a clock. Nothing here acts.

Each is a Protocol without defaults: an adapter that forgets a method fails to type-check. `ftvm.testing` holds a
conformance kit for each.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ftvm.checkpoint import Bitmap, Buffer, Footing, Geometry, GuestPosition, LogRecord, Output, Watermarks
from ftvm.units import Nanos, PageCount

__all__ = [
    "Answer",
    "Arbiter",
    "Capability",
    "Clock",
    "CompareAndSet",
    "Delivery",
    "DiskKeeper",
    "Engine",
    "EngineView",
    "ExactStopGuest",
    "Guest",
    "Lane",
    "OutputSink",
    "Polled",
    "Read",
    "Record",
    "RecordStore",
    "Region",
    "RegionStore",
    "ReplayableGuest",
    "Request",
    "Transport",
    "World",
]


class Clock(Protocol):
    """Time that only grows, in nanoseconds of arbitrary origin. runtime/clock.py has the real one."""

    def now(self) -> Nanos:
        """Return the time now."""


# --- the guest ------------------------------------------------------------------------------------


class Capability(Enum):
    """What a guest can do beyond the minimum."""

    __hash__ = object.__hash__  # by identity: Enum's own is a call of Python at each look-up

    EXACT_OUTPUT_STOP = "exact-output-stop"
    """It stops before an output leaves: true Kemari."""
    REPLAY = "replay"
    """It runs to an exact position and takes inputs there: lockstep and hybrid."""
    TELLS_WRITES = "tells-writes"
    """It tells while it runs whether it has written: one that has not is not even paused."""
    TELLS_IDLE = "tells-idle"
    """It tells while it runs whether it waits for something from outside: outputs that share a cut wait no longer."""
    TAKES_GROUPS = "takes-groups"
    """It takes inputs that came together by one call, and may hand the answer on before that returns."""
    REPLAYS_GROUPS = "replays-groups"
    """It is led along many records of a log by one call."""
    TELLS_SILENCE = "tells-silence"
    """It tells while it stands still whether the process that is to run it answers: a standby says so if not."""


class DiskKeeper(Protocol):
    """What a host has to know of the flushes of a guest's disk."""

    def take_flush(self) -> bool:
        """Tell, once, whether the guest has asked that what it wrote be durable. From any thread."""

    def persist(self, then: Callable[[str | None], None]) -> None:
        """Call `then`, in any thread, once no power cut loses what was committed or flushed so far, or with why."""

    def cover(self, *, is_covered: bool) -> None:
        """Answer flushes at once, and make them durable behind that; or, as at first, once they are. Never waits."""


class RegionStore(DiskKeeper, Protocol):
    """Keeps a region's content beyond the host's life, e.g. a disk's image. Never blocks for long.

    A backup tells it what the commits do to the region. If a method raises GuestError, as nothing can be kept any more,
    the host ends. `identity` is the name of what it keeps the content in, "" if it has none: a pair must not share one.
    `has_content` tells whether it kept any when it was opened.
    """

    identity: str
    has_content: bool

    def place_at(self, first_page: int) -> None:
        """Note the number of the region's first page in its guest's memory; before all else."""

    def stands(self, footing: Footing) -> None:
        """Note where the guest stands, with all that was committed so far; before it runs here, and when it changes."""

    def present(self) -> bytearray | None:
        """Return the words of a Bitmap of all pages that may not be zero, the guest standing still; None for all."""

    def committed(self, pages: Sequence[int]) -> None:
        """Note that these pages, counted from the region's first, have changed; read them before returning. A region
        that was active here is told so with no pages: what the guest wrote while it ran is committed, too."""

    def discarded(self) -> None:
        """Note that all pages are zero, and a first copy is to come: keep what was kept until `completed`."""

    def held(self) -> Sequence[tuple[int, int]]:
        """As `discarded`; return what may be used again of what was kept, as rising runs of pages (first page, count).
        For each piece of a run `offer` is called, and later `keep`; nothing is committed before the last."""

    def offer(self, first: int, count: int) -> bytes | None:
        """Show what was kept of these pages, until `keep`; return which of their hashes are known, None for none."""

    def keep(self, first: int, count: int, pages: Sequence[int]) -> Sequence[int]:
        """Of pages that were offered, have the copy to come hold those in `pages`, which rise; the others are zero.
        Return those that are what was offered, and whose hash was known: they need no look."""

    def completed(self) -> None:
        """Note that all that was committed since `discarded` is a state that a guest could run from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One piece of guest memory: page-aligned, writable, fixed for the guest's life. `buffer` is page_count * 4096
    bytes. A backup tells `store`, if there is one, what it has committed."""

    name: str
    buffer: memoryview
    page_count: PageCount
    store: RegionStore | None = None


class OutputSink(Protocol):
    """Where a guest puts its outputs. Safe from the guest's own thread; never blocks."""

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        """Take an output, in order; who can be replayed says where it made it. The sink numbers it, ftvm lets it go."""

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        """Note that the guest was given an input at `position`; in order with its outputs."""

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        """Note that the waiting guest's clock was moved on by `amount` units at `position`."""

    def want_cut(self) -> None:
        """Ask for a cut before it would be due: the guest may have to wait for the next."""

    def warn(self, reason: str) -> None:
        """Report to the operator that the guest works, but less well than it could."""

    def may_wait(self, reason: str) -> bool:
        """Ask whether a call of the guest may wait on for a process that has not answered. To be asked in the thread of
        the call, after a second and then four times a second; `reason` says who has not answered what, for how long."""


class Guest(Protocol):
    """The protected virtual machine, as its hypervisor shows it. A guest is born paused.

    The caller's duties, in order: `attach` once before the first run; `pause` before all that says "only while paused".
    """

    @property
    def geometry(self) -> Geometry:
        """Shape of memory and kind of machine; both hosts' must be equal."""

    @property
    def memory(self) -> tuple[Region, ...]:
        """The regions, in the order of `geometry`. A disk kept in memory is a region too."""

    @property
    def can(self) -> frozenset[Capability]:
        """What it can do beyond the minimum."""

    def attach(self, sink: OutputSink) -> None:
        """Take the sink for the guest's outputs; before the first run."""

    def pause(self) -> None:
        """Return when no further instruction, write or output can happen. Idempotent."""

    def resume(self) -> None:
        """Let it run. Idempotent."""

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call, or more. Only while paused.

        The first call after birth, and after TrackingLost, reports at least all pages that are not zero. Raises
        TrackingLost if it cannot tell; never returns less.
        """

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected, so that the next `collect_dirty` reports it again."""

    def save_devices(self) -> bytes:
        """Return everything outside memory that the guest's future depends on. Only while paused; changes nothing."""

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is. Only while paused; writes no
        memory. Raises GuestError if the bytes do not load; the guest is then as before."""

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it an input from outside. May drop it where a real device would (a full ring)."""

    def failure(self) -> str | None:
        """Return why it can never run again (it ended, or its host process died), or None while it can."""

    def close(self) -> None:
        """Stop it and give back all threads, processes and files. Idempotent."""


class ExactStopGuest(Guest, Protocol):
    """A guest with Capability.EXACT_OUTPUT_STOP."""

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause by itself right behind each instruction that makes an output, once it is emitted. Only while paused."""


class ReplayableGuest(Guest, Protocol):
    """A guest with Capability.REPLAY: it says to its sink where it took what, and can be led the same way again."""

    @property
    def position(self) -> GuestPosition:
        """Where it is. Exact only while paused."""

    def run_until(self, position: GuestPosition, limit: int | None = None) -> bool:
        """Run towards `position`, emitting outputs, taking no input; return whether it is there now.

        Only while paused; it is paused again after. `limit` bounds the instructions of this call; without it the guest
        runs until it is there. Raises GuestError if the guest cannot get there: its history is another one.
        """

    def inject(self, record: LogRecord) -> None:
        """Give it, at its present position, what the INPUT or CLOCK record says. Only while paused. Raises GuestError
        if its position is not the record's, or it does not take the input as it did before."""


class World(Protocol):
    """The outside as a host sees it: where outputs go, and inputs come from. Driven by its loop; never blocks."""

    def fds(self) -> tuple[int, ...]:
        """Return file descriptors that are readable as long as an input waits. With such, `receive` is called while one
        is readable; without any, at each step of the host."""

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        """Return up to `limit` inputs that have come, as (channel, payload)."""

    def release(self, output: Output) -> None:
        """Let one output leave this host: when this returns it has left the process. Called in order of numbers."""

    def announce(self) -> None:
        """Tell the world that the guest now answers from here (e.g. a gratuitous ARP)."""

    def close(self) -> None:
        """Give back sockets. Idempotent."""


class GroupWorld(World, Protocol):
    """A world that lets outputs leave together; no world has to."""

    def release_all(self, outputs: Sequence[Output]) -> None:
        """Let outputs leave as by `release` of one after the other, but faster."""


# --- the arbiter ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """The arbiter's record: who is active and who stands by, as replica ids. Generation 0 is "no record yet".

    is_ended  a remark, which is not compared: nobody is active because the guest has ended for good"""

    generation: int
    active: str | None
    standby: str | None
    is_ended: bool = field(default=False, compare=False)


class RecordStore(Protocol):
    """A durable, linearizable cell that holds one Record per guest. Calls may block: a worker makes them."""

    def read(self, guest_id: str) -> Record:
        """Return the record in force; generation 0 if the guest has no record. Raises ArbiterError."""

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        """Put `record` in force if that in force is of generation `record.generation - 1`; return what is in force now.

        The caller won if what comes back equals what it proposed. Raises ArbiterError when it is not known whether it
        was applied: repeat the same proposal, or read, until a generation at or above the proposed one is learned.
        Raises NotApplied, a kind of ArbiterError, if it failed before anything was done that could ever put `record`
        in force; only where that is certain, because the guest may then run on. In doubt, raise a plain ArbiterError.
        """

    def place_id(self, guest_id: str) -> str | None:
        """Return what names the place of the record read last, 32 hexadecimal digits drawn with the first; or None."""

    def close(self) -> None:
        """Give back files and connections. Idempotent."""


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for the record in force."""


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Ask to put `record` in force; see RecordStore.compare_and_set."""

    record: Record


Request = Read | CompareAndSet


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: the record in force and its `place`, or an `error`; with both, none can be written now.

    is_unapplied  the attempt certainly had no effect, and will have none; without that an error says nothing"""

    request: Request
    record: Record | None
    error: str | None
    is_unapplied: bool = False
    place: str | None = None


class Arbiter(Protocol):
    """A RecordStore that never blocks: one request outstanding, its answer polled for."""

    def submit(self, request: Request) -> None:
        """Start a request. Raises LocalProtocolError if one is outstanding."""

    def poll(self) -> Answer | None:
        """Return the answer if it has come; the next request may then be submitted."""


# --- the transport --------------------------------------------------------------------------------


class Lane(Enum):
    """The two connections of a pair: bulk, and what must not wait behind bulk."""

    __hash__ = object.__hash__  # by identity: Enum's own is a call of Python at each look-up

    DATA = "data"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that came: from whom, with which key (None where keys are not in use), on which lane."""

    peer: str
    key: str | None
    lane: Lane
    frames: tuple[Buffer, ...]


class Sign(Enum):
    """What a transport learned of a peer, except by a message. All but RESET answer an `ask`."""

    RESET = "reset"
    """A connection with it ended, for whatever reason: its process ended, or a firewall reset a healthy link."""
    REFUSED = "refused"
    """Nobody listens where it was, on either lane."""
    ANSWERED = "answered"
    """Somebody listens there, and spoke."""
    UNCLEAR = "unclear"
    """Neither: the connection that asked could not be made, or broke before anybody spoke."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll found: messages in order, tokens of sends whose buffers are free again, signs of peers by name."""

    deliveries: tuple[Delivery, ...]
    let_go: tuple[int, ...]
    signs: tuple[tuple[str, Sign], ...] = ()


class Transport(Protocol):
    """Moves messages between endpoints. In order within one lane of one connection; may lose, never alters.

    A peer is named by the endpoint that was dialled, or by a name that the transport makes for who dialled in; the name
    holds for as long as that other transport lives, across reconnects.
    """

    @property
    def dialled(self) -> tuple[str, ...]:
        """The peers that this transport connects to, as configured."""

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """Queue a message; return False if the peer's queue is full or the peer unknown: then nothing was taken.

        The buffers must not change until `poll` lets go of `token`; with token None they are copied.
        """

    def poll(self, limit: int) -> Polled:
        """Return up to `limit` messages that have come. Never blocks."""

    def ask(self, peer: str) -> bool:
        """Dial, once on each lane, where `peer` was last reached, to see whether somebody still listens there.

        Never blocks: one of the signs that answer comes by `poll`, or none if the connection hangs; then a later `ask`
        takes its place. False if it is not known where to ask: then no sign comes.
        """

    def share(self, guard: AbstractContextManager[object]) -> None:
        """From now on a second thread may call `send`, without a token: hold `guard` whenever they could meet."""

    def take_refusals(self) -> tuple[str, ...]:
        """Look after the connections; return whom this end refused, and who refused it, since the last call.

        The latest few, as text for people. To be called each 100 ms or so: a transport may keep for it what is not
        worth its time at each `poll`.
        """

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Collection[int]:
        """Block until a message has come, one of `fds` is readable, `wake` was called, or the time is over.

        Returns all of `fds` that are readable: none is passed over because of messages.
        """

    def wake(self) -> None:
        """End a `wait` now or the next one at once; safe from any thread."""

    def close(self) -> None:
        """Give back sockets and buffers. Idempotent."""


# --- the engine -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """What an engine may know when it decides whether to cut. Times in nanoseconds on the caller's clock.

    oldest_output_at  when the first output that is held was made
    oldest_uncut_at   the same for the first that no cut covers yet
    is_guest_idle     it was known to wait when its last output was taken: no other is to be expected just now
    epoch_ns          how long the last epoch was that was cut, and `dirty_pages` how much it dirtied
    pause_ns          how long the guest stood still for the last cut
    commit_ns         from a cut to its acknowledgement, smoothed; 0 while none came
    round_trip_ns     from a heartbeat to its answer, smoothed; 0 while none came
    """

    last_cut_at: Nanos
    epochs_in_flight: int
    outputs_waiting: int
    oldest_output_at: Nanos | None
    oldest_uncut_at: Nanos | None = None
    is_guest_idle: bool = False
    epoch_ns: int = 0
    dirty_pages: int = 0
    pause_ns: int = 0
    commit_ns: int = 0
    round_trip_ns: int = 0


class Engine(Protocol):
    """When to cut, and what must be safe before an output leaves. Pure: a frozen value."""

    @property
    def name(self) -> str:
        """Its name on the wire and on the command line."""

    @property
    def needs(self) -> frozenset[Capability]:
        """What a guest must be able to do."""

    @property
    def stands_still(self) -> bool:
        """Whether the guest is paused from each cut until it is committed."""

    @property
    def stops_at_output(self) -> bool:
        """Whether a guest that can do so pauses by itself right behind each output, until that is committed."""

    @property
    def logs(self) -> bool:
        """Whether inputs are logged and shipped, to be replayed at a takeover."""

    @property
    def executes(self) -> bool:
        """Whether the backup executes the log as it comes; a cut after the first then compares, and ships no pages."""

    def next_cut(self, view: EngineView) -> Nanos:
        """Return when the next checkpoint is due; at or before now means at once."""

    def output_needs(self, *, epoch: int, log_index: int) -> Watermarks:
        """Return what must be safe before an output leaves, emitted in `epoch` with `log_index` records logged."""
