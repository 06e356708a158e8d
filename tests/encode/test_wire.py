"""Messages to frames and back: what one side says the other understands, and nothing a peer sends does worse than a
named error."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.checkpoint import OUTPUT_ROW, Buffer, Checkpoint, Output, PageBatch
from ftvm.config import Limits
from ftvm.encode.headed import NAMES_MAX, TEXT_CHARS_MAX, seal
from ftvm.encode.messages import Ack, Copy, Envelope, EpochPart, Greeting, Leave, Message, Ping, Refuse, SessionId
from ftvm.encode.plain import NOBODY
from ftvm.encode.versions import FROZEN_FORM, SPOKEN
from ftvm.encode.wire import decode, encode
from ftvm.errors import BadFrame, ConfigError, LimitExceeded, VersionMismatch
from ftvm.interfaces import Record

from ..strategies import batches, checkpoints, envelopes, messages
from .forging import forged

LIMITS = Limits()
ENVELOPE = Envelope(guest_id="vm", sender="x", session=None, record=Record(1, "x", None), released=0)
END = Checkpoint(
    epoch=2,
    base=1,
    engine="remus",
    batches=(),
    devices=b"registers",
    outputs=(Output(number=1, channel="net0", payload=b"frame"), Output(number=2, channel="con", payload=b"")),
    output_next=3,
    log_index=0,
    memory_digest=7,
    dirty_pages=3,
)


def frames_of(message: Message, envelope: Envelope = ENVELOPE) -> list[bytes]:
    return [bytes(frame) for frame in encode(envelope, message)]


def reads_or_refuses(frames: Sequence[Buffer], kind: type | None = None) -> None:
    """Decode; pass if that gives a message (of the kind, if one is named) or one of the two errors promised."""
    for told in (frames, forged(frames)):
        try:
            _, message = decode(told, LIMITS)
        except (BadFrame, VersionMismatch):
            continue
        assert kind is None or type(message) is (Refuse if kind is Greeting and type(message) is not Greeting else kind)


def altered(message: Message, place: int, value: object) -> list[bytes]:
    """Return the frames of a message with one place of its header replaced."""
    header, *rest = frames_of(message)
    fields = msgpack.unpackb(header[:-16])
    fields[place] = value
    return [seal(msgpack.packb(fields)), *rest]


def with_field(message: Message, place: int, value: object) -> list[bytes]:
    """Return the frames of a message with one of the fields of its kind replaced."""
    header, *rest = frames_of(message)
    fields = msgpack.unpackb(header[:-16])
    fields[7][place] = value
    return [seal(msgpack.packb(fields)), *rest]


# --- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("joiner", "is_final"), [("b1", False), (NOBODY, True)])
def test_a_refusal_of_somebody_or_for_good_is_no_hello_whatever_its_reason_reads_like(
    joiner: str, is_final: bool
) -> None:
    refusal = Refuse(joiner=joiner, reason="hello none active", is_final=is_final)

    assert decode(frames_of(refusal), LIMITS) == (ENVELOPE, refusal)


@given(envelopes(), messages())
def test_every_message_comes_back_as_it_was_sent(envelope: Envelope, message: Message) -> None:
    assert decode(encode(envelope, message), LIMITS) == (envelope, message)


@given(batches())
def test_page_frames_are_the_batchs_own_buffers_not_copies(batch: PageBatch) -> None:
    frames = encode(ENVELOPE, Copy(sequence=0, round=1, batch=batch))

    assert [id(frame) for frame in frames[1:]] == [id(batch.indices), id(batch.lengths), id(batch.payload)]


@given(messages())
def test_frames_may_come_as_memoryviews(message: Message) -> None:
    frames = [memoryview(bytes(frame)) for frame in encode(ENVELOPE, message)]

    assert decode(frames, LIMITS) == (ENVELOPE, message)


def test_an_overlong_reason_is_cut_not_refused() -> None:
    for message in (Leave(reason="x" * 5000), Refuse(joiner="j", reason="x" * 5000, is_final=False)):
        _, read = decode(encode(ENVELOPE, message), LIMITS)

        assert isinstance(read, Leave | Refuse)
        assert read.reason == "x" * TEXT_CHARS_MAX


def test_the_numbers_of_outputs_follow_from_the_next_one() -> None:
    part = EpochPart(sequence=0, epoch=2, part=0, batch=None, checkpoint=END)

    _, read = decode(encode(ENVELOPE, part), LIMITS)

    assert isinstance(read, EpochPart)
    assert read.checkpoint is not None
    assert [output.number for output in read.checkpoint.outputs] == [1, 2]


def test_a_part_with_neither_pages_nor_end_is_never_sent() -> None:
    with pytest.raises(ConfigError, match="carries a batch or the end"):
        encode(ENVELOPE, EpochPart(sequence=0, epoch=1, part=0, batch=None, checkpoint=None))


def test_more_channels_than_the_table_can_name_are_refused_where_they_arise() -> None:
    said = tuple(Output(number=n + 1, channel=f"c{n}", payload=b"") for n in range(NAMES_MAX + 1))
    end = replace(END, outputs=said, output_next=len(said) + 1)

    with pytest.raises(LimitExceeded, match="output channels"):
        encode(ENVELOPE, EpochPart(sequence=0, epoch=2, part=0, batch=None, checkpoint=end))


# --- damage --------------------------------------------------------------------------------------------------------


@given(messages(), st.data())
def test_a_truncated_frame_is_a_message_of_the_same_kind_or_a_named_error(
    message: Message, data: st.DataObject
) -> None:
    frames = frames_of(message)
    place = data.draw(st.integers(0, len(frames) - 1))
    frames[place] = frames[place][: data.draw(st.integers(0, max(0, len(frames[place]) - 1)))]

    reads_or_refuses(frames, type(message))


@given(messages())
def test_every_truncation_of_the_header_is_a_named_error(message: Message) -> None:
    header, *rest = frames_of(message)

    for length in range(len(header)):
        with pytest.raises(BadFrame):
            decode([header[:length], *rest], LIMITS)


@given(messages(), st.data())
def test_a_dropped_frame_is_a_named_error(message: Message, data: st.DataObject) -> None:
    frames = frames_of(message)
    del frames[data.draw(st.integers(0, len(frames) - 1))]

    with pytest.raises((BadFrame, VersionMismatch)):
        decode(frames, LIMITS)


@given(messages(), st.data())
def test_swapped_frames_are_a_message_of_the_same_kind_or_a_named_error(message: Message, data: st.DataObject) -> None:
    frames = data.draw(st.permutations(frames_of(message)))

    reads_or_refuses(frames)


@given(messages(), st.data())
def test_an_additional_frame_is_a_named_error(message: Message, data: st.DataObject) -> None:
    frames = frames_of(message)
    frames.insert(data.draw(st.integers(1, len(frames))), data.draw(st.binary(max_size=20)))

    with pytest.raises(BadFrame):
        decode(frames, LIMITS)


@settings(max_examples=300)
@given(messages(), st.data())
def test_a_changed_byte_is_a_message_or_a_named_error(message: Message, data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in frames_of(message)]
    place = data.draw(st.sampled_from([place for place, frame in enumerate(frames) if frame]))
    offset = data.draw(st.integers(0, len(frames[place]) - 1))
    frames[place][offset] ^= data.draw(st.integers(1, 255))

    # The byte that names the kind sits in the header; only there can one message become another.
    reads_or_refuses(frames, None if place == 0 else type(message))


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_arbitrary_bytes_are_a_named_error_or_a_message(frames: list[bytes]) -> None:
    reads_or_refuses(frames)


packable = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=300)
@given(messages(), st.integers(1, 7), packable)
def test_any_value_in_any_place_of_the_header_is_a_named_error_or_a_message(
    message: Message, place: int, value: object
) -> None:
    reads_or_refuses(altered(message, place, value))


@settings(max_examples=300)
@given(messages(), st.data(), packable)
def test_any_value_in_any_field_of_a_message_is_a_named_error_or_that_message(
    message: Message, data: st.DataObject, value: object
) -> None:
    count = len(msgpack.unpackb(frames_of(message)[0][:-16])[7])

    reads_or_refuses(with_field(message, data.draw(st.integers(0, count - 1)), value), type(message))


# --- limits --------------------------------------------------------------------------------------------------------


def test_no_frames_and_too_many_frames_are_refused() -> None:
    for frames in ([], [b""] * 9):
        with pytest.raises(BadFrame, match="1 to 8 frames"):
            decode(frames, LIMITS)


def test_a_header_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(BadFrame, match="more than the limit of 65536"):
        decode([b"\x90" + bytes(LIMITS.header_bytes)], LIMITS)


def nested(depth: int) -> bytes:
    """Return msgpack of lists within lists."""
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize("depth", [3, 100, 400, 510, 900, 1020, 1100, 30_000])
@pytest.mark.parametrize("before", [b"", b"\x98\x01", b"\x98\x01\x05\xa1g\xa1s\xc0"])
def test_a_deeply_nested_header_is_refused(depth: int, before: bytes) -> None:
    with pytest.raises(BadFrame):
        decode([seal(before + nested(depth))], LIMITS)


@pytest.mark.parametrize("depth", [3, 400, 900, 1020])
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 6, 7])
def test_a_nested_list_where_a_plain_value_belongs_is_refused(place: int, depth: int) -> None:
    fields = [SPOKEN.highest, 7, "vm", "x", None, [1, "x", None], 0, [1]]
    packed = [msgpack.packb(field) for field in fields]
    packed[place] = nested(depth)

    with pytest.raises(BadFrame):
        decode([seal(b"\x98" + b"".join(packed))], LIMITS)


@pytest.mark.parametrize("value", [True, False, -1, 1 << 63, (1 << 64) - 1, float("nan"), 1.0, "1", b"1", None, [], {}])
def test_only_a_number_in_range_is_a_number(value: object) -> None:
    with pytest.raises(BadFrame, match="not a number from 0"):
        decode(with_field(Ping(number=1), 0, value), LIMITS)


@pytest.mark.parametrize("kind", [0, 13, -1, True, 1.0, None, "ping", [7], {}])
def test_an_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(BadFrame, match="no message is of kind"):
        decode(altered(Ping(number=1), 1, kind), LIMITS)


@pytest.mark.parametrize("sender", ["", "x" * 65, None, 1, b"x", ["x"]])
def test_a_sender_has_1_to_64_characters(sender: object) -> None:
    with pytest.raises(BadFrame):
        decode(altered(Ping(number=1), 3, sender), LIMITS)


def test_a_text_beyond_the_limit_is_refused() -> None:
    for text in ("x" * (TEXT_CHARS_MAX + 1), "x" * (4 * TEXT_CHARS_MAX + 1)):
        with pytest.raises(BadFrame):
            decode(with_field(Leave(reason=""), 0, text), LIMITS)


@pytest.mark.parametrize(
    "value", [msgpack.ExtType(5, b""), msgpack.ExtType(5, b"xx"), msgpack.Timestamp(1, 1)], ids=["empty", "ext", "time"]
)
def test_extension_types_are_refused_everywhere(value: object) -> None:
    for place in range(8):
        with pytest.raises((BadFrame, VersionMismatch)):
            decode(altered(Ping(number=1), place, value), LIMITS)


@pytest.mark.parametrize("flag", [0, 1, None, "true"])
def test_only_true_and_false_are_flags(flag: object) -> None:
    with pytest.raises(BadFrame, match="not true or false"):
        decode(with_field(Refuse(joiner="j", reason="", is_final=True), 2, flag), LIMITS)


@pytest.mark.parametrize("digest", [bytes(15), bytes(17), "0" * 16, 0, None])
def test_a_digest_has_16_bytes(digest: object) -> None:
    with pytest.raises(BadFrame):
        decode(with_field(Ack(received=0, epoch=0, log_index=0, memory_digest=0), 3, digest), LIMITS)


@pytest.mark.parametrize(
    "regions", [[], [["ram", 0]], [["ram", 1 << 30]], [["a", 1 << 29], ["b", 1]], [["ram"]], [["a", 1]] * 65]
)
def test_an_impossible_geometry_is_refused(regions: list[Any]) -> None:
    header = [FROZEN_FORM, 1, "vm", "x", None, [1, "x", None], 0, ["machine", regions, ["remus"], 1]]

    with pytest.raises(BadFrame):
        decode([seal(msgpack.packb(header))], LIMITS)


@given(batches(), st.integers(0, 1 << 29))
def test_a_page_count_that_the_frames_belie_is_refused(batch: PageBatch, count: int) -> None:
    frames = with_field(Copy(sequence=0, round=1, batch=batch), 2, [count, batch.digest, batch.unpacked_bytes])

    if count == batch.count:
        decode(frames, LIMITS)
        return
    with pytest.raises(BadFrame):
        decode(frames, LIMITS)


def test_a_batch_of_more_than_twice_the_limit_is_refused() -> None:
    batch = PageBatch(count=1, indices=bytes(4), lengths=bytes(2), payload=bytes((1 << 17) + 1), digest=bytes(16))
    frames = encode(ENVELOPE, Copy(sequence=0, round=1, batch=batch))

    with pytest.raises(BadFrame, match="more than twice the limit"):
        decode(frames, Limits(batch_bytes=1 << 16))


@pytest.mark.parametrize("place", [(4, 0), (4, 2), (5, 0)])
def test_a_bool_is_no_number_although_the_envelope_with_that_number_is_known(place: tuple[int, int]) -> None:
    envelope = replace(ENVELOPE, session=SessionId(1, "a", 1), record=Record(1, "a", None))
    frame = bytes(encode(envelope, Ping(number=1))[0])
    decode([frame], LIMITS)
    header = msgpack.unpackb(frame[:-16])
    header[place[0]][place[1]] = True

    with pytest.raises(BadFrame, match="True, not a number"):
        decode([seal(msgpack.packb(header))], LIMITS)


@pytest.mark.parametrize("place", [2, 3])
def test_a_list_in_the_place_of_a_name_is_refused(place: int) -> None:
    header = msgpack.unpackb(bytes(encode(ENVELOPE, Ping(number=1))[0])[:-16])
    header[place] = []

    with pytest.raises(BadFrame, match="a list stands where"):
        decode([seal(msgpack.packb(header))], LIMITS)


def test_a_batch_of_no_pages_is_refused() -> None:
    batch = PageBatch(count=0, indices=b"", lengths=b"", payload=b"", digest=bytes(16))

    with pytest.raises(BadFrame, match="a batch of no pages"):
        decode(encode(ENVELOPE, Copy(sequence=0, round=1, batch=batch)), LIMITS)


def end_frames(end: Checkpoint) -> list[Buffer]:
    return encode(ENVELOPE, EpochPart(sequence=0, epoch=end.epoch, part=0, batch=None, checkpoint=end))


def test_device_state_and_outputs_beyond_their_limits_are_refused() -> None:
    frames = end_frames(END)

    for limits in (
        Limits(devices_bytes=len(END.devices) - 1),
        Limits(outputs_held_bytes=4),
        Limits(output_bytes=4),
        Limits(outputs_held=1),
    ):
        with pytest.raises(BadFrame):
            decode(frames, limits)


@given(checkpoints(), st.data())
def test_an_output_table_that_does_not_match_its_payloads_is_refused(end: Checkpoint, data: st.DataObject) -> None:
    frames = [bytes(frame) for frame in end_frames(end)]
    place = data.draw(st.sampled_from([2, 3]))
    frames[place] += data.draw(st.binary(min_size=1, max_size=12))

    with pytest.raises(BadFrame, match="output"):
        decode(forged(frames), LIMITS)


@pytest.mark.parametrize("number", [2, 3, 255])
def test_an_output_of_a_channel_that_has_no_name_is_refused(number: int) -> None:
    """Mutant: the number behind the last is let through, and the standby breaks when somebody asks for the output."""
    frames = [bytes(frame) for frame in end_frames(END)]
    place = next(place for place, frame in enumerate(frames) if len(frame) == 2 * OUTPUT_ROW.size)
    frames[place] = OUTPUT_ROW.pack(number, 5) + frames[place][OUTPUT_ROW.size :]

    with pytest.raises(BadFrame, match=f"output 0 of the table names channel {number} and 5 bytes"):
        decode(forged(frames), LIMITS)


def test_a_table_with_more_outputs_than_numbers_is_refused() -> None:
    with pytest.raises(BadFrame, match="cannot be"):
        decode(end_frames(replace(END, output_next=2)), LIMITS)


# --- digests -------------------------------------------------------------------------------------------------------


@given(envelopes(), messages(), st.data())
def test_a_bit_that_flips_anywhere_in_a_message_is_noticed(
    envelope: Envelope, message: Message, data: st.DataObject
) -> None:
    """Whatever carries the messages. The frames of a batch have their own digest, checked with its pages."""
    frames = frames_of(message, envelope)
    if getattr(message, "batch", None) is not None:
        del frames[1:]
    place = data.draw(st.sampled_from([place for place, frame in enumerate(frames) if frame]))
    bit = data.draw(st.integers(0, 8 * len(frames[place]) - 1))
    flipped = bytearray(frames[place])
    flipped[bit // 8] ^= 1 << bit % 8

    with pytest.raises(BadFrame):
        decode([*frames[:place], bytes(flipped), *frames_of(message, envelope)[place + 1 :]], LIMITS)


def test_every_bit_of_the_end_of_an_epoch_is_guarded() -> None:
    frames = [bytes(frame) for frame in end_frames(END)]
    for place, frame in enumerate(frames):
        for bit in range(8 * len(frame)):
            flipped = bytearray(frame)
            flipped[bit // 8] ^= 1 << bit % 8

            with pytest.raises(BadFrame):
                decode([*frames[:place], bytes(flipped), *frames[place + 1 :]], LIMITS)


# --- versions ------------------------------------------------------------------------------------------------------


@given(messages(), st.integers(-(1 << 63), (1 << 64) - 1).filter(lambda version: version not in SPOKEN))
def test_another_version_is_told_apart_with_both_numbers(message: Message, version: int) -> None:
    with pytest.raises(VersionMismatch) as caught:
        decode(altered(message, 0, version), LIMITS)

    assert (caught.value.ours, caught.value.theirs) == (SPOKEN, version)


def test_a_later_version_may_have_any_header_behind_its_number() -> None:
    with pytest.raises(VersionMismatch, match="ours is 1 to 2, the peer's is 3"):
        decode([seal(msgpack.packb([3, "whatever", [1, 2, 3]]))], LIMITS)


@pytest.mark.parametrize("version", [True, 1.0, "1", None, [1]])
def test_a_version_that_is_no_number_is_noise(version: object) -> None:
    with pytest.raises(BadFrame, match="starts with a version"):
        decode(altered(Ping(number=1), 0, version), LIMITS)
