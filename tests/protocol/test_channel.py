"""The ordered stream over a link that loses, repeats and reorders: everything once, in order, within its bounds."""

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.encode.messages import Copy, Log, Sequenced
from ftvm.logtable import LogTable
from ftvm.protocol.session import LOGS_IN_FLIGHT, REPEAT_FACTOR_MAX, Outbox
from ftvm.protocol.standby.commit import Inbox
from ftvm.units import Nanos

from .harness import make_batch

REPEAT = Nanos(100)
WINDOW = 4


def message(sequence: int) -> Copy:
    return Copy(sequence=sequence, round=1, batch=make_batch(sequence))


class Link(RuleBasedStateMachine):
    """An Outbox and an Inbox with a bad link between them; the machine decides what is lost and what comes when."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(window=WINDOW, repeat_ns=REPEAT)
        self.inbox = Inbox(window=WINDOW)
        self.now = Nanos(10**9)
        self.on_their_way: list[Sequenced] = []
        self.acks: list[int] = []
        self.delivered: list[int] = []
        self.let_go: list[int] = []

    @rule()
    def put(self) -> None:
        self.outbox.put(message(self.outbox.next_sequence))

    @rule(passed=st.integers(0, 1000))
    def send(self, passed: int) -> None:
        self.now = Nanos(self.now + passed)
        due = self.outbox.due(self.now)
        self.on_their_way += due
        assert all(sent.sequence < self.inbox.expected + 2 * WINDOW for sent in due)

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data(), is_repeated=st.booleans())
    def arrive(self, data: st.DataObject, is_repeated: bool) -> None:
        place = data.draw(st.integers(0, len(self.on_their_way) - 1))
        came = self.on_their_way[place] if is_repeated else self.on_their_way.pop(place)
        self.delivered += [ready.sequence for ready in self.inbox.take(came)]

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.on_their_way.pop(data.draw(st.integers(0, len(self.on_their_way) - 1)))

    @rule()
    def say_what_came(self) -> None:
        self.acks.append(self.inbox.expected)

    @precondition(lambda self: self.acks)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        ack = data.draw(st.sampled_from(self.acks))
        self.let_go += [done.sequence for done in self.outbox.acknowledge(ack, self.now)]

    @invariant()
    def delivers_once_and_in_order(self) -> None:
        assert self.delivered == list(range(len(self.delivered)))

    @invariant()
    def lets_go_of_nothing_that_did_not_come(self) -> None:
        assert self.let_go == list(range(len(self.let_go)))
        assert len(self.let_go) <= len(self.delivered)

    @invariant()
    def stays_within_the_window(self) -> None:
        assert len(self.outbox.flying) <= WINDOW
        assert len(self.inbox._aside) < WINDOW

    def teardown(self) -> None:
        """Heal the link: everything then arrives, within a bounded number of repeats."""
        for _ in range(self.outbox.next_sequence + 2):
            self.now = Nanos(self.now + REPEAT * 2 * REPEAT_FACTOR_MAX)
            for sent in self.outbox.due(self.now):
                self.delivered += [ready.sequence for ready in self.inbox.take(sent)]
            self.outbox.acknowledge(self.inbox.expected, self.now)
        assert self.outbox.is_empty
        assert self.delivered == list(range(self.outbox.next_sequence))


Link.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_a_bad_link_delivers_everything_once_and_in_order = Link.TestCase


def sent_at(outbox: Outbox, until: int) -> list[int]:
    """Return the moments at which anything was sent, looking at every moment."""
    return [now for now in range(until) if outbox.due(Nanos(now))]


def test_repeats_back_off_up_to_a_bound_and_never_stop() -> None:
    outbox = Outbox(window=WINDOW, repeat_ns=Nanos(10))
    outbox.put(message(0))

    moments = sent_at(outbox, 10_000)

    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps[:7] == [10, 20, 40, 80, 160, 320, 640]
    assert set(gaps[7:]) == {10 * (1 + REPEAT_FACTOR_MAX)}


def test_progress_ends_the_backing_off() -> None:
    outbox = Outbox(window=WINDOW, repeat_ns=Nanos(10))
    for sequence in range(2):
        outbox.put(message(sequence))
    sent_at(outbox, 200)

    outbox.acknowledge(1, Nanos(200))

    assert outbox.repeats_at == 210


def test_a_message_that_waited_for_the_window_is_not_overdue_when_it_leaves() -> None:
    outbox = Outbox(window=1, repeat_ns=REPEAT)
    outbox.put(message(0))
    outbox.due(Nanos(0))
    outbox.put(message(1))
    outbox.acknowledge(1, Nanos(5_000))

    assert [sent.sequence for sent in outbox.due(Nanos(5_000))] == [1]
    assert outbox.due(Nanos(5_000 + REPEAT - 1)) == []


def a_log(sequence: int) -> Log:
    record = LogRecord(index=sequence + 1, kind=LogKind.CLOCK, position=GuestPosition(sequence, 0), amount=1)
    return Log(sequence=sequence, records=LogTable.of((record,)))


def test_a_log_does_not_wait_for_a_place_among_the_batches_nor_a_batch_for_one_among_the_logs() -> None:
    """With a standby 40 ms away the ninth answer within a round trip waited for another one."""
    outbox: Outbox[Sequenced] = Outbox(window=2, repeat_ns=REPEAT)
    for sequence in range(LOGS_IN_FLIGHT + 5):
        outbox.put(a_log(sequence))
    sent = [each.sequence for each in outbox.due(Nanos(0))]
    outbox.acknowledge(30, Nanos(1))
    sent_later = [each.sequence for each in outbox.due(Nanos(1))]
    for sequence in range(LOGS_IN_FLIGHT + 5, LOGS_IN_FLIGHT + 8):
        outbox.put(message(sequence))
    batches = [each.sequence for each in outbox.due(Nanos(2))]

    assert sent == list(range(LOGS_IN_FLIGHT))
    assert sent_later == list(range(LOGS_IN_FLIGHT, LOGS_IN_FLIGHT + 5))
    assert batches == [LOGS_IN_FLIGHT + 5, LOGS_IN_FLIGHT + 6]
    assert outbox.logs == LOGS_IN_FLIGHT + 5 - 30


def test_what_follows_a_batch_that_waits_stays_behind_it() -> None:
    outbox: Outbox[Sequenced] = Outbox(window=1, repeat_ns=REPEAT)
    for each in (message(0), message(1), a_log(2)):
        outbox.put(each)

    assert [each.sequence for each in outbox.due(Nanos(0))] == [0]
    outbox.acknowledge(1, Nanos(1))
    assert [each.sequence for each in outbox.due(Nanos(1))] == [1, 2]
    outbox.clear()
    assert outbox.logs == 0


def test_room_is_what_the_window_leaves() -> None:
    outbox = Outbox(window=3, repeat_ns=REPEAT)
    for sequence in range(5):
        assert outbox.room == max(0, 3 - sequence)
        outbox.put(message(sequence))


def test_the_inbox_drops_what_is_too_far_ahead_and_what_it_had() -> None:
    inbox = Inbox(window=WINDOW)

    assert inbox.take(message(WINDOW)) == []
    assert [ready.sequence for ready in inbox.take(message(0))] == [0]
    assert inbox.take(message(0)) == []

    assert inbox.expected == 1


def test_clearing_gives_back_everything() -> None:
    outbox = Outbox(window=1, repeat_ns=REPEAT)
    for sequence in range(3):
        outbox.put(message(sequence))
    outbox.due(Nanos(0))

    assert [left.sequence for left in outbox.clear()] == [0, 1, 2]
    assert outbox.is_empty


@pytest.mark.parametrize("sequence", [0, 5])
def test_what_came_before_or_is_too_far_ahead_is_not_kept(sequence: int) -> None:
    """The window bounds what a peer can have us keep."""
    inbox = Inbox(window=4)
    inbox.take(message(0))

    assert inbox.take(message(sequence)) == []
    assert not inbox._aside
