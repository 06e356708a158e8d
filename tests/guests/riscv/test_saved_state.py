"""Whatever a guest did to its devices: what save writes, load takes, and both machines go on alike.

A state that does not load shows only at the takeover, when it is too late. So no register, no ring and no order of
inputs may lead to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason

from .assembly import CLINT, FINISHER, LI_WORDS, MTVEC, PLIC, UART, WFI, booted, csrrw, jal, li, load, store
from .assembly import to_bytes as code

SHAPE = MachineShape(ram_bytes=1 << 18, mac=bytes.fromhex("525400123456"), disk_bytes=1 << 16, has_entropy=True)
NET, BLOCK, ENTROPY = 0x10001000, 0x10002000, 0x10003000
STATUS, QUEUE_SELECT, QUEUE_SIZE, QUEUE_READY, NOTIFY = 0x70, 0x30, 0x38, 0x44, 0x50
RINGS = RAM_BASE + 0x10000
RING_BYTES = 0x1000
LOOP = 0x100
"""Where the instructions of a step lie; before them only the setting of the trap vector, which leads there as well."""
PC = 32
WAITING_AT = 32 + 31 * 8 + 3 * 8 + 1
"""In the saved state: behind header, registers, pc and position, privilege."""
LOOP_WORDS = 2 * LI_WORDS + 2


@dataclass(frozen=True, slots=True)
class Store:
    address: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Load:
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Csr:
    number: int
    value: int


@dataclass(frozen=True, slots=True)
class Wait:
    """WFI; some of the time that is then left passes."""

    share: int


@dataclass(frozen=True, slots=True)
class Frame:
    content: bytes


@dataclass(frozen=True, slots=True)
class Keys:
    content: bytes


@dataclass(frozen=True, slots=True)
class Entropy:
    content: bytes


@dataclass(frozen=True, slots=True)
class Poke:
    """Memory gets some content: a ring, a descriptor, a request."""

    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Run:
    instructions: int


Step = Store | Load | Csr | Wait | Frame | Keys | Entropy | Poke | Run


def fresh() -> Machine:
    """Return a machine that traps to where its next step begins."""
    machine = booted([*li(5, RAM_BASE + LOOP), csrrw(0, MTVEC, 5), jal(0, LOOP - 4 * (LI_WORDS + 1))], shape=SHAPE)
    machine.run(LI_WORDS + 2)
    return machine


def take(machine: Machine, step: Step) -> None:
    match step:
        case Frame(content):
            machine.receive_frame(content)
        case Keys(content):
            machine.receive_console(content)
        case Entropy(content):
            machine.receive_entropy(content)
        case Poke(offset, content):
            machine.ram.write(offset, content)
            machine.flush()
        case Run(instructions):
            machine.run(instructions)
        case Wait(share):
            execute(machine, [WFI])
            if (ticks := machine.idle_max()) is not None:
                machine.idle(ticks * share // 4)
        case Store(address, size, value):
            execute(machine, [*li(5, address), *li(6, value), store(6, 5, size=size)])
        case Load(address, size):
            execute(machine, [*li(5, address), load(6, 5, size=size)])
        case Csr(number, value):
            execute(machine, [*li(5, value), csrrw(6, number, 5)])
    machine.take_outputs()


def execute(machine: Machine, words: list[int]) -> None:
    """Let the hart go once through these instructions, which stand in a loop."""
    loop = [*words, *[0x13] * (LOOP_WORDS - 1 - len(words))]
    machine.ram.write(LOOP, code([*loop, jal(0, -4 * len(loop))]))
    machine.flush()
    awaken(machine)
    for _ in range(LOOP_WORDS):
        stop = machine.run(1)
        if stop is not StopReason.LIMIT or machine.register(PC) == RAM_BASE + LOOP:
            return


def awaken(machine: Machine) -> None:
    """Let the hart go on behind a WFI, as an interrupt would."""
    state = bytearray(machine.save())
    if state[WAITING_AT]:
        state[WAITING_AT] = 0
        machine.load(bytes(state))


def saved(machine: Machine) -> bytes:
    machine.settle()
    machine.take_outputs()
    return machine.save()


def snapshot(machine: Machine) -> tuple[bytes, str]:
    assert machine.disk is not None
    memory = xxhash.xxh3_128(machine.ram.buffer)
    memory.update(machine.disk.buffer)
    return saved(machine), memory.hexdigest()


def taken_over(machine: Machine) -> Machine:
    """Return another machine that loaded what this one saved."""
    state = saved(machine)
    other = Machine(machine.shape)
    assert machine.disk is not None
    assert other.disk is not None
    other.ram.buffer[:] = machine.ram.buffer
    other.disk.buffer[:] = machine.disk.buffer
    other.load(state)
    return other


# --- what a guest may do ---

VIRTIO_REGISTERS = [
    *(0x14, 0x20, 0x24, QUEUE_SELECT, QUEUE_SIZE, QUEUE_READY, NOTIFY, 0x64, STATUS),
    *(0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4),
]
REGISTERS = {
    1: [UART + offset for offset in range(8)],
    4: [
        *(PLIC + offset for offset in (0, 8, 40, 0x1000, 0x2000, 0x200000, 0x200004)),
        *(CLINT + offset for offset in (0, 0x4004, 0xBFF8)),
    ],
    8: [CLINT + offset for offset in (0, 0x4000, 0xBFF8)],
}
"""By the size that is right for them; virtio's are in the episodes."""
EVERY_REGISTER = [register for registers in REGISTERS.values() for register in registers]
addresses = st.one_of(st.integers(NET, NET + 0x4000), st.integers(0, (1 << 64) - 1))
values = st.one_of(
    st.integers(0, 16),
    st.sampled_from([*(1 << bit for bit in range(64)), (1 << 32) - 1, (1 << 64) - 1, 0xCF, 0x3333, 0x5555]),
    st.integers(0, 0xFFF).map(lambda offset: RINGS + offset),
    st.integers(0, (1 << 64) - 1),
)
CSRS = [0x300, 0x304, 0x306, 0x320, 0x340, 0x341, 0x342, 0x343, 0x3A0, 0x3B0, 0xB00, 0xB02]
sizes = st.sampled_from([1, 2, 4, 4, 4, 8])
contents = st.binary(max_size=64)
descriptors = st.builds(
    lambda address, length, flags, following: (
        address.to_bytes(8, "little")
        + length.to_bytes(4, "little")
        + flags.to_bytes(2, "little")
        + following.to_bytes(2, "little")
    ),
    st.one_of(st.integers(0, 0x2000).map(lambda offset: RINGS + offset), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.integers(0, 1100), st.integers(0, (1 << 32) - 1)),
    st.integers(0, 7),
    st.integers(0, 9),
)
pokes = st.one_of(
    st.builds(Poke, st.integers(0x10000, 0x11400), contents),
    st.builds(
        lambda ring, number, content: Poke(0x10000 + ring * RING_BYTES + 16 * number, content),
        st.integers(0, 1),
        st.integers(0, 7),
        descriptors,
    ),
    st.builds(
        lambda ring, index, heads: Poke(
            0x10400 + ring * RING_BYTES, b"".join(n.to_bytes(2, "little") for n in (0, index, *heads))
        ),
        st.integers(0, 1),
        st.integers(0, 9),
        st.lists(st.integers(0, 8), max_size=8),
    ),
)
stores = st.one_of(
    *(st.builds(Store, st.sampled_from(registers), st.just(size), values) for size, registers in REGISTERS.items()),
    st.builds(Store, st.sampled_from(EVERY_REGISTER), sizes, values),
    st.builds(Store, addresses, sizes, values),
)
traps = st.builds(Csr, st.just(MTVEC), st.integers(0, 3).map(lambda low: RAM_BASE + LOOP + low))
csrs = st.one_of(st.builds(Csr, st.sampled_from(CSRS), values), traps)


