"""What must be so by our own doing is checked at both ends of release, commit and claim: a host that errs stops itself.

Each test brings about by force what the code itself never does, and sees that the check fires.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ftvm.checkpoint import NOTHING_SAFE, Checkpoint, Output, PageBatch
from ftvm.config import Limits
from ftvm.errors import InternalError, must
from ftvm.protocol import effects as do
from ftvm.protocol import reports
from ftvm.protocol.active.output import OutputBuffer
from ftvm.protocol.core import Role, RoleEvent
from ftvm.protocol.standby import claiming
from ftvm.protocol.standby.commit import CommittedState
from ftvm.protocol.standby.standby_state import ClaimState
from ftvm.units import Nanos

from .harness import FakeMemory, Host, Pair, lone_active, lone_replica
from .situations import silence, take_over


def output(number: int) -> Output:
    return Output(number=number, channel="net0", payload=b"x")


def test_what_must_be_so_is_named_where_it_is_not() -> None:
    must(1, "nothing wrong")

    with pytest.raises(InternalError, match="the moon is round"):
        must(0, "the moon is round")


def test_an_output_that_does_not_follow_the_last_one_is_not_held() -> None:
    buffer = OutputBuffer(released=3)

    with pytest.raises(InternalError, match="output 5 was emitted after 3"):
        buffer.hold([output(5)], NOTHING_SAFE, Nanos(0))


def test_an_output_does_not_leave_before_the_one_that_it_follows() -> None:
    active = lone_active()
    active.outputs.hold([output(1)], NOTHING_SAFE, Nanos(0))
    active.outputs.hold([output(2)], NOTHING_SAFE, Nanos(0))
    active.outputs.held.popleft()

    with pytest.raises(InternalError, match="in the order of their numbers"):
        active.release()


def test_a_state_that_has_not_made_what_left_does_not_go_on() -> None:
    pair = Pair().protected()
    pair.a.emit(b"x")
    pair.run(200)

    pair.b.core.released = pair.b.standby.committed.output_last + 1

    with pytest.raises(InternalError, match="what has left was made by the state that goes on"):
        take_over(pair)


class MistakenHost(Host):
    """Cuts another epoch than it is ordered to, from the fourth on."""

    def _perform_one(self, effect: do.Effect) -> None:
        if isinstance(effect, do.Cut) and effect.epoch > 3:
            effect = replace(effect, epoch=effect.epoch + 1)
        super()._perform_one(effect)


class MistakenPair(Pair):
    host = MistakenHost


def test_a_checkpoint_of_another_epoch_than_the_next_is_not_shipped() -> None:
    pair = MistakenPair().protected()

    with pytest.raises(InternalError, match="extends the last epoch cut by one"):
        pair.run(200)


def test_a_commit_that_does_not_come_to_a_later_epoch_is_noticed() -> None:
    class Restless(FakeMemory):
        def verify(self, batches: Sequence[PageBatch], expected_digest: int | None) -> None:
            super().verify(batches, expected_digest)
            state.epoch = 99

    state = CommittedState(Restless(), Limits(), epoch=4)
    checkpoint = Checkpoint(
        epoch=5,
        base=4,
        engine="remus",
        batches=(),
        devices=b"",
        outputs=(),
        output_next=1,
        log_index=0,
        memory_digest=0,
        dirty_pages=0,
        position=None,
    )

    with pytest.raises(InternalError, match="takes the state to a later epoch"):
        state.commit(checkpoint)


def test_what_is_not_whole_is_not_claimed() -> None:
    pair = Pair().protected()
    silence(pair)
    standby = pair.b.standby
    standby.claim.state, standby.claim.fresh_at, standby.claim.is_loaded = ClaimState.CHECKING, 0, True
    standby.committed.epoch = None
    pair.b.core.arbiter.known = pair.store.record

    with pytest.raises(InternalError, match="only a whole state that is loaded is claimed"):
        claiming.propose_if_ready(standby, pair.now)


def test_a_takeover_without_a_state_does_not_run() -> None:
    replica = lone_replica()
    replica._role = Role.STANDBY

    replica._core.end_role(RoleEvent.TAKEN, "a test")

    with pytest.raises(InternalError, match="all else from a state"):
        replica.step(reports.STEP_BEGUN, Nanos(0))
