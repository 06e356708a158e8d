"""Many records of a log taken by one call: the same way as one by one, and refused with the same words."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ftvm
from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Checkpoint, GuestPosition, LogKind, LogRecord, Output, OutputTable
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.guests.riscv import RiscvGuest
from ftvm.guests.riscv.follow import Course
from ftvm.guests.riscv.machine import Machine, MachineShape
from ftvm.guests.riscv.programs import read_program
from ftvm.interfaces import Capability
from ftvm.logtable import LogTable
from ftvm.protocol.effects import Difference, Follow
from ftvm.protocol.reports import LogFollowed, Report
from ftvm.runtime.follow import Follower, replay
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.testing.pair import ManualClock
from ftvm.testing.transcript import Transcript

from ..history.past import arp_frame, kv_requests

FTVM: Final = str(Path(ftvm.__file__).parent)
MEMORY = 8 << 20
FRAMES = 24


class OneByOne(RiscvGuest):
    """The same machine, as a guest that takes each record alone."""

    @property
    def can(self) -> frozenset[Capability]:
        return super().can - {Capability.REPLAYS_GROUPS}


@dataclass(frozen=True)
class Life:
    """What a guest was born as, what it took and said, and the mark that it came to."""

    pages: bytes
    devices: bytes
    log: tuple[LogRecord, ...]
    outputs: tuple[Output, ...]
    mark: Checkpoint


def sink_of(guest: RiscvGuest, *, is_logging: bool = False) -> NumberingSink:
    sink = NumberingSink(lambda: None, ManualClock())
    sink.open(1, 1, is_logging=is_logging)
    guest.attach(sink)
    return sink


def measured(guest: RiscvGuest) -> CommittedMemory:
    return CommittedMemory(NativeMemory([region.buffer for region in guest.memory]))


def live(program: str, arguments: str, inputs: Sequence[tuple[str, bytes]]) -> Life:
    """Have a program take inputs, each when the one before is dealt with."""
    guest = RiscvGuest(read_program(program), memory_bytes=MEMORY, command_line=arguments)
    sink = sink_of(guest, is_logging=True)
    pages, devices = bytes(guest.memory[0].buffer), guest.save_devices()
    guest.resume()
    for channel, payload in inputs:
        wait_for(guest.is_idle)
        guest.deliver(channel, payload)
    wait_for(lambda: guest.is_idle() or guest.failure() is not None)
    guest.pause()
    drained = sink.drain()
    mark = Checkpoint(
        epoch=2,
        base=1,
        engine="lockstep",
        batches=(),
        devices=guest.save_devices(),
        outputs=(),
        output_next=sink.output_next,
        log_index=sink.log_index,
        memory_digest=measured(guest).memory_digest,
        dirty_pages=0,
        position=guest.position,
    )
    guest.close()
    return Life(pages, devices, tuple(drained.log), tuple(output for output, _ in drained.outputs), mark)


def wait_for(is_so: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if is_so():
            return
        time.sleep(0.001)
    raise AssertionError("the guest did not come to rest")


LIVES: dict[str, Callable[[], Life]] = {
    "kv": lambda: live("kv", "", [("net0", frame) for frame in (arp_frame(), *kv_requests(FRAMES))]),
    "console": lambda: live("console", "lines=30 listen=1", [("console", b"a line of some length\n")] * 3),
    "entropy": lambda: live("entropy", "", []),
}


@pytest.fixture(scope="module", params=LIVES)
def life(request: pytest.FixtureRequest) -> Life:
    return LIVES[request.param]()


@pytest.fixture(scope="module")
def kv() -> Life:
    return LIVES["kv"]()


class Pair:
    """Two guests that follow: one takes groups, the other one record after the other."""

    def __init__(self) -> None:
        self.guests = [make(None, memory_bytes=MEMORY) for make in (RiscvGuest, OneByOne)]

    def follow(
        self, life: Life, items: Sequence[LogRecord | Checkpoint], cuts: Sequence[int] = ()
    ) -> tuple[list[object], list[object]]:
        """Lead both from a birth along items that come in pieces; return what came of it for each."""
        together, alone = (followed(guest, life, items, cuts) for guest in self.guests)
        return together, alone

    def close(self) -> None:
        for guest in self.guests:
            guest.close()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as undo:
        both = Pair()
        undo.callback(both.close)
        yield both


def followed(
    guest: RiscvGuest, life: Life, items: Sequence[LogRecord | Checkpoint], cuts: Sequence[int]
) -> list[object]:
    """Lead a guest along items; return outputs and outcome, and where and what it is if nothing was wrong."""
    guest.memory[0].buffer[:] = life.pages
    guest.load_devices(life.devices)
    sink = sink_of(guest)
    follower = Follower(guest, measured(guest), sink)
    outcome: Checkpoint | Difference | None = None
    for begin, end in zip([0, *cuts], [*cuts, len(items)], strict=True):
        follower.add(items[begin:end])
        for _ in range(10_000):
            if outcome is not None or not follower.waiting:
                break
            outcome = follower.advance()
    said = [output for output, _ in sink.drain().outputs]
    if isinstance(outcome, Difference):
        return [outcome]  # what such a guest is, and has said last, is of no use
    return [outcome, said, guest.position, guest.save_devices(), measured(guest).memory_digest]


def test_a_log_taken_together_leads_where_the_guest_was(life: Life, pair: Pair) -> None:
    together, alone = pair.follow(life, [*life.log, life.mark])

    assert together == alone
    assert together[0] is life.mark
    assert together[1] == list(life.outputs)
    assert {record.kind for record in life.log} >= {LogKind.OUTPUT}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_however_the_log_comes_in_pieces_it_leads_to_the_same_guest(kv: Life, pair: Pair, data: st.DataObject) -> None:
    """Also between an input and what it leads to, and where an instruction's outputs are parted."""
    items = [*kv.log, kv.mark]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=6)))

    together, alone = pair.follow(kv, items, cuts)

    assert together == alone
    assert together[0] is kv.mark


