"""Messages in one frame: they come back as they were sent, only what is small goes so, and no bytes do worse than a
named error."""

import struct
from collections.abc import Sequence
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import PAGE_DIGEST_ROW, Buffer, Checkpoint, GuestPosition, LogKind, LogRecord, Output, PageBatch
from ftvm.config import Limits
from ftvm.encode import stream
from ftvm.encode.headed import seal
from ftvm.encode.messages import Ack, Copy, Envelope, EpochPart, Log, Message, Ping, SessionId
from ftvm.encode.versions import FLAT_SINCE, SPOKEN
from ftvm.encode.wire import FLAT_BYTES_MAX, MARK, decode, encode, read_header
from ftvm.errors import BadFrame, ConfigError, VersionMismatch
from ftvm.interfaces import Record
from ftvm.logtable import NO_LOG, LogTable

from ..strategies import envelopes, logs, messages, sessions
from .forging import forged

LIMITS = Limits()
SESSION = SessionId(3, "x", 1, FLAT_SINCE)
ENVELOPE = Envelope(guest_id="vm", sender="x", session=SESSION, record=Record(1, "x", "y"), released=9)
LOG = Log(
    sequence=3,
    records=LogTable.of([LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(1, 0), payload=b"x")]),
)
ACK = Ack(received=4, epoch=2, log_index=7, memory_digest=5)
INDICES, LENGTHS, PAYLOAD = struct.pack("<II", 3, 9), struct.pack("<HH", 2, 3), b"abcde"
BATCH = PageBatch(
    count=2, indices=INDICES, lengths=LENGTHS, payload=PAYLOAD, digest=batch_digest(INDICES, LENGTHS, PAYLOAD)
)
END = Checkpoint(
    epoch=2,
    base=1,
    engine="kemari",
    batches=(),
    devices=b"registers",
    outputs=(Output(number=1, channel="net0", payload=b"frame"), Output(number=2, channel="con", payload=b"")),
    output_next=3,
    log_index=0,
    memory_digest=7,
    dirty_pages=3,
    page_digests=PAGE_DIGEST_ROW.pack(3, bytes(16)),
    position=GuestPosition(5, 6),
)
EPOCH = EpochPart(sequence=1, epoch=2, part=0, batch=BATCH, checkpoint=END)
HEAD_BYTES = 16


def one_frame(message: Message, envelope: Envelope = ENVELOPE) -> bytes:
    (frame,) = encode(envelope, message)
    return bytes(frame)


def reads_or_refuses(frames: Sequence[Buffer]) -> None:
    for told in (frames, forged(frames)):
        try:
            decode(told, LIMITS)
        except (BadFrame, VersionMismatch):
            continue


# --- what goes in one frame -------------------------------------------------------------------------------------------


@given(envelopes(), sessions(), messages(FLAT_SINCE))
def test_every_message_of_a_session_comes_back_as_it_was_sent(
    envelope: Envelope, session: SessionId, message: Message
) -> None:
    told = replace(envelope, session=replace(session, version=FLAT_SINCE))

    assert decode(encode(told, message), LIMITS) == (told, message)


@given(logs())
def test_a_log_and_an_acknowledgement_and_a_small_epoch_are_one_frame(records: tuple[LogRecord, ...]) -> None:
    for message in (ACK, EPOCH, Log(sequence=3, records=LogTable.of(records))):
        frames = encode(ENVELOPE, message)

        assert len(frames) == 1
        assert frames[0][0] == MARK
        assert decode(frames, LIMITS) == (ENVELOPE, message)


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_what_is_larger_than_the_bound_goes_in_several_frames(room: int) -> None:
    rest = len(one_frame(EPOCH)) - len(END.devices)
    message = replace(EPOCH, checkpoint=replace(END, devices=bytes(FLAT_BYTES_MAX - rest - room)))

    frames = encode(ENVELOPE, message)

    assert len(frames) == (1 if room >= 0 else 8)
    assert decode(frames, LIMITS) == (ENVELOPE, message)


def test_a_rare_message_and_one_of_an_older_session_keep_their_form() -> None:
    older = replace(ENVELOPE, session=replace(SESSION, version=FLAT_SINCE - 1))

    for envelope, message in ((ENVELOPE, Ping(number=1)), (older, ACK), (replace(ENVELOPE, session=None), ACK)):
        assert encode(envelope, message)[0][0] != MARK


