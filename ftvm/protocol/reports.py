"""What the driver reports to the protocol: the counterpart of effects.py. Each is a value given to `Replica.step`.

Some come from outside (a message, the arbiter's answer, the time), the others are what came of an effect. One that
comes too late, for a role that is over, changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ftvm.checkpoint import Checkpoint, Output, OutputTable, PageBatch
from ftvm.encode.messages import Envelope, Message
from ftvm.errors import FtvmError
from ftvm.interfaces import Answer, Engine
from ftvm.logtable import NO_LOG, LogTable
from ftvm.protocol.effects import Difference
from ftvm.units import Nanos

__all__ = [
    "CUT_WANTED",
    "GUEST_STIRRED",
    "NOTHING_EMITTED",
    "STEP_BEGUN",
    "TICK",
    "CaptureFailed",
    "CutTaken",
    "CutWanted",
    "Emitted",
    "EngineUsed",
    "GuestAgreed",
    "GuestDiverged",
    "GuestStirred",
    "LoadFailed",
    "LogFollowed",
    "MemoryMeasured",
    "NothingToCut",
    "PagesCopied",
    "PagesMatched",
    "PeerGone",
    "PeerRefused",
    "Persisted",
    "Received",
    "Report",
    "RoundCollected",
    "ShadowWarmed",
    "StateLoaded",
    "StepBegun",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class StepBegun:
    """The host's loop turns again. If it was late, do not count that against the peer."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message for this guest came from `peer`, authenticated by `key`."""

    peer: str
    key: str | None
    envelope: Envelope
    message: Message


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: do what is due."""


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The process of `peer` has ended, which was confirmed (detector.py): suspect it at once.

    A link that was reset is no reason for this report: the peer may live.
    """

    peer: str


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """A peer can never take this host as its standby. Only who asks to join cares."""

    peer: str
    error: FtvmError


@dataclass(frozen=True, slots=True)
class Emitted:
    """What came from the guest since the last time, in order: the log first, then the outputs.

    said           outputs, at least one together, with the index of the last record logged when they were made, their
                   own OUTPUT records included
    is_guest_idle  the guest is known to wait for something from outside
    has_flush      it flushed a disk since the last cut, and perhaps before it made the last of these outputs
    """

    log: LogTable = NO_LOG
    said: Sequence[tuple[OutputTable, int]] = ()
    is_guest_idle: bool = False
    has_flush: bool = False

    @property
    def outputs(self) -> list[tuple[Output, int]]:
        """Each output with its index."""
        return [(output, index) for outputs, index in self.said for output in outputs]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.log.record_count or self.said)


@dataclass(frozen=True, slots=True)
class EngineUsed:
    """The guest stood still, all that it emitted before is reported, and it goes on under `engine`."""

    engine: Engine


@dataclass(frozen=True, slots=True)
class RoundCollected:
    """A round of the first copy was collected: so many pages."""

    pages: int


@dataclass(frozen=True, slots=True)
class PagesCopied:
    """Batches of the first copy; `left` pages of the round are still to come."""

    batches: tuple[PageBatch, ...]
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesMatched:
    """Pages that a joiner still has were compared: `kept` is a bitmap of the `pages` from `first` on that are the same.
    With the last of them, `left` pages of the first round are to be copied."""

    first: int
    pages: int
    kept: bytes
    is_last: bool
    left: int


@dataclass(frozen=True, slots=True)
class CutWanted:
    """The guest asks for a cut before it would be due: it may have to wait for the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTaken:
    """An epoch was cut while the guest stood still, from `paused_at` on and for `pause_ns`.

    emitted     all that the guest emitted before, in this epoch; judged first, by the engine under which it was made
    engine      under which the guest goes on
    checkpoint  without its outputs: the protocol knows which of them it must carry, and adds them
    is_at_rest  as of NothingToCut, once the guest may go on
    """

    emitted: Emitted
    engine: Engine
    checkpoint: Checkpoint
    paused_at: Nanos
    pause_ns: int
    is_at_rest: bool = False


@dataclass(frozen=True, slots=True)
class NothingToCut:
    """The guest has written and said nothing since the last epoch, which the standby may go on from just as well.

    is_at_rest  it waits for an input or its timer, and writes nothing before a GuestStirred is reported
    """

    is_at_rest: bool = False


@dataclass(frozen=True, slots=True)
class GuestStirred:
    """The guest, which was at rest, goes on."""


@dataclass(frozen=True, slots=True)
class CaptureFailed:
    """A round or an epoch could not be captured; the guest runs on.

    is_unreadable  a part of the guest's state cannot be read here, and no later capture can be trusted to read it
    """

    error: str
    is_unreadable: bool = False


@dataclass(frozen=True, slots=True)
class StateLoaded:
    """The committed state was loaded into the paused guest."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The committed state does not load."""

    error: str


@dataclass(frozen=True, slots=True)
class ShadowWarmed:
    """The shadow holds what this host may soon run from, but for what changes from now on."""


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """The digest of what the guest left behind here is known."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """What was committed when Persist of that number was asked for is on the disks' devices, or why it never will be:
    what a device failed to take once is not tried again."""

    number: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LogFollowed:
    """The guest made these outputs, executing the log; none of them may leave from here."""

    outputs: OutputTable


@dataclass(frozen=True, slots=True)
class GuestAgreed:
    """The guest that follows came to the state of `checkpoint`, and has written these pages since the one before."""

    checkpoint: Checkpoint
    written: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class GuestDiverged:
    """The guest that follows diverged."""

    difference: Difference


Report = (
    StepBegun
    | Received
    | Answer
    | Tick
    | PeerGone
    | PeerRefused
    | Emitted
    | EngineUsed
    | RoundCollected
    | PagesCopied
    | PagesMatched
    | CutWanted
    | CutTaken
    | NothingToCut
    | GuestStirred
    | CaptureFailed
    | StateLoaded
    | LoadFailed
    | ShadowWarmed
    | MemoryMeasured
    | Persisted
    | LogFollowed
    | GuestAgreed
    | GuestDiverged
)

STEP_BEGUN: Final = StepBegun()
TICK: Final = Tick()
CUT_WANTED: Final = CutWanted()
GUEST_STIRRED: Final = GuestStirred()
NOTHING_EMITTED: Final = Emitted()
