"""What a virtio driver writes: registers as instructions, rings and descriptors as memory; and a driver that floods."""

import struct
from dataclasses import dataclass

from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape

from .assembly import MIE, MRET, MSTATUS, MTVEC, PLIC, WFI, addi, booted, csrrw, jal, li, load, store, to_bytes

NET, BLOCK, ENTROPY = 0x10001000, 0x10002000, 0x10003000
STATUS, NOTIFY, INTERRUPT = 0x70, 0x50, 0x60
NEXT, WRITE, INDIRECT = 1, 2, 4
SIZE = 8
QUEUES = RAM_BASE + 0x10000
BUFFERS = RAM_BASE + 0x20000


@dataclass(frozen=True, slots=True)
class Descriptor:
    address: int
    length: int
    flags: int = 0
    next: int = 0


@dataclass(frozen=True, slots=True)
class Ring:
    """Where a queue lies in memory."""

    number: int

    @property
    def descriptors(self) -> int:
        return QUEUES + self.number * 0x1000

    @property
    def available(self) -> int:
        return self.descriptors + 0x400

    @property
    def used(self) -> int:
        return self.descriptors + 0x800


def write_register(device: int, offset: int, value: int) -> list[int]:
    return [*li(5, device + offset), *li(6, value), store(6, 5, size=4)]


def set_up(device: int, queue_count: int, size: int = SIZE) -> list[int]:
    words = []
    for value in (0, 1, 3):
        words += write_register(device, STATUS, value)
    words += write_register(device, 0x24, 1) + write_register(device, 0x20, 1)  # VERSION_1 alone
    words += write_register(device, STATUS, 11)
    for number in range(queue_count):
        ring = Ring(number)
        words += write_register(device, 0x30, number) + write_register(device, 0x38, size)
        for offset, address in ((0x80, ring.descriptors), (0x90, ring.available), (0xA0, ring.used)):
            words += write_register(device, offset, address & 0xFFFFFFFF)
            words += write_register(device, offset + 4, address >> 32)
        words += write_register(device, 0x44, 1)
    return words + write_register(device, STATUS, 15)


def put(machine: Machine, address: int, content: bytes) -> None:
    machine.ram.write(address - RAM_BASE, content)


def get(machine: Machine, address: int, length: int) -> bytes:
    return bytes(machine.ram.buffer[address - RAM_BASE : address - RAM_BASE + length])


def describe(machine: Machine, ring: Ring, number: int, part: Descriptor) -> None:
    raw = struct.pack("<QIHH", part.address, part.length, part.flags, part.next)
    put(machine, ring.descriptors + 16 * number, raw)


def used_index(machine: Machine, ring: Ring) -> int:
    return int.from_bytes(get(machine, ring.used + 2, 2), "little")


# --- a driver that asks for more at once than one instruction may do ---

FLOOD_SHAPE = MachineShape(ram_bytes=4 << 20, disk_bytes=2 << 20)
FLOOD_REQUESTS = 8
FLOOD_ANSWERS = BUFFERS + 0x1000
FLOOD_DATA = RAM_BASE + (1 << 20)
_FLOOD_QUEUE = 32
_FLOOD_HANDLER = RAM_BASE + 0x4000
_BLOCK_SOURCE = 2


def flooding(request_bytes: int = 1 << 20, *, waits: bool = True) -> Machine:
    """Return a machine that will ask its disk to read and write so much, in turns, by one notify, and then wait.

    Or compute for ever, without an instruction that anybody but the interpreter sees.
    """
    then = WFI if waits else addi(7, 7, 1)
    ask = [*set_up(BLOCK, 1, _FLOOD_QUEUE), *write_register(BLOCK, NOTIFY, 0), then, jal(0, -4)]
    machine = booted([*_take_interrupts(_FLOOD_HANDLER), *ask], shape=FLOOD_SHAPE)
    put(machine, _FLOOD_HANDLER, to_bytes(_count_interrupt()))
    assert machine.disk is not None
    machine.disk.write(0, bytes(range(256)) * (FLOOD_SHAPE.disk_bytes // 256))
    put(machine, FLOOD_ANSWERS, b"\xff" * FLOOD_REQUESTS)
    ring = Ring(0)
    for number in range(FLOOD_REQUESTS):
        kind, first = number % 2, 3 * number
        header = BUFFERS + 16 * number
        put(machine, header, struct.pack("<IIQ", kind, 0, 5 * number))
        data_flags = NEXT if kind else NEXT | WRITE
        describe(machine, ring, first, Descriptor(header, 16, NEXT, first + 1))
        describe(machine, ring, first + 1, Descriptor(FLOOD_DATA + 64 * number, request_bytes, data_flags, first + 2))
        describe(machine, ring, first + 2, Descriptor(FLOOD_ANSWERS + number, 1, WRITE))
    heads = [3 * number for number in range(FLOOD_REQUESTS)]
    put(machine, ring.available, struct.pack(f"<HH{FLOOD_REQUESTS}H", 0, FLOOD_REQUESTS, *heads))
    machine.flush()
    return machine


def _take_interrupts(handler: int) -> list[int]:
    """Let the disk interrupt."""
    words = [
        *li(5, handler),
        csrrw(0, MTVEC, 5),
        *li(5, 1 << 11),
        csrrw(0, MIE, 5),
        addi(5, 0, 8),
        csrrw(0, MSTATUS, 5),
    ]
    return words + write_register(PLIC, 4 * _BLOCK_SOURCE, 1) + write_register(PLIC, 0x2000, 1 << _BLOCK_SOURCE)


def _count_interrupt() -> list[int]:
    """Acknowledge an interrupt at the disk and at the controller, and count it in x8."""
    at_disk = [*li(5, BLOCK + INTERRUPT), load(6, 5, size=4), store(6, 5, 4, size=4)]
    at_controller = [*li(5, PLIC + 0x200004), load(6, 5, size=4), store(6, 5, size=4)]
    return [*at_disk, *at_controller, addi(8, 8, 1), MRET]