def set_up(device: int, queue: int, size: int) -> list[Step]:
    """What a well-behaved driver does, so that the steps after it meet a device that works."""
    ring = RINGS + queue * RING_BYTES
    writes = [(0x24, 1), (0x20, 1), (STATUS, 11), (QUEUE_SELECT, queue), (QUEUE_SIZE, size)]
    writes += [(0x80, ring), (0x90, ring + 0x400), (0xA0, ring + 0x800), (QUEUE_READY, 1), (STATUS, 15)]
    return [Store(device + offset, 4, value & 0xFFFFFFFF) for offset, value in writes]


@st.composite
def episodes(draw: st.DrawFn) -> list[Step]:
    """Set a device up and use it, now by the rules and now against them."""
    device = draw(st.sampled_from([NET, BLOCK, ENTROPY]))
    queue = draw(st.integers(0, 1 if device == NET else 0))
    tampering = st.builds(Store, st.sampled_from(VIRTIO_REGISTERS).map(device.__add__), st.just(4), values)
    sensitive = st.builds(Store, st.sampled_from([device + QUEUE_SIZE, device + STATUS]), st.just(4), values)
    notifying = st.just(Store(device + NOTIFY, 4, queue))
    uses = draw(st.lists(st.one_of(tampering, sensitive, pokes, notifying, inputs), min_size=3, max_size=12))
    begin = [*set_up(device, queue, draw(st.sampled_from([8, 4, 1, 256, 0, 3]))), *offer(queue, draw(st.booleans()))]
    return [*begin, *draw(st.permutations([Store(device + NOTIFY, 4, queue), Frame(bytes(60)), *uses]))]


