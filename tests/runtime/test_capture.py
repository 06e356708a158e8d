"""The active side's hands: fused or staged, the same checkpoint; what a scrub finds ends the session."""

from array import array

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.capture.policy import CapturePolicy, Way
from ftvm.checkpoint import Checkpoint
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.errors import TrackingLost
from ftvm.protocol.effects import Cut
from ftvm.runtime.capture import Hands
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest
from ftvm.testing.hosts import ManualClock
from ftvm.units import Nanos

LIMITS = Limits(batch_bytes=1 << 16)
ORDER = Cut(1, 0, Remus(), False)


class Primary:
    """A guest that has run some steps, and the hands that capture it."""

    def __init__(self, policy: CapturePolicy | None = None) -> None:
        self.guest = SimGuest(page_count=24, pages_per_step=2, output_every=2, boots=True)
        self.guest.attach(NumberingSink(lambda: None, ManualClock()))
        memory = NativeMemory([region.buffer for region in self.guest.memory])
        self.hands = Hands(self.guest, memory, LIMITS)
        if policy is not None:
            self.hands._policy = policy
        self.hands.start_copy(LIMITS.staging_bytes)
        self.run()

    def run(self) -> None:
        self.guest.resume()
        for _ in range(20):
            self.guest.advance()
        self.guest.pause()

    def cut(self) -> Checkpoint:
        captured = self.hands.cut(ORDER, (), 1, 0)
        checkpoint = self.hands.finish(captured, Nanos(1000))
        self.hands.forget(checkpoint.batches)
        return checkpoint


def applied(checkpoint: Checkpoint) -> bytes:
    ram = bytearray(24 * 4096)
    memory = CommittedMemory(NativeMemory([ram]))
    memory.verify(checkpoint.batches, checkpoint.memory_digest)
    memory.commit(checkpoint.batches)
    return bytes(ram)


def test_fused_and_staged_capture_make_the_same_memory() -> None:
    fused, staged = Primary(), Primary(CapturePolicy(pause_target_ns=Nanos(1)))

    assert fused.hands.cut(ORDER, (), 1, 0).way is Way.FUSED
    assert staged.hands.cut(ORDER, (), 1, 0).way is Way.STAGED
    fused, staged = Primary(), Primary(CapturePolicy(pause_target_ns=Nanos(1)))
    assert applied(fused.cut()) == applied(staged.cut()) == bytes(fused.guest.memory[0].buffer)


def test_a_staged_capture_is_of_the_moment_of_the_pause() -> None:
    primary = Primary(CapturePolicy(pause_target_ns=Nanos(1)))
    captured = primary.hands.cut(ORDER, (), 1, 0)
    before = bytes(primary.guest.memory[0].buffer)

    primary.run()
    checkpoint = primary.hands.finish(captured, Nanos(1000))

    assert applied(checkpoint) == before


def test_a_written_page_that_was_not_reported_is_found_and_ends_the_session() -> None:
    primary = Primary()
    primary.cut()
    primary.guest.memory[0].buffer[9 * 4096] ^= 1
    primary.cut()  # looks at the page behind this cut

    with pytest.raises(TrackingLost, match="1 written pages were not reported, among them 9"):
        primary.cut()


def test_a_new_session_holds_nothing_against_the_old_one() -> None:
    primary = Primary()
    primary.cut()
    primary.guest.memory[0].buffer[9 * 4096] ^= 1
    primary.cut()

    primary.hands.start_copy(LIMITS.staging_bytes)
    primary.run()
    checkpoint = primary.cut()

    assert applied(checkpoint) == bytes(primary.guest.memory[0].buffer)


def test_pages_are_listed_only_for_a_backup_that_executes() -> None:
    primary = Primary()
    captured = primary.hands.cut(Cut(1, 0, Lockstep(), True), (), 1, 0)

    checkpoint = primary.hands.finish(captured, Nanos(1000))

    assert len(checkpoint.page_digests) == 20 * len(captured.indices)
    assert isinstance(captured.indices, array)
