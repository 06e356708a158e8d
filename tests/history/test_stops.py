"""Breakpoints and watches: where a run stops."""

import pytest

from ftvm.errors import LocalProtocolError
from ftvm.guests.riscv.machine import RAM_BASE, StopReason
from ftvm.history.hooks import HitKind, Hooks

from ..guests.riscv.assembly import (
    EBREAK,
    LI_WORDS,
    MCAUSE,
    MEPC,
    MRET,
    MTVEC,
    addi,
    booted,
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
from .hooked import LOOP, NOTE, STOP, cached_or_not, run

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