def test_pages_of_the_first_copy_are_never_copied() -> None:
    frames = encode(ENVELOPE, Copy(sequence=0, round=1, batch=BATCH))

    assert [id(frame) for frame in frames[1:]] == [id(BATCH.indices), id(BATCH.lengths), id(BATCH.payload)]


def test_an_older_session_cannot_say_pages_and_end_in_one() -> None:
    older = replace(ENVELOPE, session=replace(SESSION, version=FLAT_SINCE - 1))

    with pytest.raises(ConfigError, match="not both"):
        encode(older, EPOCH)


def test_who_reads_the_head_alone_knows_whose_message_it_is_and_whether_it_builds_state() -> None:
    assert [read_header(encode(ENVELOPE, message), LIMITS).builds_state for message in (ACK, EPOCH)] == [False, True]
    assert read_header(encode(ENVELOPE, EPOCH), LIMITS).envelope == ENVELOPE


@given(st.integers(0, (1 << 63) - 1))
def test_the_released_number_is_each_messages_own(released: int) -> None:
    told = replace(ENVELOPE, released=released)

    assert decode(encode(told, ACK), LIMITS) == (told, ACK)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [ACK, EPOCH], ids=["ack", "epoch"])
def test_every_truncation_is_refused_also_with_the_right_digest(message: Message) -> None:
    frame = one_frame(message)

    for length in range(len(frame)):
        with pytest.raises(BadFrame):
            decode([frame[:length]], LIMITS)
    for length in range(len(frame) - 16):
        with pytest.raises((BadFrame, VersionMismatch)):
            decode([seal(frame[:length])], LIMITS)


@given(messages(FLAT_SINCE), st.data())
def test_a_changed_bit_is_refused(message: Message, data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in encode(ENVELOPE, message)]
    if len(frames) > 1 or frames[0][0] != MARK:
        return
    place = data.draw(st.integers(1, len(frames[0]) - 1))
    frames[0][place] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(BadFrame, match="digest mismatch"):
        decode(frames, LIMITS)


@settings(max_examples=500)
@given(messages(FLAT_SINCE), st.data())
def test_changed_bytes_with_the_right_digest_are_a_message_or_a_named_error(
    message: Message, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in encode(ENVELOPE, message)]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(frames[0]) - 1))
        frames[0][place] = data.draw(st.integers(0, 255))

    reads_or_refuses(frames)


@settings(max_examples=300)
@given(st.sampled_from([5, 6, 10, 0, 7]), st.binary(max_size=200))
def test_arbitrary_bytes_behind_a_good_head_are_a_message_or_a_named_error(kind: int, body: bytes) -> None:
    frame = one_frame(ACK)
    prefix = frame[HEAD_BYTES : HEAD_BYTES + frame[4]]

    reads_or_refuses([struct.pack("<BBBBHHq", MARK, FLAT_SINCE, kind, 0, len(prefix), 0, 0) + prefix + body])


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_second_frame_is_refused(more: bytes) -> None:
    with pytest.raises(BadFrame, match="one frame, not 2"):
        decode([one_frame(ACK), more], LIMITS)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (ACK, "of 41 bytes is not of 40"),
        (replace(EPOCH, checkpoint=None), "1 bytes too many"),
        (EPOCH, "outputs use 5 of 6 payload bytes"),
        (LOG, "log records use 1 of 2 payload bytes"),
    ],
)
def test_a_byte_too_many_is_refused(message: Message, named: str) -> None:
    with pytest.raises(BadFrame, match=named):
        decode([seal(one_frame(message)[:-16] + b"\0")], LIMITS)


@pytest.mark.parametrize("message", [replace(EPOCH, checkpoint=None), EPOCH, Log(sequence=3, records=NO_LOG)])
def test_a_body_that_ends_early_is_refused_wherever_it_ends(message: Message) -> None:
    frame = one_frame(message)
    body_at = HEAD_BYTES + frame[4] + frame[6]

    for end in range(body_at, len(frame) - 16):
        with pytest.raises(BadFrame):
            decode([seal(frame[:end])], LIMITS)


def test_a_frame_beyond_the_bound_is_refused_unread() -> None:
    with pytest.raises(BadFrame, match="not within"):
        decode([bytes([MARK]) * (FLAT_BYTES_MAX + 1)], LIMITS)


