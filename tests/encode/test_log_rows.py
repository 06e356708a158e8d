"""The log table of a peer is read if it can be one, within the limits, and refused by what is wrong with it if not."""

import pytest

from ftvm.checkpoint import LogKind
from ftvm.config import Limits
from ftvm.encode import stream
from ftvm.errors import BadFrame
from ftvm.logtable import LOG_ROW

LIMITS = Limits()


def a_log(count: int, payload: bytes = b"") -> tuple[bytes, bytes]:
    """Return the rows of so many records, all of one channel, and the payload of the first."""
    lengths = [len(payload), *[0] * (count - 1)]
    return b"".join([LOG_ROW.pack(LogKind.INPUT.value, 0, 1, 0, 0, length) for length in lengths[:count]]), payload


@pytest.mark.parametrize(("count", "size_bytes"), [(2, 0), (1, 3)], ids=["records", "bytes"])
def test_a_log_table_of_as_much_as_the_limits_say_is_read_and_one_of_more_is_refused(
    count: int, size_bytes: int
) -> None:
    """Mutants: each limit is one lower, one higher, or nobody's."""
    limits = Limits(log_records=2, log_bytes=3)
    table, payloads = a_log(count, bytes(size_bytes))
    larger = a_log(count + 1) if not size_bytes else a_log(count, bytes(size_bytes + 1))

    assert len(stream.unpack_records(7, ("net0",), table, payloads, limits)) == count

    with pytest.raises(BadFrame, match=r"a log table of .* cannot be"):
        stream.unpack_records(7, ("net0",), *larger, limits)


@pytest.mark.parametrize(
    ("table", "payloads", "names", "why"),
    [
        (b"", b"", ("net0",), "a log table of 0 bytes"),
        (a_log(1)[0] + b"\0", b"", ("net0",), "a log table of 31 bytes"),
        (*a_log(1, b"x"), (), "log record 7 is of kind 1, channel 0, 1 bytes"),
        (a_log(1, b"x")[0], b"xy", ("net0",), "log records use 1 of 2 payload bytes"),
        (a_log(2)[0] + LOG_ROW.pack(9, 0, 1, 0, 0, 0), b"", ("net0",), "log record 9 is of kind 9"),
    ],
    ids=["empty", "a part of a row", "a channel without a name", "bytes of no record", "no kind"],
)
def test_a_log_table_that_cannot_be_is_refused_with_what_is_wrong(
    table: bytes, payloads: bytes, names: tuple[str, ...], why: str
) -> None:
    with pytest.raises(BadFrame, match=why):
        stream.unpack_records(7, names, table, payloads, LIMITS)
