"""The output outputs: nothing passes before every configuration that may be in force allows it, and then in order."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import NOTHING_SAFE, Output, Watermarks
from ftvm.errors import InternalError
from ftvm.interfaces import Record
from ftvm.protocol.active.output import OutputBuffer, standbys_in_force
from ftvm.testing.strategies import watermarks
from ftvm.units import Nanos

NOW = Nanos(77)
NOBODY = (None, "y", "z")


def make_gate(*needs: Watermarks, released: int = 0) -> OutputBuffer:
    outputs = OutputBuffer(released)
    for place, needed in enumerate(needs):
        outputs.hold(Output(number=released + 1 + place, channel="c", payload=b"x" * (place + 1)), needed, NOW)
    return outputs


def numbers(taken: list[object]) -> list[int]:
    return [held.output.number for held in taken]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("known", "proposed", "joining", "in_session", "is_acked"),
    list(product(NOBODY, ("no proposal", *NOBODY), NOBODY, NOBODY, (False, True))),
)
def test_an_output_leaves_only_when_all_that_may_be_in_force_allow_it(
    known: str | None, proposed: str | None, joining: str | None, in_session: str | None, is_acked: bool
) -> None:
    proposal = None if proposed == "no proposal" else Record(2, "x", proposed)
    must = {known, joining, *(() if proposal is None else (proposal.standby,))} - {None}
    outputs = make_gate(Watermarks(1, 0))
    acknowledged = None if in_session is None else (in_session, Watermarks(int(is_acked), 0))

    left = outputs.open_for(standbys_in_force(Record(1, "x", known), proposal, joining), acknowledged)

    assert bool(left) == all(standby == in_session and is_acked for standby in must)


@given(st.lists(watermarks(4), max_size=8), st.lists(st.tuples(st.sampled_from(["y", "z", None]), watermarks(4))))
def test_the_gate_agrees_with_a_naive_model(
    needs: list[Watermarks], openings: list[tuple[str | None, Watermarks]]
) -> None:
    outputs = make_gate(*needs)
    model = list(enumerate(needs, start=1))
    for standby, safe in openings:
        expected = []
        while model and (standby is None or (standby == "y" and safe.cover(model[0][1]))):
            expected.append(model.pop(0)[0])

        left = outputs.open_for({standby}, ("y", safe))

        assert numbers(left) == expected
        assert outputs.released == len(needs) - len(model)
        assert [output.number for output in outputs.above(0)] == [number for number, _ in model]
        assert outputs.held_bytes == sum(number for number, _ in model)


def test_an_output_never_overtakes_one_that_waits() -> None:
    outputs = make_gate(Watermarks(2, 0), NOTHING_SAFE)

    assert outputs.open_for({"y"}, ("y", Watermarks(1, 0))) == []
    assert numbers(outputs.open_for({"y"}, ("y", Watermarks(2, 0)))) == [1, 2]


def test_a_watermark_covers_both_marks_or_nothing() -> None:
    outputs = make_gate(Watermarks(1, 5))

    assert outputs.open_for({"y"}, ("y", Watermarks(9, 4))) == []
    assert outputs.open_for({"y"}, ("y", Watermarks(0, 9))) == []
    assert numbers(outputs.open_for({"y"}, ("y", Watermarks(1, 5)))) == [1]


def test_a_gap_in_the_numbers_is_our_bug() -> None:
    for released, number in ((0, 2), (0, 0), (5, 5), (5, 7)):
        outputs = OutputBuffer(released)

        with pytest.raises(InternalError, match=f"output {number} was emitted after {released}"):
            outputs.hold(Output(number=number, channel="c", payload=b""), NOTHING_SAFE, NOW)


def test_above_tells_what_a_checkpoint_must_carry() -> None:
    outputs = make_gate(*[NOTHING_SAFE] * 4, released=10)

    assert [output.number for output in outputs.above(12)] == [13, 14]