def offer(queue: int, is_writable: bool) -> list[Step]:
    """What a driver writes to have one buffer used; the rings are where `set_up` says."""
    ring = 0x10000 + queue * RING_BYTES
    buffer = (RINGS + 0x4000).to_bytes(8, "little") + (128).to_bytes(4, "little") + bytes([2 * is_writable, 0, 0, 0])
    return [Poke(ring, buffer), Poke(ring + 0x400, bytes([0, 0, 1, 0, 0, 0]))]


CLAIMED: list[Step] = [
    *(Store(UART + 1, 1, 3), Store(PLIC + 40, 4, 1), Store(PLIC + 0x2000, 4, 1 << 10)),
    Load(PLIC + 0x200004, 4),
]
"""The uart interrupts, and is being served."""


inputs: st.SearchStrategy[Step] = st.one_of(
    st.builds(Frame, st.binary(max_size=1600)), st.builds(Keys, contents), st.builds(Entropy, contents)
)
others: st.SearchStrategy[Step] = st.one_of(
    st.builds(Load, st.one_of(st.sampled_from(EVERY_REGISTER), addresses), sizes),
    st.builds(Wait, st.integers(0, 4)),
    st.builds(Run, st.integers(0, 40_000)),
    st.builds(Store, st.just(FINISHER), st.just(4), values),
)
alone: st.SearchStrategy[list[Step]] = st.one_of(stores, stores, csrs, pokes, inputs, others).map(lambda step: [step])
plans = st.lists(st.one_of(episodes(), episodes(), alone, alone, st.just(CLAIMED)), min_size=6, max_size=24).map(
    lambda parts: [step for part in parts for step in part]
)


LOOKS: list[Step] = [
    *(Load(register, size) for size, registers in REGISTERS.items() for register in registers),
    *(Load(device + offset, 4) for device in (NET, BLOCK, ENTROPY) for offset in (QUEUE_READY, 0x60, STATUS)),
    *(Store(device + NOTIFY, 4, queue) for device in (NET, BLOCK, ENTROPY) for queue in (0, 1)),
    *(Frame(bytes(60)), Entropy(bytes(64)), Run(40_000)),
]
"""All that a guest can see of the devices, so that a difference between two machines shows."""


@given(plans, st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_what_any_guest_saves_loads_and_both_go_on_alike(plan: Sequence[Step], taken_over_at: int) -> None:
    machine, spare = fresh(), fresh()
    for step in plan[:taken_over_at]:
        take(machine, step)
        spare.load(saved(machine))

    other = taken_over(machine)

    assert snapshot(other) == snapshot(machine)
    for step in [*plan[taken_over_at:], *LOOKS]:
        take(machine, step)
        take(other, step)
        assert other.register(6) == machine.register(6)
    assert snapshot(other) == snapshot(machine)
    taken_over(machine)


EVERY_WRITE: list[Store | Csr] = [
    *(Store(register, size, 0) for size, registers in REGISTERS.items() for register in registers),
    *(Store(device + offset, 4, 0) for device in (NET, BLOCK, ENTROPY) for offset in VIRTIO_REGISTERS),
    *(Csr(number, 0) for number in [*CSRS, MTVEC]),
]


@pytest.mark.parametrize("value", [(1 << 64) - 1, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA], ids=hex)
def test_every_register_takes_any_value_and_the_state_still_loads(value: int) -> None:
    for write in EVERY_WRITE:
        machine = fresh()

        take(machine, replace(write, value=value))

        taken_over(machine)


@pytest.mark.parametrize("device", [NET, BLOCK, ENTROPY], ids=["net", "block", "entropy"])
@pytest.mark.parametrize(
    ("register", "value"),
    [
        (QUEUE_SIZE, 0),
        (QUEUE_SIZE, 3),
        (QUEUE_SIZE, 4),
        (0x80, 0),
        (0x84, 1),
        (0x90, 0),
        (0x94, 1),
        (0xA0, 0),
        (0xA4, 1),
    ],
    ids=hex,
)
def test_a_queue_that_is_ready_keeps_its_size_and_place(device: int, register: int, value: int) -> None:
    machine = fresh()
    for step in set_up(device, 0, 8):
        take(machine, step)
    before = devices_of(machine)

    take(machine, Store(device + register, 4, value))

    assert devices_of(machine) == before
    taken_over(machine)


def devices_of(machine: Machine) -> bytes:
    """Return what of the saved state is not the hart's, which moves on in any case."""
    return saved(machine)[32 + 31 * 8 + 3 * 8 + 3 + 14 * 8 :]


@pytest.mark.parametrize("way", ["ready", "reset"])
def test_a_queue_can_be_set_up_anew_once_it_is_no_longer_ready(way: str) -> None:
    machine = fresh()
    for step in set_up(NET, 0, 8):
        take(machine, step)
    untouched = devices_of(machine)

    take(machine, Store(NET + (QUEUE_READY if way == "ready" else STATUS), 4, 0))
    for step in set_up(NET, 0, 4):
        take(machine, step)

    assert devices_of(machine) != untouched
    taken_over(machine)
