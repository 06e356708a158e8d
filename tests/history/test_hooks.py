"""Breakpoints, watches, counts and the replay of a log: what they tell, and that they never show."""

import gc
from collections.abc import Sequence

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm._native import lib
from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.errors import GuestError, LocalProtocolError
from ftvm.guests.riscv.machine import RAM_BASE, Machine, StopReason
from ftvm.history.hooks import HitKind, Hooks, InputLog, JumpKind
from ftvm.history.recording import Recording

from ..guests.riscv.assembly import (
    EBREAK,
    ECALL,
    LI_WORDS,
    MCAUSE,
    MEPC,
    MRET,
    MTVEC,
    addi,
    booted,
    csrrs,
    csrrw,
    finish,
    jal,
    jalr,
    li,
    r_type,
    store,
    to_bytes,
)
from ..guests.riscv.driver import FLOOD_ANSWERS, FLOOD_REQUESTS, flooding
from ..guests.riscv.test_slicing import CODE, CODE_WORDS, RANDOM_WORDS, TURN, chaos
from .past import kv_past

NOTE, STOP, PLAIN = lib.FTVM_RISCV_NOTE_HITS, lib.FTVM_RISCV_STOP_AT_HITS, lib.FTVM_RISCV_NO_CACHE
cached_or_not = pytest.mark.parametrize("how", [0, PLAIN], ids=["cached", "plain"])
LOOP = [addi(1, 1, 1), addi(2, 2, 1), jal(0, -8)]
NO_LOG = InputLog([])


def run(machine: Machine, instructions: int, options: int) -> StopReason:
    return StopReason(lib.ftvm_riscv_run(machine.native, instructions, options))


def fingerprint(machine: Machine) -> str:
    memory = xxhash.xxh3_128(machine.save())
    memory.update(machine.ram.buffer)
    memory.update(machine.disk.buffer if machine.disk is not None else b"")
    return memory.hexdigest()


def advance(machine: Machine, until: int, options: int = 0) -> list[tuple[str, bytes]]:
    """Run to a retired count, passing each hit and letting time go by while the hart waits; return the outputs."""
    outputs: list[tuple[str, bytes]] = []
    while machine.position.retired < until:
        stop = run(machine, until - machine.position.retired, options)
        outputs += [(output.channel, output.payload) for output in machine.take_outputs()]
        if stop is StopReason.HIT:
            lib.ftvm_debug_pass(machine.native)
        elif stop is StopReason.IDLE and (ticks := machine.idle_max()) is not None:
            machine.idle(ticks)
        elif stop is not StopReason.LIMIT:
            break
    return outputs


# --- breakpoints ---


@cached_or_not
def test_a_run_stops_before_the_instruction_with_a_breakpoint(how: int) -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)

    stop = run(machine, 100, STOP | how)

    assert (stop, machine.register(32), machine.position.retired) == (StopReason.HIT, RAM_BASE + 4, 1)
    assert machine.register(2) == 0
    hit = hooks.take_hit()
    assert hit is not None
    assert (hit.kind, hit.retired, hit.address, hit.count) == (HitKind.BREAK, 1, RAM_BASE + 4, 1)


@cached_or_not
def test_a_breakpoint_is_passed_only_when_told(how: int) -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)
    run(machine, 100, STOP | how)

    stays = run(machine, 100, STOP | how), machine.position.retired
    hooks.pass_break()
    goes = run(machine, 100, STOP | how), machine.position.retired

    assert stays == (StopReason.HIT, 1)
    assert goes == (StopReason.HIT, 4)


@cached_or_not
def test_a_cleared_breakpoint_stops_nothing(how: int) -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)
    run(machine, 100, STOP | how)

    hooks.set_break(RAM_BASE + 4, False)

    assert run(machine, 100, STOP | how) is StopReason.LIMIT


def test_a_breakpoint_in_code_that_runs_already_is_seen() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)
    run(machine, 99, 0)

    hooks.set_break(RAM_BASE + 8)

    assert run(machine, 99, STOP) is StopReason.HIT
    assert machine.register(32) == RAM_BASE + 8


def test_a_breakpoint_on_the_plain_path_stops_where_memory_protection_closes_the_window() -> None:
    """User mode with a small open range: no decoded code is used."""
    body = 0x400
    start = [*li(7, (RAM_BASE >> 2) | 0x1FF), csrrw(0, 0x3B0, 7), addi(7, 0, 0x1F), csrrw(0, 0x3A0, 7)]
    start += [*li(6, RAM_BASE + body), csrrw(0, MEPC, 6), MRET]
    machine = booted(start + [0x13] * (body // 4 - len(start)) + LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + body + 4)

    assert run(machine, 1_000, STOP) is StopReason.HIT
    assert (machine.register(32), machine.register(1)) == (RAM_BASE + body + 4, 1)


@pytest.mark.parametrize("count", [0, 64], ids=["cached", "counted"])
def test_a_compressed_instruction_goes_on_behind_itself_after_its_breakpoint(count: int) -> None:
    """Two lengths must never share one way back: that divergence is silent."""
    halves = (0x0085, 0x0105, 0x0185)  # c.addi x1, 1; c.addi x2, 1; c.addi x3, 1
    machine = booted([jal(0, 0)])
    machine.ram.write(0, b"".join(half.to_bytes(2, "little") for half in halves) + to_bytes([jal(0, -6)]))
    machine.flush()
    hooks = Hooks(machine)
    for address in range(RAM_BASE, RAM_BASE + 8, 2):
        hooks.set_break(address)

    with hooks.counting(jumps_max=count):
        run(machine, 40, NOTE)

    assert [machine.register(number) for number in (1, 2, 3)] == [10, 10, 10]


@pytest.mark.parametrize("place", [0xFFE, 0x1FFE], ids=hex)
def test_an_instruction_across_two_pages_is_hit_once(place: int) -> None:
    machine = booted([*li(5, RAM_BASE + place), jalr(0, 5)])
    machine.ram.write(place, to_bytes([addi(1, 1, 1), jal(0, 0)]))
    machine.flush()
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + place)

    run(machine, 100, NOTE)

    hit = hooks.take_hit()
    assert hit is not None
    assert (hit.count, hit.retired, machine.register(1)) == (1, LI_WORDS + 1, 1)


def test_ebreak_stays_the_guests_own() -> None:
    handler = 4 * (LI_WORDS + 2)
    machine = booted([*li(5, RAM_BASE + handler), csrrw(0, MTVEC, 5), EBREAK, *finish(1)])
    Hooks(machine)

    stop = run(machine, 100, STOP)

    assert stop is StopReason.FINISHED
    assert machine.csr(MCAUSE) == 3


def test_no_breakpoint_where_no_instruction_can_be() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)

    assert not hooks.set_break(RAM_BASE + 1)
    assert not hooks.set_break(RAM_BASE - 2)
    assert not hooks.set_break(RAM_BASE + machine.shape.ram_bytes)


