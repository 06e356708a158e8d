import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftvm.capture.pages import BatchBuffer, BatchBuffers
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.errors import LimitExceeded, LocalProtocolError

LIMITS = Limits(batch_bytes=1 << 16, staging_bytes=1 << 17, epochs_in_flight=1)


def batch_in(buffer: BatchBuffer) -> PageBatch:
    return PageBatch(count=0, indices=b"", lengths=b"", payload=b"", digest=b"", buffer=buffer.number)


class Ring(RuleBasedStateMachine):
    """Any order of acknowledgements and releases; the model knows who still reads what."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = BatchBuffers(LIMITS)
        self.unacknowledged: dict[int, PageBatch] = {}
        self.sends: list[PageBatch] = []

    @rule()
    def lend(self) -> None:
        in_flight = set(self.unacknowledged) | {batch.buffer for batch in self.sends}
        if len(in_flight) == self.ring.capacity:
            with pytest.raises(LimitExceeded):
                self.ring.lend()
            return

        buffer = self.ring.lend()

        assert buffer.number not in in_flight
        self.unacknowledged[buffer.number] = batch_in(buffer)

    @precondition(lambda self: self.unacknowledged)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(list(self.unacknowledged.values())))
        self.ring.sent(batch)
        self.sends.append(batch)

    @precondition(lambda self: self.sends)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.ring.let_go(self.sends.pop(data.draw(st.integers(0, len(self.sends) - 1))))

    @precondition(lambda self: self.unacknowledged)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.unacknowledged)))
        self.ring.acknowledged(self.unacknowledged.pop(number))

    @invariant()
    def counts_what_is_in_flight(self) -> None:
        assert self.ring.in_use == len(set(self.unacknowledged) | {batch.buffer for batch in self.sends})


TestRing = Ring.TestCase


def test_buffer_is_not_reused_until_it_is_acknowledged_and_let_go() -> None:
    ring = BatchBuffers(LIMITS)
    first = ring.lend()
    batch = batch_in(first)
    ring.sent(batch)

    ring.acknowledged(batch)
    while_sending = ring.lend()
    ring.let_go(batch)
    afterwards = ring.lend()

    assert while_sending is not first
    assert afterwards is first


def test_steady_traffic_needs_three_buffers() -> None:
    ring = BatchBuffers(LIMITS)
    in_flight: list[PageBatch] = []

    for _ in range(50):
        in_flight.append(batch_in(ring.lend()))
        ring.sent(in_flight[-1])
        if len(in_flight) == 3:
            done = in_flight.pop(0)
            ring.let_go(done)
            ring.acknowledged(done)

    assert ring.allocated_bytes == 3 * LIMITS.batch_bytes


def test_foreign_batches_and_double_words_are_refused() -> None:
    ring = BatchBuffers(LIMITS)
    batch = batch_in(ring.lend())

    with pytest.raises(LocalProtocolError, match="more often than it was sent"):
        ring.let_go(batch)
    ring.acknowledged(batch)
    with pytest.raises(LocalProtocolError, match="acknowledged twice"):
        ring.acknowledged(batch)
    with pytest.raises(LocalProtocolError, match="not captured into this ring"):
        ring.sent(PageBatch(count=0, indices=b"", lengths=b"", payload=b"", digest=b""))
