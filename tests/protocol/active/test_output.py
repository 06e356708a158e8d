"""The release rule: nothing passes before every configuration that may be in force allows it, and then in order."""

from itertools import product
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import NOTHING_SAFE, Output, Watermarks
from ftvm.errors import InternalError
from ftvm.interfaces import Record
from ftvm.protocol.active.active_state import ActiveState
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.active.output import OutputBuffer
from ftvm.protocol.effects import Release
from ftvm.units import Nanos

from ...strategies import watermarks
from ..harness import lone_active

NOW = Nanos(77)
NOBODY = (None, "y", "z")


def output(number: int) -> Output:
    return Output(number=number, channel="c", payload=b"x" * number)


def make_gate(*needs: Watermarks, released: int = 0) -> OutputBuffer:
    outputs = OutputBuffer(released)
    for place, needed in enumerate(needs):
        outputs.hold([Output(number=released + 1 + place, channel="c", payload=b"x" * (place + 1))], needed, NOW)
    return outputs


def make_active(
    *needs: Watermarks, known: str | None = None, proposal: Record | None = None, in_session: str | None = None
) -> ActiveState:
    """Return an active that holds outputs with these needs; `known` is the standby of the record."""
    active = lone_active()
    for place, needed in enumerate(needs):
        active.outputs.hold([output(1 + place)], needed, NOW)
    active.core.arbiter.known, active.core.arbiter.proposal = Record(1, "x", known), proposal
    active.session = None if in_session is None else Mock(standby=in_session, acked=NOTHING_SAFE)
    return active


def acknowledge(active: ActiveState, safe: Watermarks) -> list[int]:
    """Return the numbers of the outputs that leave when the standby in session has acknowledged this."""
    assert active.session is not None
    active.session.acked = safe
    active.release()
    return numbers_left(active)


def numbers_left(active: ActiveState) -> list[int]:
    return [output.number for effect in released(active) for output in effect.outputs]


def released(active: ActiveState) -> list[Release]:
    return [effect for effect in active.core.take_effects() if isinstance(effect, Release)]


@pytest.mark.parametrize(
    ("known", "proposed", "link", "in_session", "is_acked"),
    list(product(NOBODY, ("no proposal", *NOBODY), LinkState, NOBODY, (False, True))),
)
def test_an_output_leaves_only_when_all_that_may_be_in_force_allow_it(
    known: str | None, proposed: str | None, link: LinkState, in_session: str | None, is_acked: bool
) -> None:
    proposal = None if proposed == "no proposal" else Record(2, "x", proposed)
    joining = in_session if link.value in {"catching up", "adding", "abandoning"} else None
    must = {known, joining, *(() if proposal is None else (proposal.standby,))} - {None}
    active = make_active(Watermarks(1, 0), known=known, proposal=proposal, in_session=in_session)
    active.link = link
    if active.session is not None:
        active.session.acked = Watermarks(int(is_acked), 0)

    active.release()

    assert bool(numbers_left(active)) == all(standby == in_session and is_acked for standby in must)


@given(
    st.lists(st.tuples(watermarks(4), st.integers(1, 3)), max_size=8),
    st.lists(st.tuples(st.sampled_from(["y", "z", None]), watermarks(4))),
)
def test_the_gate_agrees_with_a_naive_model(
    groups: list[tuple[Watermarks, int]], openings: list[tuple[str | None, Watermarks]]
) -> None:
    active = make_active(in_session="y")
    outputs = active.outputs
    needs = [needed for needed, size in groups for _ in range(size)]
    model = list(enumerate(needs, start=1))
    for needed, size in groups:
        first = (outputs.held[-1].outputs[-1].number if outputs.held else 0) + 1
        outputs.hold([output(number) for number in range(first, first + size)], needed, NOW)
    for standby, safe in openings:
        expected = []
        while model and (standby is None or (standby == "y" and safe.cover(model[0][1]))):
            expected.append(model.pop(0)[0])

        active.core.arbiter.known = Record(1, "x", standby)
        left = acknowledge(active, safe)

        assert left == expected
        assert outputs.released == active.core.released == len(needs) - len(model)
        assert [one.number for held in outputs.held for one in held.outputs] == [number for number, _ in model]
        assert outputs.count == len(model)
        assert outputs.held_bytes == sum(number for number, _ in model)


def test_outputs_that_may_leave_do_so_by_one_effect() -> None:
    active = make_active(Watermarks(1, 0), Watermarks(1, 0), Watermarks(2, 0), known="y", in_session="y")
    assert active.session is not None
    active.session.acked = Watermarks(1, 0)

    active.release()

    assert [[one.number for one in effect.outputs] for effect in released(active)] == [[1, 2]]


def test_nothing_leaves_while_a_hint_holds_it() -> None:
    active = make_active(NOTHING_SAFE)
    active.releases.is_held_by_hint = True

    active.release()

    assert numbers_left(active) == []


def test_what_is_known_to_have_left_does_not_leave_twice() -> None:
    active = make_active(NOTHING_SAFE, NOTHING_SAFE, NOTHING_SAFE)
    active.core.released = 2

    active.release()

    assert numbers_left(active) == [3]
    assert active.outputs.released == 3


def test_an_output_never_overtakes_one_that_waits() -> None:
    active = make_active(Watermarks(2, 0), NOTHING_SAFE, known="y", in_session="y")

    assert acknowledge(active, Watermarks(1, 0)) == []
    assert acknowledge(active, Watermarks(2, 0)) == [1, 2]


def test_a_watermark_covers_both_marks_or_nothing() -> None:
    active = make_active(Watermarks(1, 5), known="y", in_session="y")

    assert acknowledge(active, Watermarks(9, 4)) == []
    assert acknowledge(active, Watermarks(0, 9)) == []
    assert acknowledge(active, Watermarks(1, 5)) == [1]


def test_a_gap_in_the_numbers_is_our_bug() -> None:
    for before, number in ((0, 2), (0, 0), (5, 5), (5, 7)):
        outputs = OutputBuffer(before)

        with pytest.raises(InternalError, match=f"output {number} was emitted after {before}"):
            outputs.hold([output(number)], NOTHING_SAFE, NOW)


def test_a_checkpoint_carries_what_no_epoch_does_and_is_not_told_as_released() -> None:
    active = make_active(*[NOTHING_SAFE] * 4, known="y", in_session="y")
    for _ in range(2):
        active.releases.untold.append(active.outputs.held.popleft().outputs)
    assert active.session is not None

    carried = []
    for active.session.shipped_next in (1, 2, 4, 5):
        carried.append([output.number for output in active.pending_outputs()])

    assert carried == [[1, 2, 3, 4], [2, 3, 4], [4], []]
