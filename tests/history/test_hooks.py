"""Hits that are noted, counts, jumps and the replay of a log: what they tell, and that hooks never show."""

import gc
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native import lib
from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import GuestError
from ftvm.guests.riscv.machine import RAM_BASE, Machine, StopReason
from ftvm.history.hooks import ALL_MARKS, Hooks, InputLog, JumpKind, marks_of
from ftvm.history.recording import Recording

from ..guests.riscv.assembly import (
    ECALL,
    MEPC,
    MRET,
    MTVEC,
    addi,
    booted,
    csrrs,
    csrrw,
    jal,
    jalr,
    li,
    r_type,
    store,
    to_bytes,
)
from ..guests.riscv.driver import FLOOD_ANSWERS, FLOOD_REQUESTS, flooding
from ..guests.riscv.test_slicing import CODE, CODE_WORDS, RANDOM_WORDS, TURN, chaos
from .hooked import LOOP, NO_LOG, NOTE, PLAIN, STOP, advance, cached_or_not, fingerprint, run
from .past import kv_past

# --- noting ---


@cached_or_not
def test_noting_keeps_the_latest_hit_and_runs_on(how: int) -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)

    stop = run(machine, 100, NOTE | how)

    hit = hooks.take_hit()
    assert hit is not None
    assert (stop, hit.retired, hit.count) == (StopReason.LIMIT, 97, 33)
    assert hooks.take_hit() is None


def test_without_a_wish_for_hits_nothing_is_noted() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)

    machine.run(100)

    assert hooks.take_hit() is None


# --- they never show ---

PLACES = st.lists(st.integers(0, 2 * CODE_WORDS).map(lambda half: RAM_BASE + CODE + 2 * half), max_size=12)
RANGES = st.lists(st.tuples(st.integers(0, 0x6000).map(lambda at: RAM_BASE + at), st.integers(1, 64)), max_size=4)


