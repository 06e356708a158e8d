"""The virtio devices as a driver meets them, a well-behaved one and one that breaks every rule."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason

from .assembly import WFI, booted, jal, li, load
from .driver import (
    BLOCK,
    BUFFERS,
    ENTROPY,
    FLOOD_ANSWERS,
    FLOOD_REQUESTS,
    INDIRECT,
    INTERRUPT,
    NET,
    NEXT,
    NOTIFY,
    QUEUES,
    SIZE,
    STATUS,
    WRITE,
    Descriptor,
    Ring,
    describe,
    flooding,
    get,
    put,
    set_up,
    used_index,
    write_register,
)

SHAPE = MachineShape(ram_bytes=1 << 20, mac=bytes.fromhex("525400123456"), disk_bytes=8192, has_entropy=True)
NEEDS_RESET = 0x40
NET_HEADER = bytes(12)


def driven(device: int, queue_count: int, notified: int) -> Machine:
    """Return a machine whose driver has set the device up, and will notify a queue each time it is woken."""
    notify = write_register(device, NOTIFY, notified)
    look = [*li(7, device + STATUS), load(10, 7, size=4), *li(7, device + INTERRUPT), load(11, 7, size=4)]
    loop = [WFI, *notify, *look]
    words = set_up(device, queue_count)
    machine = booted([*words, *loop, jal(0, -4 * len(loop))], shape=SHAPE)
    assert machine.run(10_000) is StopReason.IDLE
    return machine


def wake(machine: Machine) -> list[bytes]:
    """Let the driver go round its loop once: jump over the WFI by hand, as no interrupt is enabled."""
    state = bytearray(machine.save())
    waiting_at = 32 + 31 * 8 + 3 * 8 + 1  # header, registers, pc and position, privilege
    assert state[waiting_at] == 1
    state[waiting_at] = 0
    machine.load(bytes(state))
    assert machine.run(10_000) is StopReason.IDLE
    return [output.payload for output in machine.take_outputs()]


def offer(machine: Machine, ring: Ring, chain: list[Descriptor], *, head: int = 0, index: int = 1) -> None:
    """Write descriptors from number 0 on, and make the one at `head` available."""
    for number, part in enumerate(chain):
        describe(machine, ring, number, part)
    put(machine, ring.available + 4 + 2 * ((index - 1) % SIZE), struct.pack("<H", head))
    put(machine, ring.available + 2, struct.pack("<H", index))


def used(machine: Machine, ring: Ring) -> tuple[int, int, int]:
    """Return the used index, and the first element: which chain, and how many bytes were written to it."""
    index = struct.unpack("<H", get(machine, ring.used + 2, 2))[0]
    return (index, *struct.unpack("<II", get(machine, ring.used + 4, 8)))


def status(machine: Machine) -> int:
    return machine.register(10)


# --- net ---


def transmitting(chain: list[Descriptor], content: bytes) -> tuple[Machine, list[bytes]]:
    machine = driven(NET, 2, 1)
    put(machine, BUFFERS, content)
    offer(machine, Ring(1), chain)
    return machine, wake(machine)


def test_a_frame_in_pieces_leaves_whole_and_its_buffers_come_back() -> None:
    frame = bytes(range(100))
    pieces = [
        Descriptor(BUFFERS, 12, NEXT, 1),
        Descriptor(BUFFERS + 12, 40, NEXT, 2),
        Descriptor(BUFFERS + 52, 60),
    ]

    machine, outputs = transmitting(pieces, NET_HEADER + frame)

    assert outputs == [frame]
    assert used(machine, Ring(1)) == (1, 0, 0)
    assert machine.register(11) == 1


@pytest.mark.parametrize("length", [0, 5, 12, 12 + 1523, 60_000])
def test_what_is_no_frame_is_dropped_and_its_buffers_come_back(length: int) -> None:
    machine, outputs = transmitting([Descriptor(BUFFERS, length)], b"")

    assert outputs == []
    assert used(machine, Ring(1))[0] == 1
    assert status(machine) & NEEDS_RESET == 0


@pytest.mark.parametrize(
    "chain",
    [
        [Descriptor(BUFFERS, 64, NEXT, 0)],
        [Descriptor(BUFFERS, 64, NEXT, 1), Descriptor(BUFFERS, 64, NEXT, 0)],
        [Descriptor(BUFFERS, 64, NEXT, SIZE)],
        [Descriptor(0x1000, 64)],
        [Descriptor(RAM_BASE + SHAPE.ram_bytes - 32, 64)],
        [Descriptor((1 << 64) - 8, 64)],
        [Descriptor(BUFFERS, 64, INDIRECT)],
        [Descriptor(BUFFERS, 64, NEXT | WRITE, 1), Descriptor(BUFFERS, 64)],
    ],
    ids=["loop", "long loop", "no such next", "not ram", "over the end", "wraps", "indirect", "written before read"],
)
def test_a_broken_chain_stops_the_device_until_it_is_reset(chain: list[Descriptor]) -> None:
    machine, outputs = transmitting(chain, b"")

    assert outputs == []
    assert status(machine) & NEEDS_RESET
    assert used(machine, Ring(1))[0] == 0
    assert not machine.receive_frame(bytes(60))


def test_more_chains_than_the_queue_holds_are_a_fault_of_the_driver() -> None:
    machine = driven(NET, 2, 1)
    offer(machine, Ring(1), [Descriptor(BUFFERS, 64)], index=SIZE + 1)

    assert wake(machine) == []
    assert status(machine) & NEEDS_RESET


def receiving(length: int) -> Machine:
    machine = driven(NET, 2, 0)
    offer(machine, Ring(0), [Descriptor(BUFFERS, length, WRITE)])
    return machine


def test_a_frame_that_came_lies_behind_its_header() -> None:
    machine = receiving(2048)
    frame = bytes(range(200))

    taken = machine.receive_frame(frame)

    assert taken
    assert get(machine, BUFFERS, 212) == bytes(10) + b"\1\0" + frame
    assert used(machine, Ring(0)) == (1, 0, 212)
    assert not machine.receive_frame(frame)


def test_a_frame_for_which_the_buffer_is_too_small_is_lost() -> None:
    machine = receiving(64)

    assert machine.receive_frame(bytes(60))
    assert used(machine, Ring(0))[0] == 0


def test_looking_whether_a_frame_can_be_taken_changes_nothing() -> None:
    """How often a host looks is not part of the guest's history."""
    machine = driven(NET, 2, 0)
    offer(machine, Ring(0), [Descriptor(0x1000, 64, WRITE)])
    before, memory = machine.save(), bytes(machine.ram.buffer)

    taken = [machine.receive_frame(bytes(60)) for _ in range(3)]

    assert taken == [False] * 3
    assert (machine.save(), bytes(machine.ram.buffer)) == (before, memory)


