"""However a run is cut, cached, saved and carried to another machine: one and the same state at one position."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, Position, StopReason

from .assembly import (
    MCAUSE,
    MEPC,
    MSCRATCH,
    MTVEC,
    SMALL,
    addi,
    bne,
    booted,
    csrrs,
    csrrw,
    i_type,
    jalr,
    li,
    load,
    r_type,
    store,
    to_bytes,
)
from .driver import flooding

PROGRAMS = Path(__file__).parents[3] / "ftvm" / "guests" / "riscv" / "programs"


@dataclass(frozen=True, slots=True)
class Result:
    position: Position
    memory: str
    state: bytes
    outputs: tuple[tuple[str, bytes], ...]


def result(machine: Machine, outputs: list[tuple[str, bytes]]) -> Result:
    outputs += take(machine)
    memory = xxhash.xxh3_128(machine.ram.buffer)
    memory.update(machine.disk.buffer if machine.disk is not None else b"")
    return Result(machine.position, memory.hexdigest(), machine.save(), tuple(outputs))


def take(machine: Machine) -> list[tuple[str, bytes]]:
    return [(output.channel, output.payload) for output in machine.take_outputs()]


def straight(machine: Machine, until: int) -> Result:
    outputs: list[tuple[str, bytes]] = []
    advance(machine, until, outputs, is_cached=True)
    return result(machine, outputs)


def advance(
    machine: Machine, until: int, outputs: list[tuple[str, bytes]], *, is_cached: bool, stops: bool = False
) -> bool:
    """Run up to a retired count, letting time pass at once while the hart waits; tell whether it got there."""
    while machine.position.retired < until:
        stop = machine.run(until - machine.position.retired, stop_at_output=stops, is_cached=is_cached)
        outputs += take(machine)
        if stop is StopReason.FINISHED:
            return False
        if stop is StopReason.IDLE:
            ticks = machine.idle_max()
            if ticks is None:
                return False
            machine.idle(ticks)
    return True


def carried(machine: Machine) -> Machine:
    """Return another machine with this one's memory and state, as a takeover makes it."""
    other = Machine(machine.shape)
    other.ram.buffer[:] = machine.ram.buffer
    if other.disk is not None and machine.disk is not None:
        other.disk.buffer[:] = machine.disk.buffer
    other.load(machine.save())
    return other


@st.composite
def cuts(draw: st.DrawFn, until: int) -> list[tuple[int, str, bool]]:
    """Where to stop, what to do there, and whether to use the cache up to there."""
    places = sorted(draw(st.lists(st.integers(0, until), max_size=12, unique=True)))
    actions = st.sampled_from(["nothing", "carry", "reload", "collect"])
    return [(place, draw(actions), draw(st.booleans())) for place in places]


def sliced(machine: Machine, until: int, plan: list[tuple[int, str, bool]]) -> Result:
    outputs: list[tuple[str, bytes]] = []
    for place, action, is_cached in [*plan, (until, "nothing", True)]:
        if not advance(machine, place, outputs, is_cached=is_cached, stops=action == "collect"):
            break
        if action == "carry":
            machine = carried(machine)
        elif action == "reload":
            machine.load(machine.save())
        elif action == "collect":
            machine.ram.take_dirty()
    return result(machine, outputs)


@pytest.mark.parametrize("name", ["hello", "ticks", "dirty", "kv"])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_slicing_of_a_real_program_reaches_the_same_state(name: str, data: st.DataObject) -> None:
    image = (PROGRAMS / f"{name}.elf").read_bytes()
    shape = MachineShape(ram_bytes=8 << 20, mac=bytes.fromhex("525400123456"))
    program = parse_elf(image, ram_base=RAM_BASE, ram_bytes=shape.ram_bytes)
    until = data.draw(st.integers(1, 300_000))

    def fresh() -> Machine:
        machine = Machine(shape)
        machine.boot(program)
        return machine

    assert sliced(fresh(), until, data.draw(cuts(until))) == straight(fresh(), until)


TURN = 16384
TURNS = st.builds(lambda turn, beside: turn * TURN + beside, st.integers(1, 9), st.integers(-1, 2))
"""Where a disk serves what a notify has left, and beside."""


