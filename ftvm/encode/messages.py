"""The messages of a pair, as values (docs/wire.md, "Messages"). How they look on the wire is wire.py's business.

Every message travels in an Envelope. Those that build up the backup's state (CacheKept, Copy, EpochPart, Log) carry a
`sequence` that rises by one within the session, over all four: the order in which they must be applied, whatever the
link does to them.
"""

from dataclasses import dataclass, field

from ftvm.checkpoint import Buffer, Checkpoint, Geometry, PageBatch
from ftvm.encode.versions import FIRST, FROZEN_FORM, Versions
from ftvm.interfaces import Record
from ftvm.logtable import LogTable

__all__ = [
    "Ack",
    "CacheDigests",
    "CacheKept",
    "Copy",
    "Envelope",
    "EpochPart",
    "Greeting",
    "Join",
    "Leave",
    "Log",
    "Message",
    "Ping",
    "Pong",
    "Prepare",
    "Prepared",
    "Refuse",
    "Sequenced",
    "SessionId",
    "Welcome",
]


@dataclass(frozen=True, slots=True)
class SessionId:
    """One session: the active's counter, the active's replica id, and the generation in which it was opened.

    version  of the wire, agreed on when it was opened: what its messages are written in. No part of the name.
    """

    counter: int
    active: str
    generation: int
    version: int = field(default=FROZEN_FORM, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every message says: whose it is, and what its sender knows.

    record    the newest record that the sender has learned: a hint to the receiver, never a fact
    released  the highest output number that the sender (if active) has released; the receiver keeps all above it
    """

    guest_id: str
    sender: str
    session: SessionId | None
    record: Record
    released: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """An empty replica asks an active to make it the standby, and says which versions of the wire it speaks.

    images  the names of what it keeps disks in, 16 hex digits each: a pair must not share one
    place   of the record that it reads (interfaces.RecordStore.place_id), "" if it reads none; None if it does not know
    has_cache  it still has memory of the guest from before, of which it can tell the digests
    """

    geometry: Geometry
    engines: tuple[str, ...]
    staging_bytes: int
    versions: Versions = FIRST
    images: tuple[str, ...] = ()
    place: str | None = None
    has_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a host says of itself to those that it is in no session with; the envelope has the generation it knows.

    place  as in Join; role  one of protocol.core.Role
    """

    place: str | None
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The active opens a session for `joiner`; its memory starts as all zero pages on both sides, but for those that
    the active tells it to keep (CacheKept).

    engines   those that the active knows, by name: it may be the standby one day
    versions  of the wire that the active speaks; the session is in the highest that the joiner speaks, too
    lineage   of the disks' content, 16 hex digits; "" if it is not known
    takes_cache  the active waits for the digests of what the joiner still has (CacheDigests)
    """

    joiner: str
    engines: tuple[str, ...]
    staging_bytes: int
    versions: Versions = FIRST
    lineage: str = ""
    takes_cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The active does not take `joiner`, and why. `is_final` tells that asking again cannot help."""

    joiner: str
    reason: str
    is_final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDigests:
    """A joiner tells the active what it still has, before the first copy: the digests of pages as they are now.

    sequence  counts these messages of the session, from 0; the active takes them in that order
    first     the first page of those that follow each other here; pages rise over all messages
    digests   XXH3-128 of each page with its index as seed, 16 bytes, low half first
    is_last   nothing more is offered: what was not becomes zero
    """

    sequence: int
    first: int
    digests: Buffer = field(repr=False)
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKept:
    """The answer to each CacheDigests, in the stream of the first copy: which of its pages the joiner keeps.

    first, pages  those that were offered
    kept          a bitmap of them (ftvm/_native/bitmap.h); the others become zero
    """

    sequence: int
    first: int
    pages: int
    kept: Buffer = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A batch of the first copy, applied as it comes: the state is whole only with the first epoch."""

    sequence: int
    round: int
    batch: PageBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPart:
    """A piece of an epoch: one batch of pages, the end, or both.

    batch       in all parts but the last; since version 2 of the wire the last has one, too (versions.FLAT_SINCE)
    checkpoint  in the last part only, without its batches; the epoch is whole with it
    """

    sequence: int
    epoch: int
    part: int
    batch: PageBatch | None
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Log records; kept until a checkpoint that covers them is committed."""

    sequence: int
    records: LogTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What the standby has.

    received       sequence numbers below this have all come
    epoch          the last epoch committed, 0 before the first
    log_index      the last log record safe
    memory_digest  of the memory at `epoch`, computed from the standby's own pages
    """

    received: int
    epoch: int
    log_index: int
    memory_digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A heartbeat of the active."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The standby's answer to the Ping of that number. An Ack comes with it: one that was lost is thus repeated."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """A switchover is about to be proposed: the active stands still at `epoch`, which the standby is to load.

    With `epoch` 0 the active still runs: the standby is to get ready for as much as it has.
    """

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The standby's answer: it has loaded `epoch`; or why not, in `error`."""

    epoch: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The sender ends the session, and why: a hint that shortens the other side's wait, no more.

    The active answers that of its standby with another; a standby that is about to close waits for it.

    is_end  the guest came to its own end, which this standby has acknowledged: there is nothing to take over
    """

    reason: str
    is_end: bool = False


Sequenced = CacheKept | Copy | EpochPart | Log
Message = (
    Greeting
    | Join
    | Welcome
    | Refuse
    | CacheDigests
    | CacheKept
    | Copy
    | EpochPart
    | Log
    | Ack
    | Ping
    | Pong
    | Prepare
    | Prepared
    | Leave
)