def test_what_came_marks_its_pages() -> None:
    machine = receiving(2048)
    machine.ram.take_dirty()

    machine.receive_frame(bytes(60))

    marked = int.from_bytes(machine.ram.take_dirty(), "little")
    assert marked == 1 << ((BUFFERS - RAM_BASE) >> 12) | 1 << ((QUEUES - RAM_BASE) >> 12)


# --- block ---


def asked(kind: int, sector: int, data: Descriptor | None, content: bytes = b"") -> tuple[Machine, int]:
    """Put one request to the disk; return the machine, and the status byte that came back."""
    machine = driven(BLOCK, 1, 0)
    assert machine.disk is not None
    machine.disk.write(0, bytes(range(256)) * 32)
    header, answer = BUFFERS, BUFFERS + 0x8000
    put(machine, header, struct.pack("<IIQ", kind, 0, sector))
    put(machine, answer, b"\xff")
    chain = [Descriptor(header, 16, NEXT, 1)]
    if data is not None:
        put(machine, data.address, content)
        chain.append(Descriptor(data.address, data.length, data.flags | NEXT, 2))
    chain.append(Descriptor(answer, 1, WRITE))
    offer(machine, Ring(0), chain)
    wake(machine)
    return machine, get(machine, answer, 1)[0]


DATA = BUFFERS + 0x1000


