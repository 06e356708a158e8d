"""A guest that follows the log: the same way as the primary's, or named where it went another one."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import cast

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import PAGE_DIGEST_ROW, Checkpoint, GuestPosition, LogKind, LogRecord, Output, OutputTable
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.guests.riscv import RiscvGuest
from ftvm.interfaces import Capability, ReplayableGuest
from ftvm.logtable import NO_LOG, LogTable
from ftvm.protocol.effects import Difference
from ftvm.runtime.follow import Follower, replay
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import ManualClock

from ..guests.riscv.assembly import UART, addi, elf, finish, li, store, to_bytes

PAGES = 24
STEPS = 40


class Leader:
    """A guest that has run some steps with inputs, everything logged, and the mark that it came to."""

    def __init__(self) -> None:
        self.guest = make_guest()
        self.sink = NumberingSink(lambda: None, ManualClock())
        self.sink.open(1, 1, is_logging=True)
        self.guest.attach(self.sink)
        self.guest.resume()
        for step in range(STEPS):
            if step % 5 == 0:
                self.guest.deliver("net0", b"input%d" % step)
            self.guest.advance()
        self.guest.pause()
        drained = self.sink.drain()
        self.log, self.outputs = drained.log, [output for output, _ in drained.outputs]
        memory = measured(self.guest)
        self.mark = Checkpoint(
            epoch=2,
            base=1,
            engine="lockstep",
            batches=(),
            devices=self.guest.save_devices(),
            outputs=(),
            output_next=self.sink.output_next,
            log_index=self.sink.log_index,
            memory_digest=memory.memory_digest,
            dirty_pages=PAGES,
            page_digests=b"".join(PAGE_DIGEST_ROW.pack(page, memory.page_digest(page)) for page in range(PAGES)),
            position=self.guest.position,
        )


def make_guest() -> SimGuest:
    return SimGuest(page_count=PAGES, pages_per_step=2, output_every=2, boots=True)


def measured(guest: SimGuest) -> CommittedMemory:
    return CommittedMemory(NativeMemory([region.buffer for region in guest.memory]))


@pytest.fixture(scope="module")
def leader() -> Leader:
    return Leader()


@pytest.fixture
def guest() -> SimGuest:
    return make_guest()


@pytest.fixture
def sink(guest: SimGuest) -> NumberingSink:
    sink = NumberingSink(lambda: None, ManualClock())
    sink.open(1, 1, is_logging=False)
    guest.attach(sink)
    return sink


@pytest.fixture
def follower(guest: SimGuest, sink: NumberingSink) -> Follower:
    return Follower(guest, measured(guest), sink)


def run(follower: Follower) -> Checkpoint | Difference | None:
    outcome = None
    for _ in range(1000):
        if not follower.waiting or outcome is not None:
            return outcome
        outcome = follower.advance()
    raise AssertionError("the follower does not come to an end")


def test_the_same_log_leads_to_the_same_outputs_and_the_same_state(
    leader: Leader, follower: Follower, sink: NumberingSink, guest: SimGuest
) -> None:
    follower.add([*leader.log, leader.mark])

    outcome = run(follower)

    assert outcome is leader.mark
    assert [output for output, _ in sink.drain().outputs] == leader.outputs
    assert guest.fingerprint() == leader.guest.fingerprint()


def test_a_changed_page_is_found_at_the_next_mark_and_named(
    leader: Leader, follower: Follower, guest: SimGuest
) -> None:
    """Bressoud & Schneider, 1996: a backup whose state differs must be found before it is needed."""
    guest.memory[0].buffer[7 * 4096 + 100] ^= 1
    guest.restore_dirty(type(guest.collect_dirty())((PAGES,), (bytearray((1 << 7).to_bytes(8, "little")),)))
    follower.add([*leader.log, leader.mark])

    outcome = run(follower)

    assert isinstance(outcome, Difference)
    assert outcome.pages == (7,)
    assert not outcome.devices
    assert outcome.seen == leader.mark.position


def test_another_device_state_is_found_and_named(leader: Leader, follower: Follower) -> None:
    other = replace(leader.mark, devices=b"SIMG" + bytes(8))
    follower.add([*leader.log, other])

    outcome = run(follower)

    assert isinstance(outcome, Difference)
    assert outcome.devices
    assert outcome.pages == ()


def test_a_record_that_was_left_out_is_found(leader: Leader, follower: Follower) -> None:
    inputs = [record for record in leader.log if record.kind is LogKind.INPUT]
    follower.add([*(record for record in leader.log if record != inputs[2]), leader.mark])

    assert isinstance(run(follower), Difference)


def test_an_output_that_the_primary_did_not_make_is_found_where_it_was_made(leader: Leader, follower: Follower) -> None:
    wrong = [
        replace(record, amount=record.amount + 1) if record.kind is LogKind.OUTPUT else record for record in leader.log
    ]
    follower.add(wrong)

    outcome = run(follower)

    assert isinstance(outcome, Difference)
    assert "the primary made output 2, this guest 1" in outcome.reason


def test_finishing_executes_all_that_waits_and_compares_nothing(
    leader: Leader, follower: Follower, guest: SimGuest
) -> None:
    follower.add([*leader.log, replace(leader.mark, memory_digest=0)])

    follower.finish()

    assert not follower.waiting
    assert guest.position == leader.log[-1].position


def test_finishing_a_log_that_leads_nowhere_is_an_error(follower: Follower) -> None:
    follower.add([LogRecord(index=1, kind=LogKind.OUTPUT, position=GuestPosition(3, 0), amount=99)])

    with pytest.raises(GuestError, match="the primary made output 99"):
        follower.finish()


def test_an_output_that_the_primary_made_at_another_place_is_found(leader: Leader, follower: Follower) -> None:
    """Mutant: only how many outputs there are is compared."""
    spoken_at = {record.position for record in leader.log if record.kind is LogKind.OUTPUT}
    alone = next(at for at in sorted(spoken_at) if GuestPosition(at.retired + 1, 0) not in spoken_at)
    behind = GuestPosition(alone.retired + 1, 0)
    follower.add(
        replace(record, position=behind) if record.kind is LogKind.OUTPUT and record.position == alone else record
        for record in leader.log
        if record.position <= alone
    )

    outcome = run(follower)

    assert isinstance(outcome, Difference)
    assert outcome.seen == behind


# --- one instruction may make several outputs ---

LAST_WORDS = [*li(1, UART), addi(2, 0, ord("x")), store(2, 1, size=1), *finish(0)]
"""An unfinished line, which the end of the program flushes: two outputs at one position."""


@pytest.fixture(scope="module")
def last_words() -> tuple[list[LogRecord], list[tuple[str, bytes]]]:
    """What a program's last instruction had logged, and said."""
    with closing(RiscvGuest(elf(to_bytes(LAST_WORDS)), memory_bytes=1 << 20)) as guest:
        sink = NumberingSink(lambda: None, ManualClock())
        sink.open(1, 1, is_logging=True)
        guest.attach(sink)
        guest.resume()
        while guest.failure() is None:
            time.sleep(0.001)
        guest.pause()
        drained = sink.drain()
    return list(drained.log), [(output.channel, output.payload) for output, _ in drained.outputs]


