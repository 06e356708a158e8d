"""The built-in machine's thread as the C core offers it: one call waits, takes inputs, runs, and tells in rows what
happened.

The only wrapper of the native noun `turn` (ftvm/_native/turn.h is the manual). `go`, `rows` and `draw` are for the
machine's own thread; all else may be called from any.
"""

import mmap
import struct
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from ftvm._native import ffi, lib
from ftvm.checkpoint import OUTPUT_ROW, GuestPosition, LogKind, OutputTable
from ftvm.errors import ConfigError, InternalError
from ftvm.guests.riscv.machine import Machine
from ftvm.logtable import LOG_ROW, LogTable

__all__ = [
    "CHANNEL_NUMBERS",
    "CLOCK",
    "CLOSED",
    "ENDED",
    "ENTROPY",
    "ENTROPY_BYTES_MAX",
    "INPUT",
    "KINDS",
    "OUTPUT",
    "ROW",
    "Row",
    "Turn",
    "outputs_of",
]

CLOSED: Final = int(lib.FTVM_TURN_CLOSED)
ENTROPY: Final = int(lib.FTVM_TURN_ENTROPY)
ENDED: Final = int(lib.FTVM_TURN_ENDED)
"""Why `go` returned; else because there are rows."""

INPUT: Final = LogKind.INPUT
OUTPUT: Final = LogKind.OUTPUT
CLOCK: Final = LogKind.CLOCK
KINDS: Final = {
    int(lib.FTVM_TURN_INPUT): INPUT,
    int(lib.FTVM_TURN_OUTPUT): OUTPUT,
    int(lib.FTVM_TURN_CLOCK): CLOCK,
}

ENTROPY_BYTES_MAX: Final = int(lib.FTVM_TURN_ENTROPY_MAX)
_TICKS_MAX: Final = int(lib.FTVM_TURN_TICKS_MAX)
ROW: Final = struct.Struct("<IIQQQII")
CHANNEL_NUMBERS: Final = {
    "console": int(lib.FTVM_RISCV_CHANNEL_CONSOLE),
    "net0": int(lib.FTVM_RISCV_CHANNEL_NET),
    "entropy": int(lib.FTVM_TURN_CHANNEL_ENTROPY),
}
_CHANNELS: Final = {number: channel for channel, number in CHANNEL_NUMBERS.items()}
_NAMES: Final = _CHANNELS | {int(lib.FTVM_TURN_NO_CHANNEL): ""}
"""Of a record's channel: only inputs have one."""


class Row(NamedTuple):
    """One thing that happened at a position: an INPUT, an OUTPUT, or a step of the CLOCK by so many ticks."""

    kind: LogKind
    channel: str
    position: GuestPosition
    ticks: int
    payload: bytes