def test_sectors_are_read() -> None:
    machine, answer = asked(0, 1, Descriptor(DATA, 1024, WRITE))

    assert answer == 0
    assert get(machine, DATA, 1024) == bytes(range(256)) * 4
    assert used(machine, Ring(0)) == (1, 0, 1025)


def test_sectors_are_written_and_their_pages_marked() -> None:
    content = b"ftvm" * 128

    machine, answer = asked(1, 9, Descriptor(DATA, 512), content)

    assert answer == 0
    assert machine.disk is not None
    assert bytes(machine.disk.buffer[9 * 512 : 10 * 512]) == content
    assert machine.disk.take_dirty()[0] == 0b11  # page 0 by the test's own filling, page 1 by both


@pytest.mark.parametrize(("kind", "is_flush"), [(0, False), (1, False), (4, True)], ids=["read", "write", "flush"])
def test_a_flush_is_noted_for_whoever_keeps_the_disk(kind: int, is_flush: bool) -> None:
    machine, _ = asked(kind, 9, None if is_flush else Descriptor(DATA, 512, WRITE if kind == 0 else 0))

    assert machine.disk is not None
    assert bool(machine.disk.flush[0]) is is_flush


@pytest.mark.parametrize(
    ("kind", "sector", "data", "expected"),
    [
        (0, 16, Descriptor(DATA, 512, WRITE), 1),
        (0, 15, Descriptor(DATA, 1024, WRITE), 1),
        (0, (1 << 64) - 1, Descriptor(DATA, 512, WRITE), 1),
        (1, 1 << 55, Descriptor(DATA, 512), 1),
        (0, 0, Descriptor(DATA, 100, WRITE), 1),
        (4, 0, None, 0),
        (99, 0, None, 2),
    ],
    ids=["behind the end", "over the end", "huge", "product wraps", "part of a sector", "flush", "unknown"],
)
def test_what_the_disk_cannot_do_is_answered(kind: int, sector: int, data: Descriptor | None, expected: int) -> None:
    machine, answer = asked(kind, sector, data)

    assert answer == expected
    assert status(machine) & NEEDS_RESET == 0


TURN = 16384
"""Retired instructions between two times at which a disk serves what a notify has left."""
MEBIBYTE = 1 << 20


@pytest.mark.parametrize("request_bytes", [MEBIBYTE, 300 * 1024, 512])
def test_no_instruction_moves_more_than_the_budget_and_one_request(request_bytes: int) -> None:
    machine = flooding(request_bytes)
    served, positions = [0], []

    while served[-1] < FLOOD_REQUESTS:
        assert machine.run(1) is StopReason.LIMIT
        if used_index(machine, Ring(0)) != served[-1]:
            served.append(used_index(machine, Ring(0)))
            positions.append(machine.position.retired)

    moved = [(after - before) * request_bytes for before, after in pairwise(served)]
    assert all(portion < 2 * MEBIBYTE for portion in moved)
    assert all(portion >= MEBIBYTE for portion in moved[:-1])
    assert [position % TURN for position in positions[1:]] == [1] * (len(moved) - 1)


def test_what_a_notify_has_left_is_served_though_the_driver_only_computes() -> None:
    machine = flooding(waits=False)

    stop = machine.run(10 * TURN)

    assert stop is StopReason.LIMIT
    assert get(machine, FLOOD_ANSWERS, FLOOD_REQUESTS) == bytes(FLOOD_REQUESTS)
    assert machine.register(8) == FLOOD_REQUESTS  # interrupts taken


def test_what_a_notify_has_left_is_served_though_the_driver_only_waits() -> None:
    machine = flooding()

    stop = machine.run(10 * TURN)

    assert stop is StopReason.IDLE
    assert used_index(machine, Ring(0)) == FLOOD_REQUESTS
    assert get(machine, FLOOD_ANSWERS, FLOOD_REQUESTS) == bytes(FLOOD_REQUESTS)