BREAKS: dict[str, Callable[[LogRecord], LogRecord]] = {
    "later": lambda record: replace(record, position=GuestPosition(record.position.retired + 1, record.position.idled)),
    "sooner": lambda record: replace(
        record, position=GuestPosition(max(0, record.position.retired - 1), record.position.idled)
    ),
    "waited longer": lambda record: replace(
        record, position=GuestPosition(record.position.retired, record.position.idled + 1)
    ),
    "another number": lambda record: replace(record, amount=record.amount + 1),
    "a smaller number": lambda record: replace(record, amount=max(0, record.amount - 1)),
    "for ever": lambda record: replace(record, amount=(1 << 64) - 1),
    "another channel": lambda record: replace(record, channel="console" if record.channel == "net0" else "nowhere"),
    "too long": lambda record: replace(record, payload=bytes(2_000)),
    "empty": lambda record: replace(record, payload=b""),
    "an output": lambda record: replace(record, kind=LogKind.OUTPUT),
    "a wait": lambda record: replace(record, kind=LogKind.CLOCK),
    "an input": lambda record: replace(record, kind=LogKind.INPUT, channel="net0", payload=bytes(60)),
}


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_log_that_is_wrong_anywhere_is_refused_where_and_as_it_is_one_by_one(
    life: Life, pair: Pair, data: st.DataObject
) -> None:
    """Mutants: a record that is not taken whole is passed over; an output is not compared; a position is not."""
    log = list(life.log)
    at = data.draw(st.integers(0, len(log) - 1))
    how = data.draw(st.sampled_from([*BREAKS, "left out", "twice", "swapped", "ends here"]))
    if how in BREAKS:
        log[at] = BREAKS[how](log[at])
    elif how == "left out":
        del log[at]
    elif how == "twice":
        log.insert(at, log[at])
    elif how == "swapped":
        log[at : at + 2] = reversed(log[at : at + 2])
    else:
        del log[at:]

    together, alone = pair.follow(life, [*log, life.mark])

    assert together == alone


def test_an_output_of_before_a_step_of_the_clock_is_refused_behind_it(kv: Life, pair: Pair) -> None:
    """Mutant: an output counts as made where its instruction stands, however long the guest has waited there since."""
    at = next(place for place, record in enumerate(kv.log) if record.kind is LogKind.OUTPUT)
    output = kv.log[at]
    step = replace(output, kind=LogKind.CLOCK, amount=5)
    later = GuestPosition(output.position.retired, output.position.idled + 5)
    log = [*kv.log[: at + 1], step, replace(output, position=later)]

    together, alone = pair.follow(kv, log)

    assert together == alone
    assert isinstance(together[0], Difference)


def test_a_whole_log_takes_a_few_calls(kv: Life, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, calls = pair.guests[0], dict[str, int]()
    guest.memory[0].buffer[:] = kv.pages
    guest.load_devices(kv.devices)
    for name in ("lead_along", "run_until", "inject"):
        whole = getattr(guest, name)

        def counted(*given: object, name: str = name, whole: Callable[..., object] = whole) -> object:
            calls[name] = calls.get(name, 0) + 1
            return whole(*given)

        monkeypatch.setattr(guest, name, counted)

    replay(guest, kv.log, sink_of(guest))

    assert len(kv.log) > 2 * FRAMES
    assert calls == {"lead_along": 1}


def followed_by_a_host(life: Life) -> tuple[list[Report], Counter[str], int]:
    """Return what a standby reports of a life, which functions of ftvm that called, and how often its loop woke."""
    guest, calls, woken = RiscvGuest(None, memory_bytes=MEMORY), Counter[str](), list[None]()
    sink = NumberingSink(lambda: woken.append(None), ManualClock())
    guest.attach(sink)
    guest.memory[0].buffer[:] = life.pages
    runner = GuestRunner(guest, sink, measured(guest))
    assert runner.start_following(Follow(life.devices, 1)) is None
    runner.lead_along(LogTable.of(life.log))

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FTVM):
            calls[frame.f_code.co_qualname] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftvm.runtime.follow._INSTRUCTIONS_PER_STEP", 1 << 40)  # in one portion
        sys.setprofile(count)
        try:
            reports = list(runner.follow_on())
        finally:
            sys.setprofile(None)
            guest.close()
    return reports, calls, len(woken)


