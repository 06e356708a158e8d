"""What a takeover needs, as values: the shape of memory, sets of pages, watermarks, outputs and checkpoints.

All values are frozen and hold buffers by reference: do not write to a buffer after building a value with it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, chain
from typing import Final, overload

from ftvm.errors import ConfigError, InternalError, LimitExceeded
from ftvm.units import PageCount, pages_to_bytes

__all__ = [
    "END_CHANNEL",
    "NOTHING_SAFE",
    "NO_OUTPUTS",
    "OUTPUT_ROW",
    "Bitmap",
    "Buffer",
    "Checkpoint",
    "Commit",
    "Footing",
    "Geometry",
    "GuestPosition",
    "LogKind",
    "LogRecord",
    "Output",
    "OutputTable",
    "PageBatch",
    "RegionShape",
    "Watermarks",
    "joined_outputs",
]

Buffer = bytes | bytearray | memoryview

PAGE_COUNT_MAX: Final = 1 << 29
"""2 TiB of memory and disks: page indices fit 32 bits, and the digest of so many zeros is known (digest.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionShape:
    """Name and size of one memory region."""

    name: str
    page_count: PageCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """Where a guest stands on one host.

    lineage     of its disks' content, "" if that is not known
    generation  of the record that made, or left, this host what it is
    epoch       the last one committed here; 0 where the guest runs
    runs        whether the guest runs here, or is about to
    """

    lineage: str
    generation: int
    epoch: int
    runs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The shape of a guest that both hosts must share: its regions in order, and the kind of machine.

    `machine` names what must be equal for device state of one host to load on the other, e.g. ``"riscv/1 64MiB net"``.
    """

    machine: str
    regions: tuple[RegionShape, ...]

    def __post_init__(self) -> None:
        if not self.regions:
            raise ConfigError("a guest needs at least one memory region")
        if any(region.page_count <= 0 for region in self.regions):
            raise ConfigError("a memory region needs at least one page")
        if self.page_count > PAGE_COUNT_MAX:
            raise ConfigError(f"{self.page_count} pages is more than the limit of {PAGE_COUNT_MAX}")

    def __str__(self) -> str:
        regions = ", ".join(f"{region.name} of {region.page_count} pages" for region in self.regions)
        return f"{self.machine} with {regions}"

    @property
    def page_count(self) -> PageCount:
        """Pages of all regions together."""
        return PageCount(sum(region.page_count for region in self.regions))

    def difference(self, other: "Geometry") -> str:
        """Return only what differs, ours before the slash: `ram 64 MiB / 128 MiB; machine -cpu max / -cpu qemu64`."""
        ours, theirs = ({region.name: region.page_count for region in each.regions} for each in (self, other))
        parts = [
            f"{name} {_size(ours.get(name))} / {_size(theirs.get(name))}"
            for name in ours | theirs
            if ours.get(name) != theirs.get(name)
        ]
        if self.machine != other.machine:
            words = self.machine.split(), other.machine.split()
            only = tuple(" ".join(each for each in words[n] if each not in words[1 - n]) for n in (0, 1))
            parts.append(f"machine {' / '.join(each or '(no more)' for each in only)}")
            if all(each.startswith(("cpu=", "tsc=")) for each in only):
                parts.append(_UNLIKE_PROCESSORS)
        return "; ".join(parts) or f"{self} / {other}"


_UNLIKE_PROCESSORS: Final = (
    "the processors differ, and a guest cannot go from one to the other; give a QEMU on both hosts one model by name: "
    "-cpu qemu64 is on any, -cpu Nehalem on most"
)


def _size(pages: int | None) -> str:
    if pages is None:
        return "none"
    kib = pages_to_bytes(pages) >> 10
    return f"{kib >> 10} MiB" if kib % 1024 == 0 else f"{kib} KiB"


PAGE_DIGEST_ROW: Final = struct.Struct("<I16s")
"""A page index and the XXH3-128 of that page with its index as seed."""


def bitmap_bytes(page_count: int) -> int:
    """Return the length of a bitmap of so many pages: whole 64-bit words."""
    return (page_count + 63) // 64 * 8


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A set of pages: per region, one bit a page in little-endian 64-bit words (ftvm/_native/bitmap.h)."""

    page_counts: tuple[int, ...]
    words: tuple[bytearray, ...]

    def __post_init__(self) -> None:
        if tuple(map(len, self.words)) != tuple(map(bitmap_bytes, self.page_counts)):
            raise ConfigError("each region's words must be exactly as long as its page count asks for")

    @classmethod
    def empty(cls, page_counts: Sequence[int]) -> "Bitmap":
        """Return the set of no pages."""
        return cls(tuple(page_counts), tuple(bytearray(bitmap_bytes(count)) for count in page_counts))

    @classmethod
    def full(cls, page_counts: Sequence[int]) -> "Bitmap":
        """Return the set of all pages."""
        words = tuple(((1 << count) - 1).to_bytes(bitmap_bytes(count), "little") for count in page_counts)
        return cls(tuple(page_counts), tuple(map(bytearray, words)))

    def __or__(self, other: "Bitmap") -> "Bitmap":
        """Return the union of two sets over the same regions."""
        if self.page_counts != other.page_counts:
            raise ConfigError("bitmaps of different geometry cannot be joined")
        joined = (
            bytearray((int.from_bytes(a, "little") | int.from_bytes(b, "little")).to_bytes(len(a), "little"))
            for a, b in zip(self.words, other.words, strict=True)
        )
        return Bitmap(self.page_counts, tuple(joined))

    def count(self) -> int:
        """Return how many pages are in the set."""
        return sum(int.from_bytes(words, "little").bit_count() for words in self.words)


@dataclass(frozen=True, slots=True, order=True)
class Watermarks:
    """How far replication is: the last epoch committed and the last log record safe. Two marks, not one order.

    Compare with `cover`, never with `<`: the order that dataclass gives is for sorting only.
    """

    epoch: int
    log_index: int

    def cover(self, needed: "Watermarks") -> bool:
        """Tell whether all that `needed` names is safe."""
        return self.epoch >= needed.epoch and self.log_index >= needed.log_index  # rule: both_watermarks_covered


NOTHING_SAFE: Final = Watermarks(0, 0)


END_CHANNEL: Final = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Something the guest sent to the world. `number` counts over all channels and is part of the guest's state.

    On END_CHANNEL it says that the guest came to its own end, and nothing is wrong: it is the last that it says. The
    end is held and released like any other output, so nobody acts on an end that a takeover could still undo.
    """

    number: int
    channel: str
    payload: bytes


OUTPUT_ROW: Final = struct.Struct("<BI")
_ROW: Final = OUTPUT_ROW.size
_CHANNELS_MAX: Final = 256
"""So many a row can tell apart; a message can name fewer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputTable(Sequence[Output]):
    """Outputs of consecutive numbers from `first` to `last`: the form that they keep from the guest's turn until they
    leave, and on the standby until somebody asks for one. Equal to any sequence of the same outputs.

    What a turn said is held, compared, let out and carried by the next checkpoint as one; an Output is made only when
    one is looked at. The rows are those of the wire (docs/wire.md, "What builds up the state"): channel's number,
    payload's bytes. The payloads stand apart, one behind the other.

    channels  the names that the rows count in, in the order in which they come in
    rows      OUTPUT_ROW for each output, checked by whoever made the table: channels exist, lengths add up
    payloads  of all outputs, in order
    """

    first: int
    last: int
    channels: tuple[str, ...]
    rows: bytes
    payloads: bytes

    @classmethod
    def of(cls, outputs: Iterable[Output]) -> "OutputTable":
        """Return the table of outputs, which are of consecutive numbers; a table is returned as it is.

        Raises InternalError if they are not, LimitExceeded if they are of more channels than a row can tell apart.
        """
        if isinstance(outputs, OutputTable):
            return outputs
        outputs = list(outputs)
        if not outputs:
            return NO_OUTPUTS
        first = outputs[0].number
        for place, output in enumerate(outputs):
            if output.number != first + place:
                raise InternalError(f"output {output.number} was emitted after {first + place - 1}")
        channels = _checked(dict.fromkeys([output.channel for output in outputs]))
        rows = [OUTPUT_ROW.pack(channels.index(output.channel), len(output.payload)) for output in outputs]
        payloads = b"".join([output.payload for output in outputs])
        return cls(first=first, last=outputs[-1].number, channels=channels, rows=b"".join(rows), payloads=payloads)

    @property
    def lengths(self) -> list[int]:
        """The bytes of each payload."""
        return [length for _, length in OUTPUT_ROW.iter_unpack(self.rows)]

    def behind(self, number: int) -> "OutputTable":
        """Return the outputs above `number`, which need not be one of them."""
        return self if number < self.first else OutputTable.of(list(self)[number + 1 - self.first :])

    @overload
    def __getitem__(self, place: int) -> Output: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Output]: ...
    def __getitem__(self, place: int | slice) -> Output | Sequence[Output]:
        return tuple(self)[place]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __len__(self) -> int:
        return self.last + 1 - self.first

    def __iter__(self) -> Iterator[Output]:
        rows = list(OUTPUT_ROW.iter_unpack(self.rows))
        places = zip(rows, accumulate([length for _, length in rows], initial=0), strict=False)
        return iter(
            [
                Output(number=number, channel=self.channels[channel], payload=self.payloads[at : at + length])
                for number, ((channel, length), at) in enumerate(places, self.first)
            ]
        )