class Turn:
    """What runs a machine. It is born paused."""

    def __init__(self, machine: Machine, *, ticks_per_second: int) -> None:
        """Take a machine over. Raises ConfigError if its time would go backwards, stand still, or go too fast."""
        if not 0 < ticks_per_second <= _TICKS_MAX:
            raise ConfigError(f"instructions_per_second must be 1 to {_TICKS_MAX}, not {ticks_per_second}")
        self._machine = machine
        self._memory = mmap.mmap(-1, lib.ftvm_turn_bytes(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pointer = ffi.from_buffer("uint8_t[]", self._memory, require_writable=True)
        self._turn: Any = lib.ftvm_turn_init(self._pointer, machine.native, ticks_per_second, machine.shape.has_entropy)
        if self._turn == ffi.NULL:
            raise InternalError("the system has no lock for the machine's thread")
        self._length = ffi.new("size_t *")
        self._packed = ffi.new("ftvm_turn_packed *")
        self._is_borrowed = ffi.new("int *")

    def go(self) -> int:
        """Run until there is something to hand on, or it is closed; return CLOSED, ENTROPY, ENDED or another number:
        there are rows. Releases the GIL."""
        return int(lib.ftvm_turn_go(self._turn))

    def leave(self) -> None:
        """Say that `go` will not be called again."""
        lib.ftvm_turn_leave(self._turn)

    def rows(self) -> list[Row]:
        """Take what happened, in order."""
        start = lib.ftvm_turn_rows(self._turn, self._length)
        told = bytes(ffi.buffer(start, self._length[0]))
        rows, at = [], 0
        while at < len(told):
            kind, channel, retired, idled, ticks, length, _ = ROW.unpack_from(told, at)
            at += ROW.size
            position = GuestPosition(retired, idled)
            rows.append(Row(KINDS[kind], _CHANNELS[channel], position, ticks, told[at : at + length]))
            at += (length + 7) // 8 * 8
        return rows

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        """Take what happened as records, from index `log_next` on, and outputs, from number `output_next` on."""
        made = self._packed
        lib.ftvm_turn_pack(self._turn, output_next, made)
        records = LogTable(
            first=log_next,
            record_count=made.records,
            channels=_names(bytes(made.channels[0 : made.channel_count])),
            rows=ffi.buffer(made.table, made.records * LOG_ROW.size)[:],
            payloads=ffi.buffer(made.inputs, made.input_bytes)[:],
        )
        return records, outputs_of(made, output_next)

    def draw(self, content: bytes) -> None:
        """Give the random bytes that were asked for."""
        lib.ftvm_turn_draw(self._turn, content, len(content))

    def resume(self) -> None:
        """Let it run."""
        lib.ftvm_turn_resume(self._turn)

    def pause(self, *, waits: bool) -> None:
        """Have it pause; with `waits`, return when it has, and what it did is handed on."""
        lib.ftvm_turn_pause(self._turn, waits)

    def stop_at_output(self, is_wanted: bool) -> None:
        """Have it pause by itself behind each instruction that makes an output, or no longer."""
        lib.ftvm_turn_stop_at_output(self._turn, is_wanted)

    def close(self) -> None:
        """Have `go` return CLOSED from now on."""
        lib.ftvm_turn_close(self._turn)

    def deliver(self, channel: str, content: bytes) -> bool:
        """Queue a frame or keys; return False if they were dropped."""
        number = CHANNEL_NUMBERS.get(channel)
        return number is not None and lib.ftvm_turn_deliver(self._turn, number, content, len(content)) != 0

    def deliver_all(self, inputs: Sequence[tuple[str, bytes]], *, borrows: bool = False) -> tuple[int, bool]:
        """Queue frames and keys that came together; return how many were taken, and whether the caller has borrowed the
        machine.

        borrows  do the turn that they lead to here, or the first 0.3 ms of it, if the machine's own thread rests: take
                 what happened then, and `give_back`
        """
        known = [(CHANNEL_NUMBERS[channel], content) for channel, content in inputs if channel in CHANNEL_NUMBERS]
        numbers, lengths = bytes([number for number, _ in known]), array("I", [len(content) for _, content in known])
        together, sizes = b"".join([content for _, content in known]), ffi.from_buffer("uint32_t[]", lengths)
        asked = self._is_borrowed if borrows else ffi.NULL
        taken = lib.ftvm_turn_deliver_all(self._turn, numbers, sizes, together, len(known), asked)
        return int(taken), borrows and self._is_borrowed[0] != 0

    def give_back(self) -> None:
        """Give back the machine that was borrowed; what happened is handed on. In the same thread."""
        lib.ftvm_turn_give_back(self._turn)

    @property
    def is_busy(self) -> bool:
        """Whether the machine may run, or still does."""
        return bool(lib.ftvm_turn_is_busy(self._turn))

    @property
    def is_idle(self) -> bool:
        """Whether the hart waits, and no input that was given waits for it."""
        return bool(lib.ftvm_turn_is_idle(self._turn))


def outputs_of(made: Any, first: int) -> OutputTable:
    """Return the outputs of what was packed, from number `first` on."""
    return OutputTable(
        first=first,
        last=first + made.outputs - 1,
        channels=_names(bytes(made.voices[0 : made.voice_count])),
        rows=ffi.buffer(made.spoken, made.outputs * OUTPUT_ROW.size)[:],
        payloads=ffi.buffer(made.said, made.said_bytes)[:],
    )


@cache
def _names(numbers: bytes) -> tuple[str, ...]:
    """Return the names of a table's channels, of which a machine has a few."""
    return tuple([_NAMES[number] for number in numbers])
