"""What the protocol asks the driver to do. Effects are performed in order; those that have a result report it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ftvm.checkpoint import Buffer, Checkpoint, Commit, GuestPosition, LogRecord, OutputTable, PageBatch
from ftvm.encode.messages import Envelope, Message
from ftvm.errors import FtvmError
from ftvm.events import Event
from ftvm.interfaces import Engine, Lane
from ftvm.protocol.stop import StopKind
from ftvm.units import Nanos

__all__ = [
    "Adopt",
    "Announce",
    "CollectRound",
    "Compare",
    "CopyMore",
    "Cover",
    "Cut",
    "Difference",
    "Effect",
    "EndSession",
    "Execute",
    "Fail",
    "Follow",
    "Forget",
    "Load",
    "MatchPages",
    "Measure",
    "Persist",
    "Release",
    "Rest",
    "RunGuest",
    "Send",
    "ShowCommit",
    "StartCopy",
    "Stop",
    "Tell",
    "Unload",
    "Use",
    "WarmUp",
]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message; losing it is allowed."""

    peer: str
    lane: Lane
    envelope: Envelope
    message: Message


@dataclass(frozen=True, slots=True)
class StartCopy:
    """A session begins: start from an all-zero shadow, and collect the first round. Reports RoundCollected.

    is_cached  the joiner still has pages: MatchPages follows
    """

    staging_bytes: int
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """A session begins, or is about to, with a standby that holds this very memory: the shadow becomes what the paused
    guest holds. It costs nothing where it is so already."""

    staging_bytes: int


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A switchover may come: copy into the shadow, by portions, what `Adopt` will need. Reports ShadowWarmed."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The guest ran here until now: compute the digests of its memory. Reports MemoryMeasured."""


@dataclass(frozen=True, slots=True)
class CollectRound:
    """Pause the guest, collect the pages written since the last time, resume. Reports RoundCollected."""


@dataclass(frozen=True, slots=True)
class MatchPages:
    """Compare pages of the first round with digests of what the joiner still has of them, while the guest runs; those
    that are the same are not copied. Reports PagesMatched."""

    first: int
    digests: Buffer
    is_last: bool


@dataclass(frozen=True, slots=True)
class CopyMore:
    """Encode up to `batches` batches of the present round while the guest runs. Reports PagesCopied."""

    batches: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Pause the guest, capture the epoch, resume under `engine`: reports CutTaken, NothingToCut or CaptureFailed."""

    epoch: int
    base: int
    engine: Engine
    lists_pages: bool
    """Whether the checkpoint is to list the digests of its pages, for a backup that executes."""
    may_skip: bool = False
    """Whether nothing waits for the epoch: it is not cut if the guest has written nothing (reports.NothingToCut)."""


@dataclass(frozen=True, slots=True)
class Forget:
    """These batches were acknowledged: their buffers are free once the transport has let go of them too."""

    batches: tuple[PageBatch, ...]


@dataclass(frozen=True, slots=True)
class ShowCommit:
    """An epoch was committed: whoever looks on may keep it. Asked for only if somebody does (Settings.is_observed)."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Persist:
    """Have the guest's disks put all that was committed so far on their devices. Reports Persisted, with the number.

    At most two are under way in a role: one of a standby, and one more as it becomes active.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Cover:
    """Have the guest's disks answer a flush at once, and put it on their devices a little later, because the standby
    has it on its own before anything follows from it; or, again, only once the devices here have all that was flushed.
    """

    is_covered: bool


@dataclass(frozen=True, slots=True)
class EndSession:
    """Capture nothing more until the next StartCopy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How a guest that executes the log differs from its primary's: seen where, the pages, the devices, and in
    words."""

    seen: GuestPosition | None = None
    pages: tuple[int, ...] = ()
    devices: bool = False
    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Load the first copy into the paused guest, to execute the log from there on. Reports LogFollowed.

    devices  None: the guest stands where the log goes on, it was active here until now
    """

    devices: bytes | None
    output_next: int


@dataclass(frozen=True, slots=True)
class Execute:
    """Execute these log records, behind those that wait. Reports LogFollowed with outputs made, or GuestDiverged."""

    records: Sequence[LogRecord]


@dataclass(frozen=True, slots=True)
class Compare:
    """Behind the records that wait: compare the guest with the checkpoint. Reports GuestAgreed or GuestDiverged."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Rest:
    """The guest that follows stands at the mark up to which it was to execute: it is led no further, its memory is
    the state that checkpoints extend."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load the committed device state into the paused guest. Reports StateLoaded or LoadFailed."""

    devices: bytes


@dataclass(frozen=True, slots=True)
class Unload:
    """The claim failed: the guest that was loaded must not run."""


@dataclass(frozen=True, slots=True)
class RunGuest:
    """This replica is active: replay the log, if any, then let the guest run. Reports Emitted.

    output_next  the number of the next output, before the replay
    log_next     the index of the next log record, after it
    engine       what the guest runs under then
    A guest that follows executes what still waits instead, and numbers on from there.
    """

    output_next: int
    log_next: int
    log: tuple[LogRecord, ...]
    engine: Engine


@dataclass(frozen=True, slots=True)
class Use:
    """Pause the guest, report what it has emitted, resume under `engine`. Reports EngineUsed."""

    engine: Engine


@dataclass(frozen=True, slots=True)
class Stop:
    """This replica is no longer active: pause the guest and throw away what it emits."""


@dataclass(frozen=True, slots=True)
class Release:
    """Let outputs leave this host, in this order: at least one. The first was held since `since`."""

    outputs: OutputTable
    since: Nanos


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the world that the guest answers from here."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Report an event to whoever listens."""

    event: Event


@dataclass(frozen=True, slots=True)
class Fail:
    """This host cannot do what it was started for, and gives up. The error's type says whose fault.

    kind  of the stop in which it ends in order; None: it ends at once
    """

    error: FtvmError
    kind: StopKind | None = None


Effect = (
    Send
    | StartCopy
    | Adopt
    | WarmUp
    | Measure
    | CollectRound
    | MatchPages
    | CopyMore
    | Cut
    | Forget
    | ShowCommit
    | Persist
    | Cover
    | EndSession
    | Follow
    | Execute
    | Compare
    | Rest
    | Load
    | Unload
    | RunGuest
    | Use
    | Stop
    | Release
    | Announce
    | Tell
    | Fail
)
