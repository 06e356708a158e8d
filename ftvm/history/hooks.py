"""What a debugger sets and asks of a built-in machine: breakpoints, watches, counts, jumps, marks of what was written;
and the replay of a log.

The only wrapper of the native noun `debug` (ftvm/_native/debug.h is the manual). It promises that nothing set here
shows in the machine's future. Knows no files, no clock and no debugger's protocol.
"""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from ftvm._native import ffi, lib
from ftvm.checkpoint import LogKind, LogRecord
from ftvm.errors import GuestError, LocalProtocolError
from ftvm.guests.riscv.machine import RAM_BASE, Machine, StopReason
from ftvm.units import PAGE_BYTES

__all__ = ["ALL_MARKS", "Hit", "HitKind", "Hooks", "InputLog", "Jump", "JumpKind", "OnHits", "marks_of"]

OnHits = Literal["ignore", "note", "stop"]
"""What becomes of a hit in a replay; only the latest one is noted."""

_OPTIONS: Final[dict[OnHits, int]] = {
    "ignore": lib.FTVM_DEBUG_DROP_OUTPUTS,
    "note": lib.FTVM_DEBUG_DROP_OUTPUTS | lib.FTVM_RISCV_NOTE_HITS,
    "stop": lib.FTVM_DEBUG_DROP_OUTPUTS | lib.FTVM_RISCV_STOP_AT_HITS,
}
_CHANNELS: Final = {
    "console": lib.FTVM_RISCV_CHANNEL_CONSOLE,
    "net0": lib.FTVM_RISCV_CHANNEL_NET,
    "entropy": lib.FTVM_DEBUG_ENTROPY,
}
_NO_CHANNEL: Final = (1 << 32) - 1
"""An input that no built-in machine takes: the replay says so at its position."""
_NUMBER_MAX: Final = (1 << 64) - 1
_HALF_BYTES: Final = 2
_COUNT_BYTES: Final = 8
_MARK_BYTES: Final = int(lib.FTVM_DEBUG_MARK_BYTES)
_MAP_NORESERVE: Final = 0x4000
"""Of Linux, on every processor that ftvm runs on; the module names it from Python 3.13 on."""


class HitKind(Enum):
    """What was hit."""

    BREAK = lib.FTVM_DEBUG_BREAK
    WATCH = lib.FTVM_DEBUG_WATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """The latest hit; right before it, `retired` instructions were begun and `inputs` records of the log taken."""

    kind: HitKind
    retired: int
    inputs: int
    address: int
    count: int


class JumpKind(Enum):
    """How the hart came to a place other than the next."""

    JUMP = lib.FTVM_DEBUG_JUMP
    CALL = lib.FTVM_DEBUG_CALL
    RETURN = lib.FTVM_DEBUG_RETURN
    TRAP = lib.FTVM_DEBUG_TRAP
    INTERRUPT = lib.FTVM_DEBUG_INTERRUPT
    MRET = lib.FTVM_DEBUG_MRET


@dataclass(frozen=True, slots=True)
class Jump:
    """One jump: the position and the address of the instruction at which the hart went on."""

    retired: int
    target: int
    kind: JumpKind


