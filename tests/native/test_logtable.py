"""What the C core says of a log table that somebody else made, against the same rules in Python."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm._native.logtable import check_rows
from ftvm.logtable import LOG_ROW

ROW = st.tuples(st.integers(0, 4), st.integers(0, 3), st.just(5), st.just(6), st.just(7), st.integers(0, 9))


@given(st.lists(ROW, min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 20))
def test_the_first_row_that_cannot_be_is_found(
    rows: list[tuple[int, int, int, int, int, int]], channels: int, payload_bytes: int
) -> None:
    """Mutants: a kind of 0 or 4 passes, the first channel without a name, a payload of one byte too many."""
    left, place = payload_bytes, 0
    for kind, channel, _, _, _, length in rows:
        if kind not in (1, 2, 3) or channel >= channels or length > left:
            break
        left, place = left - length, place + 1

    packed = b"".join(LOG_ROW.pack(*row) for row in rows)

    assert check_rows(packed, len(rows), channels, payload_bytes) == (place, left)


@pytest.mark.parametrize("length", [(1 << 32) - 1, 1 << 31, 11])
def test_a_length_beyond_the_payloads_wraps_around_nowhere(length: int) -> None:
    packed = LOG_ROW.pack(1, 0, 0, 0, 0, 10) + struct.pack("<BBQQQI", 1, 0, 0, 0, 0, length)

    assert check_rows(packed, 2, 1, 10) == (1, 0)