NO_OUTPUTS: Final = OutputTable(first=1, last=0, channels=(), rows=b"", payloads=b"")


def joined_outputs(tables: Iterable[OutputTable]) -> OutputTable:
    """Return tables, each of which goes on where the one before ends, as one.

    Raises LimitExceeded as `OutputTable.of`.
    """
    filled = [table for table in tables if table.rows]
    if len(filled) < 2:
        return filled[0] if filled else NO_OUTPUTS
    channels = filled[0].channels
    if any(table.channels != channels for table in filled):
        channels = _checked(dict.fromkeys(chain.from_iterable([table.channels for table in filled])))
        rows = b"".join([_renumbered(table, channels) for table in filled])
    else:
        rows = b"".join([table.rows for table in filled])
    payloads = b"".join([table.payloads for table in filled])
    return OutputTable(first=filled[0].first, last=filled[-1].last, channels=channels, rows=rows, payloads=payloads)


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    channels = tuple(names)
    if len(channels) > _CHANNELS_MAX:
        raise LimitExceeded("output channels", limit=_CHANNELS_MAX, wanted=len(channels))
    return channels


def _renumbered(table: OutputTable, channels: tuple[str, ...]) -> bytes:
    """Return the rows of a table, with the channels' numbers in another list of names."""
    numbers = bytes([channels.index(name) for name in table.channels]).ljust(256, b"\0")
    rows = bytearray(table.rows)
    rows[::_ROW] = rows[::_ROW].translate(numbers)
    return bytes(rows)


