"""Hypothesis strategies for ftvm's values: records, outputs, batches, checkpoints, envelopes and every message.

What they draw is valid by construction and small enough to shrink well, but reaches the edges that the formats have:
empty texts, absent fields, the largest numbers, outputs of no bytes. They know nothing about what a guest would really
send: the page deltas of a batch are arbitrary bytes, sealed with their right digest.
"""

from array import array
from dataclasses import replace
from typing import Final

from hypothesis import strategies as st

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import (
    PAGE_COUNT_MAX,
    Checkpoint,
    Geometry,
    GuestPosition,
    LogKind,
    LogRecord,
    Output,
    PageBatch,
    RegionShape,
    Watermarks,
    bitmap_bytes,
)
from ftvm.encode.messages import (
    Ack,
    CacheDigests,
    CacheKept,
    Copy,
    Envelope,
    EpochPart,
    Greeting,
    Join,
    Leave,
    Log,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Refuse,
    SessionId,
    Welcome,
)
from ftvm.encode.versions import CACHE_SINCE, FLAT_SINCE, FROZEN_FORM, SPOKEN, VERSION_MAX, Versions
from ftvm.interfaces import Record
from ftvm.logtable import LogTable
from ftvm.units import PAGE_BYTES, PageCount

__all__ = [
    "batches",
    "cache_messages",
    "checkpoints",
    "envelopes",
    "geometries",
    "identities",
    "logs",
    "memories",
    "messages",
    "outputs",
    "positions",
    "records",
    "sessions",
    "watermarks",
    "writes",
]

_NUMBER_MAX: Final = (1 << 63) - 1
_DIGEST_MAX: Final = (1 << 128) - 1

_numbers = st.integers(0, _NUMBER_MAX)
_digests = st.integers(0, _DIGEST_MAX)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def identities() -> st.SearchStrategy[str]:
    """Draw a name as the wire allows: 1 to 64 characters."""
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


def records() -> st.SearchStrategy[Record]:
    """Draw a record of any generation; nobody, one or two replicas in it."""
    return st.builds(Record, _numbers, st.none() | identities(), st.none() | identities())


def geometries() -> st.SearchStrategy[Geometry]:
    """Draw the shape of a small guest of up to four regions."""
    region = st.builds(RegionShape, name=_texts, page_count=st.integers(1, 1 << 20).map(PageCount))
    return st.builds(Geometry, machine=_texts, regions=st.lists(region, min_size=1, max_size=4).map(tuple))


def sessions() -> st.SearchStrategy[SessionId]:
    """Draw the id of a session."""
    return st.builds(SessionId, _numbers, identities(), _numbers, st.integers(SPOKEN.lowest, SPOKEN.highest))


def watermarks(most: int = 8) -> st.SearchStrategy[Watermarks]:
    """Draw two marks, each from 0 to `most`."""
    return st.builds(Watermarks, st.integers(0, most), st.integers(0, most))


@st.composite
def batches(draw: st.DrawFn, page_count: int = 1 << 20) -> PageBatch:
    """Draw a batch: indices rise, lengths fit the payload, the digest is right; the deltas are noise."""
    indices = sorted(draw(st.sets(st.integers(0, page_count - 1), min_size=1, max_size=6)))
    deltas = [draw(st.binary(max_size=40)) for _ in indices]
    index_bytes = array("I", indices).tobytes()
    length_bytes = array("H", map(len, deltas)).tobytes()
    payload = b"".join(deltas)
    return PageBatch(
        count=len(indices),
        indices=index_bytes,
        lengths=length_bytes,
        payload=payload,
        digest=batch_digest(index_bytes, length_bytes, payload),
        unpacked_bytes=draw(st.just(0) | st.integers(0, 1 << 16)),
    )


@st.composite
def outputs(draw: st.DrawFn, first: int | None = None, most: int = 5) -> tuple[Output, ...]:
    """Draw outputs in the order of their numbers, without gaps, from `first` (or anywhere) on."""
    start = draw(st.integers(1, 1 << 40)) if first is None else first
    said = draw(st.lists(st.tuples(identities(), st.binary(max_size=60)), max_size=most))
    return tuple(
        Output(number=start + place, channel=channel, payload=payload) for place, (channel, payload) in enumerate(said)
    )


@st.composite
def checkpoints(draw: st.DrawFn, epoch: int | None = None) -> Checkpoint:
    """Draw a checkpoint without its batches, as the last part of an epoch carries it."""
    emitted = draw(outputs())
    first = emitted[0].number if emitted else draw(st.integers(1, 1 << 40))
    return Checkpoint(
        epoch=draw(_numbers) if epoch is None else epoch,
        base=draw(_numbers),
        engine=draw(identities()),
        batches=(),
        devices=draw(st.binary(max_size=60)),
        outputs=emitted,
        output_next=first + len(emitted),
        log_index=draw(_numbers),
        memory_digest=draw(_digests),
        dirty_pages=draw(st.integers(0, 1 << 28)),
        page_digests=b"".join(draw(st.lists(st.binary(min_size=20, max_size=20), max_size=3))),
        position=draw(st.none() | positions()),
    )


def positions() -> st.SearchStrategy[GuestPosition]:
    """Draw a place in a guest's run."""
    return st.builds(GuestPosition, _numbers, _numbers)


