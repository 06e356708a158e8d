"""x86-64 instructions for tiny programs, and the state of a machine taken apart."""

import struct
from dataclasses import dataclass, replace
from typing import Any

from ftvm.guests.elf import Program, Segment

START = 0x100000
DEVICES = 0xD0000000
UART, WAIT, END = 0x3F8, 0x600, 0x604

SPIN = b"\xeb\xfe"
CLOCK_REGISTER, DEADLINE_REGISTER = 0x4B564D01, 0x6E0

_HEAD = struct.Struct("<QIIQQ64sI")
_TIMES = struct.Struct("<QQQ")
_CHIPS_BYTES = 3 * 520
"""Of a system's interrupt controllers: three struct kvm_irqchip."""


def out(port: int, value: int, size: int) -> bytes:
    """Write a value of 1, 2 or 4 bytes to a port."""
    write = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}[size]
    return b"\xba" + struct.pack("<I", port) + b"\xb8" + struct.pack("<I", value) + write


def store(address: int, value: int, size: int) -> bytes:
    """Write a value of 1, 2, 4 or 8 bytes to an address."""
    write = {1: b"\x88\x08", 2: b"\x66\x89\x08", 4: b"\x89\x08", 8: b"\x48\x89\x08"}[size]
    return b"\x48\xb8" + struct.pack("<Q", address) + b"\x48\xb9" + struct.pack("<Q", value) + write


def jump(address: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", address) + b"\xff\xe0"


def program(code: bytes) -> Program:
    return Program(
        entry=START,
        segments=(Segment(address=START, content=memoryview(code), memory_bytes=len(code)),),
        tohost=0,
    )


@dataclass(frozen=True, slots=True)
class State:
    """A saved state: its head, the last processor's model-specific registers, a system's interrupt controllers, and
    clocks; what lies between is one piece."""

    head: tuple[Any, ...]
    registers: dict[int, int]
    middle: bytes
    chips: bytes
    times: tuple[int, int, int]

    @classmethod
    def parse(cls, state: bytes) -> "State":
        (count,) = struct.unpack_from("<I", state, _HEAD.size)
        indices = struct.unpack_from(f"<{count}I", state, _HEAD.size + 4)
        head, times_at = _HEAD.unpack_from(state), len(state) - _TIMES.size
        is_system = head[2] >> 8 != 0  # its processors are counted there
        chips_at = times_at - (_CHIPS_BYTES if is_system else 0)
        end = chips_at - 8 * count
        values = struct.unpack_from(f"<{count}Q", state, end)
        return cls(
            head,
            dict(zip(indices, values, strict=True)),
            state[_HEAD.size + 4 + 4 * count : end],
            state[chips_at:times_at],
            _TIMES.unpack_from(state, times_at),
        )

    def build(self) -> bytes:
        count = len(self.registers)
        return (
            _HEAD.pack(*self.head)
            + struct.pack(f"<I{count}I", count, *self.registers)
            + self.middle
            + struct.pack(f"<{count}Q", *self.registers.values())
            + self.chips
            + _TIMES.pack(*self.times)
        )

    def with_register(self, index: int, value: int) -> "State":
        return replace(self, registers={**self.registers, index: value})