@given(
    until=st.one_of(TURNS, st.integers(1, 10 * TURN)),
    places=st.lists(TURNS, max_size=12),
    waits=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_slicing_of_a_disk_that_is_behind_reaches_the_same_state(
    until: int, places: list[int], waits: bool, data: st.DataObject
) -> None:
    actions = st.sampled_from(["nothing", "carry", "reload", "collect"])
    plan = [(min(place, until), data.draw(actions), data.draw(st.booleans())) for place in sorted(places)] + data.draw(
        cuts(until)
    )

    assert sliced(flooding(waits=waits), until, sorted(plan)) == straight(flooding(waits=waits), until)


# --- programs that nobody wrote: random instructions that overwrite themselves, fault, and go on ---

CODE, HANDLER = 0x1000, 0x100
CODE_WORDS = 3 * 1024  # three pages, so that instructions straddle


def chaos(words: list[int], seed: list[int]) -> Machine:
    """Random instructions between a start that points registers at themselves and a handler that goes on elsewhere."""
    start = [*li(5, RAM_BASE + HANDLER * 4), csrrw(0, MTVEC, 5)]
    for number, value in enumerate(seed, start=1):
        start += li(number, value)
    start += [*li(31, RAM_BASE + CODE), jalr(0, 31)]
    assert len(start) <= HANDLER
    # the handler: a place to go on at, from a generator in mscratch, and registers that point into the code again
    go_on = [
        csrrw(30, MSCRATCH, 30),
        *li(29, 6364136223846793005),
        r_type(0x33, 0, 1, 30, 30, 29),  # mul
        addi(30, 30, 1442),
        i_type(0x13, 5, 29, 30, 45),  # srli
        *li(28, RAM_BASE + CODE),
        i_type(0x13, 7, 29, 29, 0x7FE),  # andi
        r_type(0x33, 0, 0, 28, 28, 29),
        csrrw(0, MEPC, 28),
        csrrs(27, MCAUSE),
        csrrw(30, MSCRATCH, 30),
        r_type(0x33, 0, 0, 1, 28, 0),
        r_type(0x33, 0, 0, 2, 28, 0),
        0x30200073,
    ]
    image = start + [0x13] * (HANDLER - len(start)) + go_on
    image += [0x13] * (CODE // 4 - len(image)) + words
    return booted(image)


MEMORY_WORDS = st.builds(
    lambda op, rd, rs1, rs2, imm: load(rd, rs1, imm, size=op) if rs2 & 1 else store(rs2, rs1, imm, size=op),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 31),
    st.integers(1, 4),
    st.integers(0, 31),
    st.integers(-64, 64),
)
BRANCH_WORDS = st.builds(bne, st.integers(0, 31), st.integers(0, 31), st.integers(-40, 40).map(lambda n: n * 2))
RANDOM_WORDS = st.lists(
    st.one_of(
        st.integers(0, (1 << 32) - 1), MEMORY_WORDS, BRANCH_WORDS, st.integers(0, 0xFFFF).map(lambda h: h * 0x10001)
    ),
    min_size=20,
    max_size=60,
)


@given(
    RANDOM_WORDS, st.lists(st.integers(0, 0x2FFF).map(lambda n: RAM_BASE + CODE + n), min_size=4, max_size=4), st.data()
)
@settings(max_examples=150, deadline=None)
def test_any_slicing_of_any_bytes_reaches_the_same_state(
    words: list[int], seed: list[int], data: st.DataObject
) -> None:
    code = (words * (CODE_WORDS // len(words) + 1))[:CODE_WORDS]
    until = data.draw(st.integers(1, 20_000))

    expected = straight(chaos(code, seed), until)

    assert sliced(chaos(code, seed), until, data.draw(cuts(until))) == expected


def test_the_chaos_is_one_that_goes_on() -> None:
    """Guards the test above: it must execute many different places, not stand in one trap."""
    words = [int(xxhash.xxh32_intdigest(bytes([n & 255, n >> 8]))) for n in range(CODE_WORDS)]
    machine = chaos(words, [RAM_BASE + CODE + 4 * n for n in range(4)])
    places = set()

    for _ in range(3_000):
        machine.run(1)
        places.add(machine.register(32))

    assert len(places) > 150
    assert to_bytes(words) != bytes(machine.ram.buffer[CODE : CODE + 4 * CODE_WORDS])
    assert SMALL.ram_bytes > CODE + 4 * CODE_WORDS
