"""Machines in a turn, and what a thread that stays there keeps."""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ftvm
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.turn import CLOSED, OUTPUT, Row, Turn

from .assembly import (
    WFI,
    elf,
    jal,
    to_bytes,
)
from .driver import ENTROPY as ENTROPY_CARD
from .driver import NOTIFY, STATUS, WRITE, put, set_up, write_register
from .stable import MEMORY, PATIENCE_S

MAC = bytes.fromhex("525400123456")


TICKS = 100_000_000


def made(program: bytes, *, mac: bytes | None = MAC, has_entropy: bool = False, command_line: str = "") -> Machine:
    machine = Machine(MachineShape(ram_bytes=MEMORY, mac=mac, has_entropy=has_entropy))
    machine.boot(parse_elf(program, ram_base=RAM_BASE, ram_bytes=MEMORY), command_line=command_line)
    return machine


def shipped(name: str, **options: object) -> Machine:
    return made(ftvm.read_program(name), **options)  # type: ignore[arg-type]


@contextmanager
def in_thread(turn: Turn) -> Iterator[list[Row]]:
    """Have a thread stay in the turn and keep its rows; it is paused at the end."""
    rows: list[Row] = []

    def stay() -> None:
        while turn.go() != CLOSED:
            rows.extend(turn.rows())
        rows.extend(turn.rows())

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    try:
        yield rows
    finally:
        turn.pause(waits=False)
        turn.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the machine's thread does not come back"


def outputs_of(rows: list[Row]) -> list[tuple[str, bytes]]:
    return [(row.channel, row.payload) for row in rows if row.kind == OUTPUT]


def wait_for(is_true: Callable[[], object]) -> None:
    for _ in range(PATIENCE_S * 1000):
        if is_true():
            return
        threading.Event().wait(0.001)
    raise AssertionError("waited in vain")


REQUESTS = 256


DRAW = bytes(4096)


def thirsty(before: Sequence[int] = (), *, mac: bytes | None = MAC) -> Machine:
    """Return a machine that asks for a megabyte of randomness by one notify, in as many requests as a queue holds."""
    descriptors, available, used, target = (RAM_BASE + at for at in (0x10000, 0x11000, 0x12000, 0x20000))
    words = write_register(ENTROPY_CARD, 0x38, REQUESTS)
    for offset, address in ((0x80, descriptors), (0x90, available), (0xA0, used)):
        words += write_register(ENTROPY_CARD, offset, address) + write_register(ENTROPY_CARD, offset + 4, 0)
    ready = write_register(ENTROPY_CARD, 0x44, 1) + write_register(ENTROPY_CARD, STATUS, 15)
    words = [
        *before,
        *set_up(ENTROPY_CARD, 0),
        *words,
        *ready,
        *write_register(ENTROPY_CARD, NOTIFY, 0),
        WFI,
        jal(0, -4),
    ]
    machine = made(elf(to_bytes(words)), has_entropy=True, mac=mac)
    for number in range(REQUESTS):
        put(machine, descriptors + 16 * number, struct.pack("<QIHH", target, len(DRAW), WRITE, 0))
    put(machine, available, struct.pack(f"<HH{REQUESTS}H", 0, REQUESTS, *range(REQUESTS)))
    return machine
