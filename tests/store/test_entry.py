from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import GuestPosition, LogKind, LogRecord, Output, PageBatch
from ftvm.errors import HistoryError
from ftvm.store.entry import (
    EMPTY_BATCH,
    Entry,
    EntryLevel,
    decode_entry,
    devices_like,
    encode_entry,
    unbroken_log,
    unbroken_outputs,
)

numbers = st.integers(0, 1 << 40)


@st.composite
def batches(draw: st.DrawFn) -> PageBatch:
    deltas = draw(st.dictionaries(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=300), max_size=20))
    indices = b"".join(page.to_bytes(4, "little") for page in sorted(deltas))
    lengths = b"".join(len(deltas[page]).to_bytes(2, "little") for page in sorted(deltas))
    payload = b"".join(deltas[page] for page in sorted(deltas))
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=len(deltas), indices=indices, lengths=lengths, payload=payload, digest=digest)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    said = draw(st.lists(st.tuples(st.sampled_from(["console", "net0"]), st.binary(max_size=50)), max_size=5))
    output_next = draw(st.integers(len(said) + 1, 1 << 40))
    first = draw(st.integers(1, 1 << 30))
    taken = draw(st.lists(st.tuples(st.sampled_from(LogKind), numbers, st.binary(max_size=30)), max_size=5))
    return Entry(
        level=draw(st.sampled_from(EntryLevel)),
        base=draw(numbers),
        epoch=draw(numbers),
        time_ns=draw(st.integers(0, 1 << 62)),
        engine=draw(st.sampled_from(["remus", "kemari"])),
        position=draw(st.none() | st.builds(GuestPosition, numbers, numbers)),
        output_next=output_next,
        log_index=draw(numbers),
        memory_digest=draw(st.integers(0, (1 << 128) - 1)),
        dirty_pages=draw(st.integers(0, 1 << 28)),
        pages=draw(batches()),
        devices=draw(st.binary(max_size=400)),
        outputs=tuple(
            Output(number=output_next - len(said) + place, channel=channel, payload=payload)
            for place, (channel, payload) in enumerate(said)
        ),
        log=tuple(
            LogRecord(
                index=first + place,
                kind=kind,
                position=GuestPosition(number, 1),
                amount=number,
                channel="net0",
                payload=payload,
            )
            for place, (kind, number, payload) in enumerate(taken)
        ),
    )


@given(entries(), st.none() | st.binary(min_size=1, max_size=500))
def test_an_entry_comes_back_as_it_was(entry: Entry, like: bytes | None) -> None:
    content = encode_entry(entry, like=None if like is None else (7, like))

    assert devices_like(content) == (None if like is None else 7)
    assert decode_entry(content, like=like or b"") == entry


def batch_of(deltas: dict[int, bytes]) -> PageBatch:
    indices = b"".join(page.to_bytes(4, "little") for page in deltas)
    lengths = b"".join(len(delta).to_bytes(2, "little") for delta in deltas.values())
    payload = b"".join(deltas.values())
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=len(deltas), indices=indices, lengths=lengths, payload=payload, digest=digest)


@pytest.mark.parametrize("level", [EntryLevel.BASE, EntryLevel.FINE, EntryLevel.SECOND], ids=lambda level: level.name)
@pytest.mark.parametrize(
    "deltas",
    [
        {(1 << 28) - 1 - 3 * place: bytes([1, place % 7, place * 29 % 16]) for place in range(900, 0, -1)},
        {place * place: b"the same words again and again, %d" % (place % 3) for place in range(400)},
        {7 * place: (place * 0x9E3779B97F4A7C15 % (1 << 128)).to_bytes(16, "big") for place in range(300)},
    ],
    ids=["numbers", "text", "noise"],
)
def test_many_pages_come_back_as_they_were_and_take_less(level: EntryLevel, deltas: dict[int, bytes]) -> None:
    entry = Entry(level=level, base=1, epoch=2, time_ns=3, pages=batch_of(deltas))

    content = encode_entry(entry)

    assert decode_entry(content) == entry
    assert len(content) < entry.pages.size_bytes


def test_device_state_that_resembles_another_takes_next_to_nothing() -> None:
    before = b"".join((7 * n % 251).to_bytes(1, "little") + bytes([n % 256]) for n in range(6_000))
    entry = Entry(level=EntryLevel.FINE, base=1, epoch=2, time_ns=3, devices=before[:9_000] + b"!" + before[9_001:])

    alone, like = encode_entry(entry), encode_entry(entry, like=(1, before))

    assert len(like) < len(alone) / 5


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(content: bytes) -> None:
    for read in (decode_entry, devices_like):
        with pytest.raises(HistoryError):
            read(content)


@given(entries(), st.data())
def test_a_changed_entry_is_refused_or_read_without_harm(entry: Entry, data: st.DataObject) -> None:
    content = bytearray(encode_entry(entry))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    with suppress(HistoryError):
        decode_entry(content)


@given(entries(), st.data())
def test_a_cut_entry_is_refused(entry: Entry, data: st.DataObject) -> None:
    content = encode_entry(entry)

    with pytest.raises(HistoryError, match="damaged"):
        decode_entry(content[: data.draw(st.integers(0, len(content) - 1))])


def test_a_length_that_no_block_can_have_is_refused_before_room_is_taken() -> None:
    content = encode_entry(Entry(level=EntryLevel.FINE, base=1, epoch=2, time_ns=3, devices=bytes(5_000)))
    huge = content.replace((5_000).to_bytes(2, "big"), (65_000).to_bytes(2, "big"))

    with pytest.raises(HistoryError, match="claims to unpack"):
        decode_entry(huge)


def test_only_outputs_and_records_without_a_gap_are_kept() -> None:
    outputs = [Output(number=number, channel="c", payload=b"") for number in (3, 4, 5)]
    record = LogRecord(index=7, kind=LogKind.CLOCK, position=GuestPosition(1, 1))

    assert unbroken_outputs(outputs, 6) == tuple(outputs)
    assert unbroken_outputs(outputs[::2], 6) == ()
    assert unbroken_outputs(outputs, 7) == ()
    assert unbroken_log([record, replace(record, index=8)]) == (record, replace(record, index=8))
    assert unbroken_log([record, replace(record, index=9)]) == ()


def test_an_entry_without_pages_is_short() -> None:
    assert len(encode_entry(Entry(level=EntryLevel.FINE, base=1, epoch=2, time_ns=3, pages=EMPTY_BATCH))) < 100