def test_a_device_that_a_driver_has_reset_is_behind_with_nothing() -> None:
    machine = flooding()
    while used_index(machine, Ring(0)) == 0:
        assert machine.run(1) is StopReason.LIMIT
    state = bytearray(machine.save())

    machine.run(10 * TURN)
    machine.load(bytes(state).replace(b"\x0f\0\0\0\1\0\0\0", b"\x4f\0\0\0\1\0\0\0"))

    assert machine.run(10 * TURN) is StopReason.IDLE


@pytest.mark.parametrize(("data_bytes", "expected"), [(MEBIBYTE, 0), (MEBIBYTE + 512, 1), (2 * MEBIBYTE, 1)])
def test_a_request_longer_than_a_mebibyte_is_answered_with_an_error(data_bytes: int, expected: int) -> None:
    machine = flooding(data_bytes)
    assert machine.disk is not None
    before = bytes(machine.disk.buffer)

    assert machine.run(20 * TURN) is StopReason.IDLE

    assert set(get(machine, FLOOD_ANSWERS, FLOOD_REQUESTS)) == {expected}
    assert (bytes(machine.disk.buffer) == before) == bool(expected)


def test_the_disk_tells_a_driver_segments_that_never_make_too_long_a_request() -> None:
    words = [*write_register(BLOCK, 0x14, 0), *li(5, BLOCK), load(10, 5, 0x10, size=4)]
    machine = booted([*words, load(11, 5, 0x108, size=4), load(12, 5, 0x10C, size=4), WFI], shape=SHAPE)

    assert machine.run(1000) is StopReason.IDLE

    assert machine.register(10) & 0b110 == 0b110  # SIZE_MAX and SEG_MAX
    assert machine.register(11) >= 4096
    assert 0 < machine.register(11) * machine.register(12) <= MEBIBYTE
    assert machine.register(12) + 2 <= 256


# --- entropy ---


def test_random_bytes_are_an_input_that_the_device_waits_for() -> None:
    machine = driven(ENTROPY, 1, 0)
    offer(machine, Ring(0), [Descriptor(BUFFERS, 16, WRITE)])
    wake(machine)

    wanted = machine.entropy_wanted()
    taken = machine.receive_entropy(bytes(range(1, 30)))

    assert (wanted, taken) == (16, 16)
    assert get(machine, BUFFERS, 17) == bytes(range(1, 17)) + b"\0"
    assert machine.entropy_wanted() == 0


# --- anything ---

descriptors = st.builds(
    Descriptor,
    st.one_of(
        st.integers(0, (1 << 64) - 1),
        st.integers(RAM_BASE - 64, RAM_BASE + SHAPE.ram_bytes + 64),
        st.just(BUFFERS),
    ),
    st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 3000)),
    st.integers(0, 7),
    st.integers(0, SIZE + 1),
)


@pytest.mark.parametrize(("device", "count", "notified"), [(NET, 2, 0), (NET, 2, 1), (BLOCK, 1, 0), (ENTROPY, 1, 0)])
@given(
    chain=st.lists(descriptors, min_size=1, max_size=SIZE),
    head=st.integers(0, SIZE + 1),
    index=st.integers(0, SIZE + 2),
    frame=st.binary(max_size=1600),
)
@settings(max_examples=60, deadline=None)
def test_no_driver_breaks_the_machine(
    device: int, count: int, notified: int, chain: list[Descriptor], head: int, index: int, frame: bytes
) -> None:
    machine = driven(device, count, notified)
    offer(machine, Ring(notified), chain, head=head, index=index)

    outputs = wake(machine)
    machine.receive_frame(frame)
    machine.receive_entropy(frame)
    machine.run(1000)

    assert all(0 < len(output) <= 1522 for output in outputs)
    machine.take_outputs()
    machine.load(machine.save())