@given(
    words=RANDOM_WORDS,
    seed=st.lists(st.integers(0, 0x2FFF).map(lambda n: RAM_BASE + CODE + n), min_size=4, max_size=4),
    until=st.integers(1, 20_000),
    breaks=PLACES,
    watches=RANGES,
    options=st.sampled_from([0, NOTE, STOP, NOTE | PLAIN, STOP | PLAIN]),
    jumps_max=st.sampled_from([None, 0, 7, 1 << 16]),
)
@settings(max_examples=40, deadline=None)
def test_any_hooks_on_any_bytes_reach_the_state_of_a_run_without(
    words: list[int],
    seed: list[int],
    until: int,
    breaks: list[int],
    watches: list[tuple[int, int]],
    options: int,
    jumps_max: int | None,
) -> None:
    code = (words * (CODE_WORDS // len(words) + 1))[:CODE_WORDS]
    free, hooked = chaos(code, seed), chaos(code, seed)
    hooks = Hooks(hooked)
    for address in breaks:
        hooks.set_break(address)
    for address, size_bytes in watches:
        hooks.set_watch(address, size_bytes)
    expected = advance(free, until)

    if jumps_max is None:
        outputs = advance(hooked, until, options)
    else:
        with hooks.counting(jumps_max=jumps_max):
            outputs = advance(hooked, until, options)
    leave_breakpoint(hooked, free)

    assert (outputs, fingerprint(hooked)) == (expected, fingerprint(free))


def leave_breakpoint(*machines: Machine) -> None:
    """One more instruction: a machine is not saved where it stopped at a breakpoint."""
    for machine in machines:
        lib.ftvm_debug_pass(machine.native)
        machine.run(1)


@given(
    waits=st.booleans(),
    options=st.sampled_from([NOTE, STOP, STOP | PLAIN]),
    places=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    until=st.integers(1, 9 * TURN),
)
@settings(max_examples=20, deadline=None)
def test_stops_while_a_disk_is_behind_and_interrupts_are_due_do_not_show(
    waits: bool, options: int, places: list[int], until: int
) -> None:
    """A position may serve the disk, or take an interrupt, before its instruction: only once, though it stops there."""
    free, hooked = flooding(waits=waits), flooding(waits=waits)
    hooks = Hooks(hooked)
    around = spots_of(flooding(waits=waits), until)
    for place in places:
        hooks.set_break(around[place % len(around)])
    hooks.set_watch(FLOOD_ANSWERS, FLOOD_REQUESTS)
    expected = advance(free, until)

    outputs = advance(hooked, until, options)
    leave_breakpoint(hooked, free)

    assert (outputs, fingerprint(hooked)) == (expected, fingerprint(free))


def spots_of(machine: Machine, until: int) -> Sequence[int]:
    """Return where the machine stands at some turns of the disk, and in its interrupt handler."""
    places = [RAM_BASE + 0x4000]
    for turn in range(1, 10):
        advance(machine, min(until, turn * TURN))
        places.append(machine.register(32))
    return places


# --- marks ---

MARK_BYTES = 8


def words_that_differ(before: bytes, machine: Machine) -> set[int]:
    after = bytes(machine.ram.buffer)
    return {at // MARK_BYTES for at in range(0, len(after), MARK_BYTES) if before[at : at + 8] != after[at : at + 8]}


def marked_words(hooks: Hooks, machine: Machine) -> set[int]:
    marks = [(page, hooks.take_marks(page)) for page in range(machine.ram.page_count)]
    return {page * 512 + word for page, bits in marks if bits for word in range(512) if bits >> word & 1}


@given(
    words=RANDOM_WORDS,
    seed=st.lists(st.integers(0, 0x2FFF).map(lambda n: RAM_BASE + CODE + n), min_size=4, max_size=4),
    until=st.integers(1, 20_000),
    jumps_max=st.sampled_from([None, 0]),
)
@settings(max_examples=25, deadline=None)
def test_every_interpreter_marks_the_same_words_among_them_all_that_changed(
    words: list[int], seed: list[int], until: int, jumps_max: int | None
) -> None:
    code = (words * (CODE_WORDS // len(words) + 1))[:CODE_WORDS]
    free = chaos(code, seed)
    advance(free, until)
    told = []
    for how in (0, PLAIN):
        machine = chaos(code, seed)
        before, hooks = bytes(machine.ram.buffer), Hooks(machine)
        hooks.mark_writes()
        with hooks.counting(jumps_max=0) if jumps_max is not None else nullcontext():
            advance(machine, until, how)
        marked = marked_words(hooks, machine)

        assert fingerprint(machine) == fingerprint(free)
        assert words_that_differ(before, machine) <= marked
        told.append(marked)

    assert told[0] == told[1]


@cached_or_not
def test_a_write_of_what_stood_there_is_marked_until_it_is_asked_for(how: int) -> None:
    machine = booted([*li(5, RAM_BASE + 0x8010), store(0, 5), store(0, 5), jal(0, 0)])
    hooks = Hooks(machine)
    hooks.mark_writes()

    run(machine, 40, how)

    assert hooks.take_marks(8) == 1 << 2
    assert hooks.take_marks(8) == 0


@cached_or_not
def test_an_atomic_operation_on_a_page_that_is_dirty_already_is_marked(how: int) -> None:
    amoadd = r_type(0x2F, 3, 0, 6, 5, 5)
    machine = booted([*li(5, RAM_BASE + 0x8010), store(0, 5, 8), amoadd, jal(0, 0)])
    hooks = Hooks(machine)
    hooks.mark_writes()

    run(machine, 40, how)

    assert hooks.take_marks(8) == 1 << 2 | 1 << 3


def test_what_a_device_writes_is_marked(kv: Recording) -> None:
    machine, log = restored(kv), InputLog(kv.inputs)
    first = next(number for number, record in enumerate(kv.inputs) if record.channel == "net0")
    hooks = Hooks(machine)
    at = kv.inputs[first].position.retired
    _, taken = hooks.replay(log, 0, until=at, inputs=first)
    before = bytes(machine.ram.buffer)
    hooks.mark_writes()

    hooks.replay(log, taken, until=at, inputs=first + 1)

    assert len(words_that_differ(before, machine)) > 4
    assert words_that_differ(before, machine) <= marked_words(hooks, machine)


@given(st.integers(0, 3 * 4096), st.integers(1, 9000))
def test_the_marks_of_a_range_are_those_of_its_bytes(offset: int, size_bytes: int) -> None:
    marks = marks_of(offset, size_bytes)

    words = {page * 512 + word for page, bits in marks.items() for word in range(512) if bits >> word & 1}
    assert words == {at // MARK_BYTES for at in range(offset, offset + size_bytes)}
    assert all(0 < bits <= ALL_MARKS for bits in marks.values())


# --- counts and jumps ---


@given(
    words=RANDOM_WORDS,
    seed=st.lists(st.integers(0, 0x2FFF).map(lambda n: RAM_BASE + CODE + n), min_size=4, max_size=4),
    until=st.integers(1, 5_000),
)
@settings(max_examples=8, deadline=None)
def test_both_interpreters_count_and_trace_the_same_and_as_much_as_retired(
    words: list[int], seed: list[int], until: int
) -> None:
    code = (words * (CODE_WORDS // len(words) + 1))[:CODE_WORDS]
    unfetched = count_unfetched(chaos(code, seed), until)
    told = []
    for how in (0, PLAIN):
        machine = chaos(code, seed)
        with Hooks(machine).counting(jumps_max=2 * until + 1) as counting:
            run(machine, until, how)
            counts = counting.counts(RAM_BASE, machine.shape.ram_bytes)
            jumps, lost = counting.take_jumps()
        told.append((counts, jumps, lost))
        assert sum(counts) == machine.position.retired - unfetched

    assert told[0] == told[1]
    assert told[0][2] == 0


def count_unfetched(machine: Machine, until: int) -> int:
    """Return how many instructions lie outside of memory."""
    failed = 0
    for _ in range(until):
        retired, is_outside = (
            machine.position.retired,
            not 0 <= machine.register(32) - RAM_BASE < machine.shape.ram_bytes,
        )
        machine.run(1)
        failed += is_outside and machine.position.retired > retired
    return failed


def test_each_instruction_is_counted_as_often_as_it_was_begun() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)

    with hooks.counting() as counting:
        machine.run(31)

    assert counting.counts(RAM_BASE, 12) == [11, 0, 10, 0, 10, 0]


@cached_or_not
def test_the_trace_tells_calls_returns_traps_and_their_ends(how: int) -> None:
    setup = [*li(5, RAM_BASE + 0x400), csrrw(0, MTVEC, 5)]
    at = 4 * len(setup)
    machine = booted([*setup, jal(1, 12), ECALL, jal(0, 0), jalr(0, 1)])
    machine.ram.write(0x400, to_bytes([csrrs(6, MEPC), addi(6, 6, 4), csrrw(0, MEPC, 6), MRET]))
    machine.flush()
    hooks = Hooks(machine)

    with hooks.counting(jumps_max=8) as counting:
        run(machine, len(setup) + 8, how)
        jumps, lost = counting.take_jumps()

    told = [(jump.kind, jump.retired - len(setup), jump.target - RAM_BASE) for jump in jumps]
    assert told == [
        (JumpKind.CALL, 1, at + 12),
        (JumpKind.RETURN, 2, at + 4),
        (JumpKind.TRAP, 3, 0x400),
        (JumpKind.MRET, 7, at + 8),
        (JumpKind.JUMP, 8, at + 8),
    ]
    assert lost == 0


def test_jumps_without_room_are_counted() -> None:
    machine = booted([jal(0, 0)])
    hooks = Hooks(machine)

    with hooks.counting(jumps_max=3) as counting:
        machine.run(10)
        jumps, lost = counting.take_jumps()

    assert (len(jumps), lost) == (3, 7)


# --- replay ---


@pytest.fixture(scope="module")
def kv() -> Recording:
    return kv_past(20)


def restored(past: Recording) -> Machine:
    machine = Machine(past.shape)
    past.restore(machine)
    return machine


def led_by_python(past: Recording) -> Machine:
    machine = restored(past)
    for record in past.inputs:
        machine.run(record.position.retired - machine.position.retired)
        machine.take_outputs()
        assert machine.position.idled == record.position.idled
        if record.kind is LogKind.CLOCK:
            machine.idle(record.amount)
        else:
            assert machine.receive_frame(record.payload)
    machine.run(past.end.retired - machine.position.retired)
    machine.take_outputs()
    return machine


def test_a_replay_in_the_core_reaches_what_one_from_python_reaches(kv: Recording) -> None:
    machine = restored(kv)

    stop, taken = Hooks(machine).replay(InputLog(kv.inputs), 0, until=kv.end.retired)

    assert (stop, taken) == (StopReason.LIMIT, len(kv.inputs))
    assert machine.position == led_by_python(kv).position
    assert fingerprint(machine) == fingerprint(led_by_python(kv))


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_replay_may_be_cut_anywhere_even_between_two_inputs(kv: Recording, data: st.DataObject) -> None:
    machine, log = restored(kv), InputLog(kv.inputs)
    hooks = Hooks(machine)
    taken = 0
    for until in sorted(data.draw(st.lists(st.integers(0, kv.end.retired), max_size=5))):
        most = data.draw(st.integers(taken, len(log)))
        if any(record.position.retired < until for record in kv.inputs[most:]):
            continue  # one that is left out would be missed
        _, taken = hooks.replay(log, taken, until=until, inputs=most)

    hooks.replay(log, taken, until=kv.end.retired)

    assert fingerprint(machine) == fingerprint(led_by_python(kv))


def clock(position: GuestPosition, amount: int = 1) -> LogRecord:
    return LogRecord(index=1, kind=LogKind.CLOCK, position=position, amount=amount)


def test_a_log_of_another_state_is_refused_by_the_place_where_it_parts() -> None:
    machine = booted([addi(1, 1, 1), 0x10500073, jal(0, 0)])

    with pytest.raises(GuestError, match=r"does not take its clock input number 1, of .*does not belong"):
        Hooks(machine).replay(InputLog([clock(GuestPosition(2, 5))]), 0, until=10)


def test_a_machine_that_waits_for_an_input_that_is_not_in_the_log_is_named() -> None:
    machine = booted([addi(1, 1, 1), 0x10500073, jal(0, 0)])

    with pytest.raises(GuestError, match=r"waits at .* behind the last input of its log"):
        Hooks(machine).replay(NO_LOG, 0, until=10)


@pytest.mark.parametrize("channel", ["net0", "entropy", "cable"])
def test_an_input_that_the_machine_cannot_take_is_named(channel: str) -> None:
    record = LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(3, 0), channel=channel, payload=b"x" * 60)

    with pytest.raises(GuestError, match=f"does not take its {channel} input"):
        Hooks(booted(LOOP)).replay(InputLog([record]), 0, until=10)


def test_a_hit_of_an_input_is_told_with_the_inputs_before_it(kv: Recording) -> None:
    """A frame is written to memory by the card, between two instructions."""
    machine, log = restored(kv), InputLog(kv.inputs)
    first = next(number for number, record in enumerate(kv.inputs) if record.channel == "net0")
    hooks = Hooks(machine)
    _, taken = hooks.replay(log, 0, until=kv.inputs[first].position.retired, inputs=first)
    assert hooks.set_watch(RAM_BASE, machine.shape.ram_bytes)

    stop, taken = hooks.replay(log, taken, until=kv.end.retired, on_hits="stop")

    hit = hooks.take_hit()
    assert hit is not None
    assert (stop, hit.retired, hit.inputs) == (StopReason.HIT, kv.inputs[first].position.retired, first)


def test_hooks_that_nobody_holds_any_more_are_not_written_to_after_their_memory_is_gone() -> None:
    machine = booted(LOOP)
    Hooks(machine).set_break(RAM_BASE + 4)
    gc.collect()

    assert run(machine, 10, STOP) is StopReason.HIT


def test_closed_hooks_stop_nothing() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)

    hooks.close()

    assert run(machine, 10, STOP) is StopReason.LIMIT
    assert not hooks.set_break(RAM_BASE)


def test_a_hit_tells_how_many_inputs_came_before_it(kv: Recording) -> None:
    machine, log = restored(kv), InputLog(kv.inputs)
    hooks = Hooks(machine)
    hooks.set_watch(RAM_BASE, machine.shape.ram_bytes)
    until = kv.inputs[9].position.retired + 1_000

    hooks.replay(log, 0, until=until, on_hits="note")

    hit = hooks.take_hit()
    assert hit is not None
    assert hit.inputs == sum(record.position.retired <= hit.retired for record in kv.inputs) >= 10
