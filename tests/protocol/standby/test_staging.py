"""An unfinished checkpoint stays aside: parts in order, of one epoch, within the bound that was agreed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import Checkpoint, PageBatch
from ftvm.encode.messages import EpochPart
from ftvm.errors import BadFrame, LimitExceeded
from ftvm.protocol.standby.commit import Staging

from ...strategies import batches, checkpoints
from ..harness import make_batch


def part(number: int, *, epoch: int = 5, batch: PageBatch | None = None, end: Checkpoint | None = None) -> EpochPart:
    return EpochPart(sequence=number, epoch=epoch, part=number, batch=batch, checkpoint=end)


@given(st.lists(batches(), max_size=4), checkpoints(epoch=5))
def test_an_epoch_is_whole_with_its_end_and_not_before(pages: list[PageBatch], end: Checkpoint) -> None:
    staging = Staging(limit_bytes=1 << 20)

    early = [staging.add(part(number, batch=batch)) for number, batch in enumerate(pages)]
    whole = staging.add(part(len(pages), end=end))

    assert early == [None] * len(pages)
    assert whole == replace(end, batches=tuple(pages))
    assert staging == Staging(limit_bytes=1 << 20)


@pytest.mark.parametrize("wrong", [part(0), part(2), part(7), part(1, epoch=6), part(1, epoch=4)], ids=str)
def test_a_part_out_of_place_is_refused(wrong: EpochPart) -> None:
    staging = Staging(limit_bytes=1 << 20)
    staging.add(part(0, batch=make_batch(1)))

    with pytest.raises(BadFrame, match="was due"):
        staging.add(replace(wrong, batch=make_batch(1)))


def test_a_part_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(BadFrame, match="neither pages nor the end"):
        Staging(limit_bytes=1).add(part(0))


def test_pages_beyond_the_bound_are_refused_and_not_kept() -> None:
    batch = make_batch(1)
    staging = Staging(limit_bytes=2 * batch.size_bytes)
    staging.add(part(0, batch=batch))
    staging.add(part(1, batch=batch))

    with pytest.raises(LimitExceeded, match="staging of epoch 5"):
        staging.add(part(2, batch=batch))

    assert len(staging.batches) == 2


def test_what_was_cleared_leaves_no_trace() -> None:
    staging = Staging(limit_bytes=1 << 20)
    staging.add(part(0, batch=make_batch(1)))

    staging.clear()

    assert staging == Staging(limit_bytes=1 << 20)