@dataclass(frozen=True, slots=True, order=True)
class GuestPosition:
    """An exact place in a guest's run: instructions retired, and time units spent waiting.

    Source: docs/protocol.md, "Positions and outputs".
    Inputs that come while the guest waits share one retired count, so the waiting counts too.
    """

    retired: int
    idled: int


class LogKind(Enum):
    """What a log record is about."""

    INPUT = 1
    """Something was given to the guest: `channel` and `payload`."""
    CLOCK = 2
    """The guest's clock was moved on by `amount` units while it waited."""
    OUTPUT = 3
    """The guest made the output of number `amount`; nothing new may come before it in a replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One non-deterministic event, with the exact position at which the guest took it. `index` counts from 1."""

    index: int
    kind: LogKind
    position: GuestPosition
    amount: int = 0
    channel: str = ""
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBatch:
    """Encoded pages: `count` entries, in the delta format of ftvm/_native/delta.h.

    indices  little-endian u32 each, strictly rising
    lengths  little-endian u16 each: how many bytes of the payload each page takes
    payload  the deltas, one after the other
    digest   XXH3-128 of indices, lengths and payload in that order, 16 bytes
    unpacked_bytes  if the payload is packed (ftvm/encode/compress.py): its length before; 0 if it is not. Packing
                    leaves the digest as it was
    buffer   on the capturing side: number of the batch buffer that holds it (ftvm/capture/pages.py)
    """

    count: int
    indices: Buffer
    lengths: Buffer
    payload: Buffer
    digest: bytes
    unpacked_bytes: int = 0
    buffer: int | None = field(default=None, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """What it takes on the wire, without the header."""
        return len(self.indices) + len(self.lengths) + len(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What one epoch captured: apply it to the state of epoch `base` and the guest of epoch `epoch` is there.

    outputs        emitted since the last cut: pending, in order; their numbers end just below `output_next`
    memory_digest  of the whole memory after applying: sum over pages modulo 2**128, see ftvm/_native/digest.h
    dirty_pages    how many pages tracking reported; `batches` may hold fewer (unchanged ones are not sent)
    page_digests   where the backup executes the log itself and gets no pages: PAGE_DIGEST_ROW for each dirty page
    position       where the guest was, if it can be replayed
    has_flush      whether the guest asked, since the last cut, that what it wrote to its disks be durable; where nobody
                   tells, e.g. in version 1 of the wire, it counts as asked
    """

    epoch: int
    base: int
    engine: str
    batches: tuple[PageBatch, ...] = field(repr=False)
    devices: bytes = field(repr=False)
    outputs: Sequence[Output] = field(repr=False)
    output_next: int
    log_index: int
    memory_digest: int
    dirty_pages: int
    page_digests: bytes = field(default=b"", repr=False)
    position: GuestPosition | None = None
    has_flush: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An epoch that has become the state of this backup.

    log          what the guest took since the epoch before, up to `checkpoint.log_index`, where it was shipped
    is_first     it completes a first copy, whose pages came apart from it: what was here before has no part in it
    is_executed  the guest here came to it by executing the log: it carries no pages
    written      where it was executed: the pages that the guest here has written since the epoch before, rising
    lineage, generation  the active's replica id, and the generation of the session that it came in
    """

    checkpoint: Checkpoint
    log: tuple[LogRecord, ...] = ()
    is_first: bool = False
    is_executed: bool = False
    written: Sequence[int] = field(default=(), repr=False)
    lineage: str = ""
    generation: int = 0
