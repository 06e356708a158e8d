"""A packed table is its outputs: however it was made, cut, joined or forgotten, it tells the same as they do."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import NO_OUTPUTS, Output, OutputTable, joined_outputs
from ftvm.encode.stream import pack_outputs
from ftvm.errors import InternalError, LimitExceeded
from ftvm.protocol.standby.commit import KeptOutputs

from .strategies import outputs

CUTS = st.sets(st.integers(0, 12))


def pieces_of(said: tuple[Output, ...], cuts: set[int]) -> list[OutputTable]:
    """Return tables of the outputs, cut at these places."""
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    return [OutputTable.of(said[start:end]) for start, end in pairwise(places)]


@given(outputs(most=9))
def test_a_table_tells_what_its_outputs_do(said: tuple[Output, ...]) -> None:
    table = OutputTable.of(said)

    assert tuple(table) == said
    assert table == said
    assert hash(table) == hash(said)
    assert len(table) == len(said)
    assert table.lengths == [len(output.payload) for output in said]
    assert table.payloads == b"".join(output.payload for output in said)
    assert OutputTable.of(table) is table
    if said:
        assert (table.first, table.last) == (said[0].number, said[-1].number)
        assert (table[0], table[-1]) == (said[0], said[-1])


@given(outputs(most=9), CUTS)
def test_pieces_that_are_joined_are_the_table_of_all_byte_for_byte(said: tuple[Output, ...], cuts: set[int]) -> None:
    """Mutant: each piece keeps its own numbers for channels, and frames go to the console."""
    whole, again = OutputTable.of(said), joined_outputs([NO_OUTPUTS, *pieces_of(said, cuts)])

    assert again == said
    assert (again.channels, again.rows, again.payloads) == (whole.channels, whole.rows, whole.payloads)


@given(outputs(most=9), st.integers(-2, 14))
def test_what_is_behind_a_number_names_no_channel_that_nothing_in_it_is_of(
    said: tuple[Output, ...], covered: int
) -> None:
    number = (said[0].number if said else 1) + covered
    above = tuple(output for output in said if output.number > number)

    behind = OutputTable.of(said).behind(number)

    assert behind == above
    assert pack_outputs(behind) == pack_outputs(above)


@given(outputs(most=9), CUTS, st.integers(-2, 14))
def test_what_has_left_is_forgotten_and_no_output_more(said: tuple[Output, ...], cuts: set[int], covered: int) -> None:
    """Mutants: a table is forgotten with its first output; one of which a part has left is kept whole."""
    kept = KeptOutputs(pieces_of(said, cuts))
    number = (said[0].number if said else 1) + covered
    above = tuple(output for output in said if output.number > number)

    kept.forget(number)

    assert tuple(kept) == above
    assert len(kept) == len(above)
    assert all(output in kept for output in above)


def test_a_gap_in_the_numbers_is_our_bug() -> None:
    with pytest.raises(InternalError, match="output 4 was emitted after 2"):
        OutputTable.of([Output(number=number, channel="c", payload=b"") for number in (1, 2, 4)])


def test_more_channels_than_a_row_can_tell_apart_are_refused() -> None:
    said = [Output(number=1 + place, channel=f"channel{place}", payload=b"x") for place in range(257)]

    with pytest.raises(LimitExceeded, match="output channels"):
        OutputTable.of(said)
    with pytest.raises(LimitExceeded, match="output channels"):
        joined_outputs([OutputTable.of([output]) for output in said])
    assert OutputTable.of(said[:256])[255].channel == "channel255"