ALL_MARKS: Final = (1 << PAGE_BYTES // _MARK_BYTES) - 1
"""The marks of a page that may have been written anywhere."""


def marks_of(offset: int, size_bytes: int) -> dict[int, int]:
    """Return for each page that a range of memory touches the marks that a write to the range leaves: one for each
    eight bytes."""
    first, last = offset // _MARK_BYTES, (offset + size_bytes - 1) // _MARK_BYTES
    of_a_page = PAGE_BYTES // _MARK_BYTES
    marks = {}
    for page in range(first // of_a_page, last // of_a_page + 1):
        begin, end = max(0, first - page * of_a_page), min(of_a_page, last + 1 - page * of_a_page)
        marks[page] = (1 << end) - (1 << begin)
    return marks


class InputLog:
    """The inputs of a stretch of a machine's life, as the C core reads them. Outputs among the records are left out."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self.records = tuple(record for record in records if record.kind is not LogKind.OUTPUT)
        self.native: Any = ffi.new("ftvm_debug_input[]", max(1, len(self.records)))
        self._payloads = [ffi.from_buffer(record.payload) for record in self.records]
        for row, record, payload in zip(self.native, self.records, self._payloads, strict=False):
            row.retired, row.idled = record.position.retired, record.position.idled
            row.payload, row.bytes = payload, len(record.payload)
            if record.kind is LogKind.CLOCK:
                row.ticks, row.channel = record.amount, lib.FTVM_DEBUG_CLOCK
            else:
                row.channel = _CHANNELS.get(record.channel, _NO_CHANNEL)

    def __len__(self) -> int:
        return len(self.records)


class Hooks:
    """A debugger's hold on one machine. Close it before the machine is used for anything else."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._breaks = _zeroed(lib.ftvm_debug_breaks_bytes(machine.shape.ram_bytes))
        self._breaks_pointer = ffi.from_buffer("uint8_t[]", self._breaks, require_writable=True)
        machine.kept["breaks"] = self._breaks_pointer
        lib.ftvm_debug_take_breaks(machine.native, self._breaks_pointer)
        self._bits = ffi.new("uint8_t[]", int(lib.FTVM_DEBUG_PAGE_MARKS_BYTES))
        self._hit = ffi.new("ftvm_debug_hit *")
        self._next = ffi.new("size_t *")
        self._lost = ffi.new("size_t *")

    def close(self) -> None:
        """Take back breakpoints, counters and marks. Idempotent."""
        lib.ftvm_debug_take_breaks(self._machine.native, ffi.NULL)
        lib.ftvm_debug_mark(self._machine.native, ffi.NULL)
        lib.ftvm_debug_count(self._machine.native, ffi.NULL, ffi.NULL, 0)
        self._machine.kept.clear()

    def set_break(self, address: int, is_wanted: bool = True) -> bool:
        """Set or clear a breakpoint; return False if no instruction can be there."""
        is_number = 0 <= address <= _NUMBER_MAX
        return is_number and bool(lib.ftvm_debug_break(self._machine.native, address, is_wanted))

    def set_watch(self, address: int, size_bytes: int, is_wanted: bool = True) -> bool:
        """Watch the writes to a range, or no longer; return False if it is not in memory, or there are too many."""
        is_range = 0 <= address <= _NUMBER_MAX and 0 <= size_bytes <= _NUMBER_MAX
        return is_range and bool(lib.ftvm_debug_watch(self._machine.native, address, size_bytes, is_wanted))

    def pass_break(self) -> None:
        """Let the machine go on from the breakpoint at which it stands."""
        lib.ftvm_debug_pass(self._machine.native)

    def mark_writes(self) -> None:
        """Note from now on what is written, in marks of eight bytes each."""
        marks = ffi.from_buffer("uint8_t[]", _zeroed(self._machine.shape.ram_bytes // _MARK_BYTES), True)
        lib.ftvm_debug_mark(self._machine.native, marks)
        self._machine.kept["marks"] = marks

    def take_marks(self, page: int) -> int:
        """Return the marks of a page of memory as a set of bits, and forget them. Only after `mark_writes`."""
        lib.ftvm_debug_take_marks(self._machine.native, page * PAGE_BYTES, self._bits)
        return int.from_bytes(ffi.buffer(self._bits), "little")

    def take_hit(self) -> Hit | None:
        """Return the latest hit, and forget it."""
        lib.ftvm_debug_take_hit(self._machine.native, self._hit)
        hit = self._hit[0]
        if hit.kind == lib.FTVM_DEBUG_NO_HIT:
            return None
        return Hit(kind=HitKind(hit.kind), retired=hit.retired, inputs=hit.inputs, address=hit.address, count=hit.count)

    def replay(
        self, log: InputLog, taken: int, *, until: int, inputs: int | None = None, on_hits: OnHits = "ignore"
    ) -> tuple[StopReason, int]:
        """Run until `until` instructions are begun, giving the log's records from number `taken` up to `inputs`.

        Returns why it ended (LIMIT: it is there) and how many records are taken now. Outputs are dropped. Raises
        GuestError if the machine does not go the way that the log says.
        """
        count = len(log) if inputs is None else inputs
        if not 0 <= taken <= count <= len(log):
            raise LocalProtocolError(f"records {taken} to {count} of a log that has {len(log)}")
        self._next[0] = taken
        why = lib.ftvm_debug_replay(
            self._machine.native, log.native, count, self._next, min(until, _NUMBER_MAX), _OPTIONS[on_hits]
        )
        taken = int(self._next[0])
        if why == lib.FTVM_DEBUG_DIVERGED:
            raise GuestError(_divergence(self._machine, log, taken))
        return StopReason(why), taken

    @contextmanager
    def counting(self, *, jumps_max: int = 0) -> Iterator["Counting"]:
        """Count instructions within the block, and note jumps."""
        counters = Counting(self._machine, jumps_max, self._lost)
        try:
            yield counters
        finally:
            counters.close()


class Counting:
    """How often each instruction was begun, and where the hart jumped, since it was made."""

    def __init__(self, machine: Machine, jumps_max: int, lost: Any) -> None:
        self._machine = machine
        self._lost = lost
        self._counts = _zeroed(lib.ftvm_debug_counts_count(machine.shape.ram_bytes) * _COUNT_BYTES)
        self._jumps = ffi.new("ftvm_debug_jump[]", max(1, jumps_max))
        self._pointer = ffi.from_buffer("uint64_t[]", self._counts, require_writable=True)
        lib.ftvm_debug_count(machine.native, ffi.NULL, ffi.NULL, 0)  # before what it had is let go
        machine.kept["counts"] = (self._pointer, self._jumps)
        lib.ftvm_debug_count(machine.native, self._pointer, self._jumps if jumps_max else ffi.NULL, jumps_max)

    def close(self) -> None:
        """Stop counting. The counts can still be read."""
        lib.ftvm_debug_count(self._machine.native, ffi.NULL, ffi.NULL, 0)

    def counts(self, address: int, size_bytes: int) -> list[int]:
        """Return the count of each half-word of a range: how often an instruction that begins there was begun."""
        first = (address - RAM_BASE) // _HALF_BYTES
        if not 0 <= address - RAM_BASE <= self._machine.shape.ram_bytes - size_bytes:
            raise LocalProtocolError(f"{size_bytes} bytes at {address:#x} are not in the machine's memory")
        return list(ffi.unpack(self._pointer + first, size_bytes // _HALF_BYTES)) if size_bytes >= _HALF_BYTES else []

    def take_jumps(self) -> tuple[list[Jump], int]:
        """Return the jumps since the last call, and how many had no room: an instruction makes two at most."""
        count = lib.ftvm_debug_jumps(self._machine.native, self._lost)
        rows = (self._jumps[number] for number in range(count))
        return [Jump(row.retired, row.target, JumpKind(row.kind)) for row in rows], int(self._lost[0])


def _zeroed(size_bytes: int) -> mmap.mmap:
    """Return memory of which only what is touched takes room."""
    return mmap.mmap(-1, max(1, size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)


def _divergence(machine: Machine, log: InputLog, taken: int) -> str:
    here = machine.position
    if taken == len(log):
        return f"the machine waits at {here}, behind the last input of its log: the log does not belong to this state"
    record = log.records[taken]
    return (
        f"the machine stands at {here} and does not take its {record.channel or 'clock'} input number {taken + 1}, of "
        f"{record.position}, as it did: the log does not belong to this state"
    )