@pytest.fixture
def machine() -> Iterator[RiscvGuest]:
    with closing(RiscvGuest(elf(to_bytes(LAST_WORDS)), memory_bytes=1 << 20)) as guest:
        yield guest


@pytest.mark.parametrize("records", [1, 2])
def test_a_guest_is_led_past_an_instruction_that_makes_two_outputs(
    last_words: tuple[list[LogRecord], list[tuple[str, bytes]]], machine: RiscvGuest, records: int
) -> None:
    """Also where the log ends between the two: the guest has made both, and says the second one again."""
    log, said = last_words
    sink = NumberingSink(lambda: None, ManualClock())
    sink.open(1, 1, is_logging=False)
    machine.attach(sink)

    replay(machine, log[:records], sink)

    assert len({record.position for record in log}) == 1
    assert [(output.channel, output.payload) for output, _ in sink.drain().outputs] == said


@pytest.mark.parametrize("amount", [0, 3])
def test_an_output_that_none_of_two_of_one_instruction_is_is_found(
    last_words: tuple[list[LogRecord], list[tuple[str, bytes]]], machine: RiscvGuest, amount: int
) -> None:
    sink = NumberingSink(lambda: None, ManualClock())
    sink.open(1, 1, is_logging=False)
    machine.attach(sink)

    with pytest.raises(GuestError, match=f"the primary made output {amount}, this guest 2"):
        replay(machine, [replace(last_words[0][0], amount=amount)], sink)


class TwoFrames:
    """A guest of whose instructions one sends two frames at once, led by one call along the records that are there."""

    can = frozenset({Capability.REPLAY, Capability.REPLAYS_GROUPS})
    position = GuestPosition(0, 0)

    def __init__(self, sink: NumberingSink) -> None:
        self.told: list[range] = []
        self._sink = sink

    def collect_dirty(self) -> None: ...

    def lead_along(self, log: LogTable, made_here: range, limit: int | None = None) -> tuple[int, int]:
        del limit
        self.told.append(made_here)
        if self.position.retired == 0:
            self.position = GuestPosition(7, 0)
            self._sink.hand_on(self)
        return len(log), 1

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        del log_next
        frames = [Output(number=output_next + place, channel="net0", payload=b"frame") for place in range(2)]
        return NO_LOG, OutputTable.of(frames)


def test_a_guest_that_is_led_on_is_told_what_it_has_made_where_it_stands(sink: NumberingSink) -> None:
    """Mutant: outputs that come together are made nowhere: the second frame's record comes later, and is refused."""
    guest = TwoFrames(sink)
    follower = Follower(cast("ReplayableGuest", guest), measured(make_guest()), sink)
    log = [LogRecord(index=n, kind=LogKind.OUTPUT, position=GuestPosition(7, 0), amount=n) for n in (1, 2)]

    for record in log:
        follower.add([record])
        assert follower.advance() is None

    assert guest.told == [range(1, 1), range(1, 3)]
    assert not follower.waiting