@st.composite
def logs(draw: st.DrawFn, first: int | None = None) -> tuple[LogRecord, ...]:
    """Draw one to five log records of consecutive indices, from `first` (or anywhere) on."""
    start = draw(st.integers(1, 1 << 40)) if first is None else first
    record = st.tuples(st.sampled_from(LogKind), positions(), _numbers, _texts, st.binary(max_size=60))
    drawn = draw(st.lists(record, min_size=1, max_size=5))
    return tuple(
        LogRecord(index=start + place, kind=kind, position=position, amount=amount, channel=channel, payload=payload)
        for place, (kind, position, amount, channel, payload) in enumerate(drawn)
    )


def envelopes() -> st.SearchStrategy[Envelope]:
    """Draw an envelope, in session or not."""
    return st.builds(
        Envelope,
        guest_id=identities(),
        sender=identities(),
        session=st.none() | sessions(),
        record=records(),
        released=_numbers,
    )


@st.composite
def _epoch_parts(draw: st.DrawFn, version: int) -> EpochPart:
    end = draw(st.none() | checkpoints())
    if end is not None and version >= FLAT_SINCE:
        end = replace(end, has_flush=draw(st.booleans()))
    return EpochPart(
        sequence=draw(_numbers),
        epoch=draw(_numbers) if end is None else end.epoch,
        part=draw(_numbers),
        batch=draw(batches()) if end is None or (version >= FLAT_SINCE and draw(st.booleans())) else None,
        checkpoint=end,
    )


def cache_messages() -> st.SearchStrategy[CacheDigests | CacheKept]:
    """Draw what is said of the pages that a joiner still has."""
    digests = st.lists(st.binary(min_size=16, max_size=16), max_size=4).map(b"".join)
    first = st.integers(0, PAGE_COUNT_MAX)
    offered = st.builds(CacheDigests, sequence=_numbers, first=first, digests=digests, is_last=st.booleans())
    return offered | _keeps()


@st.composite
def _keeps(draw: st.DrawFn) -> CacheKept:
    pages = draw(st.integers(0, 200))
    size = bitmap_bytes(pages)
    kept = draw(st.binary(min_size=size, max_size=size))
    return CacheKept(sequence=draw(_numbers), first=draw(st.integers(0, PAGE_COUNT_MAX)), pages=pages, kept=kept)


_image_names = st.text("0123456789abcdef", min_size=16, max_size=16)


def ranges_of_versions() -> st.SearchStrategy[Versions]:
    """Draw what a host may offer to speak."""
    ends = st.tuples(st.integers(1, VERSION_MAX), st.integers(1, VERSION_MAX))
    return ends.map(lambda pair: Versions(min(pair), max(pair)))


_places = st.just("") | st.text("0123456789abcdef", min_size=32, max_size=32)


def messages(version: int = FROZEN_FORM) -> st.SearchStrategy[Message]:
    """Draw a message of any kind, of those that this version of the wire can carry."""
    return st.one_of(
        st.builds(
            Join,
            geometry=geometries(),
            engines=st.lists(identities(), max_size=4).map(tuple),
            staging_bytes=_numbers,
            versions=ranges_of_versions(),
            images=st.lists(_image_names, max_size=3, unique=True).map(tuple),
            place=st.none() | _places,
            has_cache=st.booleans(),
        ),
        st.builds(Greeting, place=st.none() | _places, role=st.sampled_from(["empty", "syncing", "standby", "active"])),
        st.builds(
            Welcome,
            joiner=identities(),
            engines=st.lists(identities(), max_size=4).map(tuple),
            staging_bytes=_numbers,
            versions=ranges_of_versions(),
            lineage=st.just("") | _image_names,
            takes_cache=st.booleans(),
        ),
        st.builds(Refuse, joiner=identities(), reason=_texts, is_final=st.booleans()),
        st.builds(Copy, sequence=_numbers, round=_numbers, batch=batches()),
        _epoch_parts(version),
        st.builds(Log, sequence=_numbers, records=logs().map(LogTable.of)),
        st.builds(Ack, received=_numbers, epoch=_numbers, log_index=_numbers, memory_digest=_digests),
        st.builds(Ping, number=_numbers),
        st.builds(Pong, number=_numbers),
        st.builds(Prepare, epoch=_numbers),
        st.builds(Prepared, epoch=_numbers, error=_texts),
        st.builds(Leave, reason=_texts, is_end=st.booleans()),
        *([cache_messages()] if version >= CACHE_SINCE else []),
    )


def writes(memory_bytes: int, most: int = 20) -> st.SearchStrategy[list[tuple[int, bytes]]]:
    """Draw a pattern of writes as (offset, content): anywhere, at the edges of pages, and across them."""
    edges = st.integers(0, max(0, memory_bytes // PAGE_BYTES - 1)).flatmap(
        lambda page: st.integers(-4, 4).map(lambda by: min(max(0, page * PAGE_BYTES + by), memory_bytes - 1))
    )
    offsets = st.integers(0, memory_bytes - 1) | edges
    write = st.tuples(offsets, st.binary(min_size=1, max_size=64) | st.just(bytes(64)))
    return st.lists(write.map(lambda one: (one[0], one[1][: memory_bytes - one[0]])), max_size=most)


def memories(page_count: int = 8) -> st.SearchStrategy[bytes]:
    """Draw the content of so many pages: zero but for a few writes, as a young guest's is."""

    def filled(pattern: list[tuple[int, bytes]]) -> bytes:
        content = bytearray(page_count * PAGE_BYTES)
        for offset, piece in pattern:
            content[offset : offset + len(piece)] = piece
        return bytes(content)

    return writes(page_count * PAGE_BYTES).map(filled)