# --- each field -------------------------------------------------------------------------------------------------------


def head_with(place: int, value: int) -> bytes:
    frame = bytearray(one_frame(ACK)[:-16])
    frame[place] = value
    return seal(bytes(frame))


def test_another_version_is_told_apart_from_noise() -> None:
    with pytest.raises(VersionMismatch):
        decode([head_with(1, SPOKEN.highest + 1)], LIMITS)


@pytest.mark.parametrize(("place", "value"), [(1, FLAT_SINCE - 1), (2, 7), (2, 4), (3, 1), (15, 0x80)])
def test_a_head_that_nobody_writes_is_refused(place: int, value: int) -> None:
    with pytest.raises(BadFrame, match="starts like this"):
        decode([head_with(place, value)], LIMITS)


def test_lengths_in_the_head_are_compared_with_the_frame() -> None:
    for place in (4, 5, 6, 7):
        with pytest.raises(BadFrame):
            decode([head_with(place, 0xFF)], LIMITS)


@pytest.mark.parametrize("number", range(3))
def test_an_acknowledgement_counts_from_0(number: int) -> None:
    frame = bytearray(one_frame(ACK)[:-16])
    frame[len(frame) - 40 + 8 * number + 7] |= 0x80

    with pytest.raises(BadFrame):
        decode([seal(bytes(frame))], LIMITS)


@pytest.mark.parametrize(
    "prefix",
    [
        b"",
        b"\xc0",
        msgpack.packb(["vm", "x", 1, "x", [], 3, "x", 1]),
        b"\x91" * 40,
        msgpack.packb(["vm", "x", True, "x", None, 3, "x", 1]),
    ],
)
def test_a_prefix_that_is_none_is_refused(prefix: bytes) -> None:
    body = one_frame(ACK)[:-16][-40:]
    head = struct.pack("<BBBBHHq", MARK, FLAT_SINCE, 6, 0, len(prefix), 0, 0)

    with pytest.raises(BadFrame):
        decode([seal(head + prefix + body)], LIMITS)


def test_limits_hold_in_this_form_too() -> None:
    small = Limits(batch_bytes=1 << 16, devices_bytes=4096, log_records=2, outputs_held=1)
    many = replace(EPOCH, checkpoint=replace(END, devices=bytes(5000)))
    bomb = replace(EPOCH, batch=replace(BATCH, unpacked_bytes=1 << 17))

    for message in (many, bomb, EPOCH):
        with pytest.raises(BadFrame):
            decode([one_frame(message)], small)


def test_a_part_of_neither_pages_nor_end_is_refused() -> None:
    frame = bytearray(one_frame(replace(EPOCH, checkpoint=None))[:-16])
    at = HEAD_BYTES + frame[4] + 24
    assert frame[at] == 1

    for flags in (0, 4, 8, 9, 0xFF):
        frame[at] = flags
        with pytest.raises(BadFrame):
            decode([seal(bytes(frame))], LIMITS)


@pytest.mark.parametrize("devices", [b"registers", bytes(FLAT_BYTES_MAX)], ids=["flat", "several frames"])
def test_an_epoch_says_that_it_holds_no_flush_in_either_form_and_counts_as_one_that_does_if_it_does_not(
    devices: bytes,
) -> None:
    calm = replace(EPOCH, checkpoint=replace(END, devices=devices, has_flush=False))
    old = replace(EPOCH, batch=None, checkpoint=calm.checkpoint)
    session = replace(SESSION, version=1)

    told = decode(encode(ENVELOPE, calm), LIMITS)[1]
    said = decode(encode(replace(ENVELOPE, session=session), old), LIMITS)[1]

    assert told == calm
    assert isinstance(said, EpochPart)
    assert said.checkpoint == replace(END, devices=devices, has_flush=True)


def test_what_is_no_end_cannot_say_that_an_epoch_holds_no_flush() -> None:
    part = EpochPart(sequence=1, epoch=2, part=0, batch=BATCH, checkpoint=None)
    fields, frames = stream._pack_part(part)

    for calm in (1, 2, True, "1"):
        with pytest.raises(BadFrame, match="holds no flush"):
            stream._unpack_part([*fields[:-1], calm], tuple(frames), LIMITS)
