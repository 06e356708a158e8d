from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import BadFrame
from ftvm.lab.kv import KEY_BYTES_MAX, VALUE_BYTES_MAX, Operation, Reply, ReplyStatus, Request

u64 = st.integers(0, 2**64 - 1)
keys = st.binary(max_size=KEY_BYTES_MAX)
values = st.binary(max_size=VALUE_BYTES_MAX)
requests = st.builds(Request, operation=st.sampled_from(Operation), client=u64, number=u64, key=keys, value=values)
replies = st.builds(
    Reply, status=st.sampled_from(ReplyStatus), client=u64, number=u64, uptime=u64, boot=u64, writes=u64, value=values
)


@given(requests)
def test_request_survives_its_bytes(request: Request) -> None:
    assert Request.decode(request.encode()) == request


@given(replies)
def test_reply_survives_its_bytes(reply: Reply) -> None:
    assert Reply.decode(reply.encode()) == reply


@given(requests, replies, st.data())
def test_cut_or_prolonged_messages_are_bad_frames(request: Request, reply: Reply, data: st.DataObject) -> None:
    for encoded, decode in ((request.encode(), Request.decode), (reply.encode(), Reply.decode)):
        cut = data.draw(st.integers(0, len(encoded) - 1))
        for altered in (encoded[:cut], encoded + b"\0"):
            with pytest.raises(BadFrame):
                decode(altered)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_a_bad_frame(data: bytes) -> None:
    for decode in (Request.decode, Reply.decode):
        with suppress(BadFrame):
            assert decode(data).encode() == data


def test_request_is_laid_out_as_the_guest_reads_it() -> None:
    request = Request(operation=Operation.PUT, client=2, number=3, key=b"k", value=b"vw")

    assert request.encode().hex() == ("46544b560101000100000000000000020000000000000003000200006b7677")