def test_a_machine_that_stands_at_a_breakpoint_is_not_saved() -> None:
    """An interrupt may be taken there already: the state would not be that of its position."""
    machine = booted(LOOP)
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE)
    run(machine, 10, STOP)

    with pytest.raises(LocalProtocolError, match="not at a breakpoint"):
        machine.save()


# --- watches ---

DATA = RAM_BASE + 0x8000


@cached_or_not
def test_a_run_stops_behind_the_instruction_that_wrote_to_a_watched_range(how: int) -> None:
    machine = booted([*li(5, DATA), store(5, 5, 0), store(5, 5, 16), *LOOP])
    hooks = Hooks(machine)
    assert hooks.set_watch(DATA + 20, 2)

    stop = run(machine, 100, STOP | how)

    assert (stop, machine.position.retired) == (StopReason.HIT, LI_WORDS + 2)
    hit = hooks.take_hit()
    assert hit is not None
    assert (hit.kind, hit.retired, hit.address) == (HitKind.WATCH, LI_WORDS + 1, DATA + 20)


AMOADD_D = r_type(0x2F, 3, 0, 0, 5, 1)
SC_D = [r_type(0x2F, 3, 0x08, 7, 5, 0), r_type(0x2F, 3, 0x0C, 7, 5, 1)]


@cached_or_not
@pytest.mark.parametrize(
    "words",
    [[store(1, 5, 0, size=1)], [store(1, 5, -3, size=4)], [AMOADD_D], SC_D],
    ids=["byte", "misaligned", "amo", "sc"],
)
def test_each_way_to_write_is_watched(how: int, words: list[int]) -> None:
    machine = booted([*li(5, DATA), store(5, 5), *words, *LOOP])
    hooks = Hooks(machine)
    machine.run(LI_WORDS + 1)  # the page is dirty now: a store to it needs no second look
    hooks.set_watch(DATA, 1)

    assert run(machine, 100, STOP | how) is StopReason.HIT
    assert machine.position.retired == LI_WORDS + 1 + len(words)


def test_a_write_beside_a_watched_range_stops_nothing() -> None:
    machine = booted([*li(5, DATA), store(5, 5, 0), store(5, 5, 24), *LOOP])
    hooks = Hooks(machine)
    hooks.set_watch(DATA + 8, 16)

    assert run(machine, 100, STOP) is StopReason.LIMIT


def test_a_write_by_a_device_is_watched() -> None:
    machine = flooding()
    hooks = Hooks(machine)
    hooks.set_watch(FLOOD_ANSWERS, FLOOD_REQUESTS)

    stop = run(machine, 1_000_000, STOP)

    hit = hooks.take_hit()
    assert (stop, hit is not None and hit.kind) == (StopReason.HIT, HitKind.WATCH)


def test_a_watch_outlives_a_flush_and_the_taking_of_dirty_pages() -> None:
    machine = booted([*li(5, DATA), store(5, 5), store(5, 5), jal(0, -4)])
    hooks = Hooks(machine)
    hooks.set_watch(DATA, 8)
    machine.run(LI_WORDS + 1)
    machine.ram.put_dirty(machine.ram.take_dirty())
    machine.flush()

    assert run(machine, 10, STOP) is StopReason.HIT


def test_watches_are_limited_and_lie_in_memory() -> None:
    machine = booted(LOOP)
    hooks = Hooks(machine)

    most = [hooks.set_watch(DATA + 8 * number, 8) for number in range(17)]

    assert most == [True] * 16 + [False]
    assert hooks.set_watch(DATA, 8, False)
    assert not hooks.set_watch(RAM_BASE + machine.shape.ram_bytes - 4, 8)
    assert not hooks.set_watch(DATA, 0)
    assert not hooks.set_watch(DATA, (1 << 64) - 1)
    assert not hooks.set_watch(DATA + 4, 8, False)


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


def test_a_breakpoint_that_was_passed_is_met_again_after_a_load() -> None:
    machine = booted(LOOP)
    state = machine.save()
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE)
    hooks.pass_break()
    assert run(machine, 2, STOP) is StopReason.LIMIT

    machine.load(state)

    assert run(machine, 2, STOP) is StopReason.HIT


def test_a_load_ends_the_stop_at_a_breakpoint() -> None:
    machine = booted(LOOP)
    state = machine.save()
    hooks = Hooks(machine)
    hooks.set_break(RAM_BASE + 4)
    run(machine, 10, STOP)

    machine.load(state)

    assert machine.save() == state