def test_a_standby_follows_many_outputs_by_the_calls_for_a_few_and_reports_them_as_one_table() -> None:
    """Mutants: an output is emitted alone; a place is noted for each."""
    few, many = (live("kv", "", [("net0", frame) for frame in kv_requests(frames)]) for frames in (3, FRAMES))

    followed_by_a_host(few)  # the names of channels are kept packed from their first use on
    reports, calls, _ = followed_by_a_host(many)

    assert len(many.outputs) > 2 * len(few.outputs)
    assert reports == [LogFollowed(OutputTable.of(many.outputs))]
    assert calls == followed_by_a_host(few)[1]


@pytest.mark.parametrize("program", LIVES)
def test_a_standby_is_not_woken_by_what_its_guest_says_as_it_follows(program: str) -> None:
    """It takes that in the same step: to be woken has it turn once more for nothing."""
    life = LIVES[program]()

    reports, _, woken = followed_by_a_host(life)

    assert [output for report in reports for output in cast("LogFollowed", report).outputs] == list(life.outputs)
    assert woken == 0


def test_a_guest_whose_sink_takes_no_outputs_together_is_led_by_one_record_after_the_other(kv: Life) -> None:
    guest, heard = RiscvGuest(None, memory_bytes=MEMORY), Transcript()
    guest.attach(heard)
    guest.memory[0].buffer[:] = kv.pages
    guest.load_devices(kv.devices)

    assert guest.lead_along(kv.log, range(1, 1)) == (0, 1)
    assert guest.position == GuestPosition(0, 0)
    assert heard.said == []
    guest.close()


def test_more_outputs_than_a_call_holds_come_by_several(pair: Pair) -> None:
    """Only the last of them is in the log, as in one that somebody shortened. Mutant: a call minds no room."""
    life = live("console", "lines=3000 listen=0", [])
    guest, said = pair.guests[0], list[int]()
    guest.memory[0].buffer[:] = life.pages
    guest.load_devices(life.devices)
    sink, taken = sink_of(guest), 0

    for _ in range(10):
        before = sink.output_next
        taken, first_here = guest.lead_along(life.log[-1:], sink.made_at(guest.position))
        sink.made_from(guest.position, first_here)
        said.append(sink.output_next - before)
        if taken:
            break

    assert taken == 1
    assert [output for output, _ in sink.drain().outputs] == list(life.outputs)
    assert 1_024 < max(said) <= 2_048


def test_a_limit_ends_a_call_between_two_instructions(kv: Life, pair: Pair) -> None:
    guest = pair.guests[0]
    guest.memory[0].buffer[:] = kv.pages
    guest.load_devices(kv.devices)
    sink, waiting = sink_of(guest), list(kv.log)
    last = waiting[-1].position.retired

    for _ in range(1 + last // 1_000 + len(waiting)):
        before = guest.position.retired
        taken, first_here = guest.lead_along(waiting, sink.made_at(guest.position), 1_000)
        sink.made_from(guest.position, first_here)
        del waiting[:taken]
        assert guest.position.retired - before <= 1_000

    assert waiting == []
    assert [output for output, _ in sink.drain().outputs] == list(kv.outputs)


def test_a_record_whose_payload_is_not_whole_is_not_taken() -> None:
    """A length that is too long ends the log."""
    machine = Machine(MachineShape(ram_bytes=1 << 20))
    record = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(0, 0), channel="console", payload=b"abc")
    table = LogTable.of([record])

    taken = [Course(machine).lead(replace(table, payloads=b"abc"[:length]), range(1, 1), None) for length in range(3)]

    assert taken == [(0, 1)] * 3
    assert machine.receive_console(bytes(16)) == 16


def test_an_unreadable_disk_ends_the_replay(kv: Life, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        def require_readable(self) -> None:
            raise GuestError("the image is gone")

    guest = pair.guests[0]
    guest.memory[0].buffer[:] = kv.pages
    guest.load_devices(kv.devices)
    monkeypatch.setattr(guest, "_kept", Kept())

    with pytest.raises(GuestError, match="the image is gone"):
        guest.lead_along(kv.log[:3], range(1, 1))


def test_the_course_of_no_records_does_nothing() -> None:
    machine = Machine(MachineShape(ram_bytes=1 << 20))

    assert Course(machine).lead([], range(1, 1), None) == (0, 1)
    assert machine.retired == 0
