"""Entries for tests: of a small memory that changes at random, epoch by epoch."""

import random
from array import array
from dataclasses import dataclass, field

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import BatchBuffers, Shadow, capture_fused
from ftvm.checkpoint import Checkpoint, Commit, Geometry, GuestPosition, Output, PageBatch, RegionShape
from ftvm.config import Limits
from ftvm.encode.merge import join_batches
from ftvm.store.entry import Entry, EntryLevel
from ftvm.store.merging import Merger
from ftvm.store.retention import Base
from ftvm.store.store import HistoryOwner, Store
from ftvm.units import PAGE_BYTES, PageCount

SECOND_NS = 1_000_000_000
START_NS = 3_600 * SECOND_NS
PAGES = 24
GEOMETRY = Geometry(machine="test/1", regions=(RegionShape(name="ram", page_count=PageCount(PAGES)),))
OWNER = HistoryOwner(guest_id="vm1", geometry=GEOMETRY)


@dataclass
class SmallGuest:
    """A memory that a "guest" writes; each `step` is an epoch. `states` holds what it was at each."""

    seed: int = 1
    epoch: int = 0
    time_ns: int = START_NS
    states: dict[int, bytes] = field(default_factory=dict)
    outputs: int = 1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.buffer = bytearray(PAGES * PAGE_BYTES)
        self.memory = NativeMemory([self.buffer])
        self.shadow = Shadow([PAGES])
        self.buffers = BatchBuffers(Limits())

    def write(self) -> None:
        for _ in range(self.chance.randrange(6)):
            at = self.chance.randrange(len(self.buffer) - 64)
            data = self.chance.randbytes(self.chance.randrange(1, 64))
            self.buffer[at : at + len(data)] = data
        if self.chance.random() < 0.1:
            page = self.chance.randrange(PAGES) * PAGE_BYTES
            self.buffer[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)

    def changes(self) -> PageBatch:
        batches = capture_fused(
            self.memory, self.shadow, array("I", range(PAGES)), limits=Limits(), buffers=self.buffers
        )
        joined = join_batches(batches)
        copied = PageBatch(
            count=joined.count,
            indices=bytes(joined.indices),
            lengths=bytes(joined.lengths),
            payload=bytes(joined.payload),
            digest=joined.digest,
        )
        self.buffers.acknowledged(*batches)
        return copied

    def step(self, apart_ns: int = SECOND_NS // 40) -> Entry:
        """Return the entry of the next epoch."""
        self.write()
        base, self.epoch, self.time_ns = self.epoch, self.epoch + 1, self.time_ns + apart_ns
        self.states[self.epoch] = bytes(self.buffer)
        said = tuple(
            Output(number=self.outputs + place, channel="console", payload=b"%d" % self.epoch)
            for place in range(self.chance.randrange(3))
        )
        self.outputs += len(said)
        return Entry(
            level=EntryLevel.FINE,
            base=base,
            epoch=self.epoch,
            time_ns=self.time_ns,
            engine="remus",
            position=GuestPosition(1000 * self.epoch, self.epoch),
            output_next=self.outputs,
            pages=self.changes(),
            memory_digest=self.shadow.memory_digest,
            dirty_pages=3,
            devices=b"devices" * 40 + b"%d" % self.epoch,
            outputs=said,
        )

    def commit(self, *, is_first: bool = False) -> Commit:
        """Return the next epoch as a backup commits it."""
        entry = self.step()
        checkpoint = Checkpoint(
            epoch=entry.epoch,
            base=entry.base,
            engine="remus",
            batches=(entry.pages,) if entry.pages.count else (),
            devices=entry.devices,
            outputs=entry.outputs,
            output_next=entry.output_next,
            log_index=0,
            memory_digest=entry.memory_digest,
            dirty_pages=entry.dirty_pages,
            position=entry.position,
        )
        return Commit(checkpoint=checkpoint, is_first=is_first, lineage="a", generation=2)


def begin(store: Store, guest: SmallGuest, merger: Merger | None = None) -> int:
    """Start a stream with a base of the memory as it is."""
    if not guest.epoch:
        guest.step()
    stream = store.catalogue.add_stream(
        uuid=f"s{guest.seed}-{guest.epoch}",
        lineage="a",
        generation=2,
        host="h",
        began_ns=guest.time_ns,
        reason="a test began",
    )
    add_base(store, stream, guest, merger)
    return stream


def add_base(store: Store, stream: int, guest: SmallGuest, merger: Merger | None = None) -> None:
    """Write a base of the present memory, whole with the next epoch."""
    whole = SmallGuest(seed=guest.seed)
    whole.buffer[:] = guest.buffer
    store.break_likeness()
    store.append(
        stream,
        Entry(level=EntryLevel.BASE, base=guest.epoch, epoch=guest.epoch, time_ns=guest.time_ns, pages=whole.changes()),
    )
    since = guest.epoch
    entry = guest.step()
    for each in merger.add(entry) if merger else ():
        store.append(stream, each)
    store.append(stream, entry)
    store.add_base(stream, Base(since=since, until=guest.epoch, time_ns=guest.time_ns))
    store.end_base_segment()
    store.commit()
