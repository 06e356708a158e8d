"""The built-in machine led along a log by the C core: many records by one call.

The only wrapper of the native noun `follow` (ftvm/_native/follow.h is the manual).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from ftvm._native import ffi, lib
from ftvm.checkpoint import LogRecord, OutputTable
from ftvm.guests.riscv.machine import Machine
from ftvm.guests.riscv.turn import CHANNEL_NUMBERS, outputs_of
from ftvm.logtable import NO_LOG, LogTable

__all__ = ["Course"]

_NO_CHANNEL: Final = int(lib.FTVM_TURN_NO_CHANNEL)
_NUMBER_MAX: Final = (1 << 64) - 1


class Course:
    """What leads one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._course = ffi.new("ftvm_follow_course *")
        self._log = ffi.new("ftvm_follow_log *")

    def lead(self, log: Sequence[LogRecord], made_here: range, limit: int | None) -> tuple[int, int]:
        """Run the machine, whose outputs are drained, along the records; releases the GIL.

        made_here  numbers of the outputs that it made where it stands; without any, empty and from its next one
        limit      how many instructions may be begun; None for any number
        Returns how many records it took, and the number of the first output that it made where it stands now, of its
        next one without any. It stopped at the next record because that is not as it should be, or for the limit, or
        for the outputs, which `packed` gives.
        """
        course, asked, table = self._course, self._log, LogTable.of(log)
        rows, payloads = ffi.from_buffer("uint8_t[]", table.rows), ffi.from_buffer("uint8_t[]", table.payloads)
        asked.rows, asked.count = rows, table.record_count
        asked.payloads, asked.payload_bytes = payloads, len(table.payloads)
        asked.channels = _channels(table.channels)
        course.made, course.first_here = made_here.stop - 1, made_here.start
        course.instructions = _NUMBER_MAX if limit is None else max(0, limit)
        taken = int(lib.ftvm_follow(self._machine.native, asked, course))
        return taken, course.first_here

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        """Return what the machine said while it was led last, before it runs again; and no records, which are known."""
        del log_next
        return NO_LOG, outputs_of(self._course, output_next)


@lru_cache(maxsize=64)
def _channels(names: tuple[str, ...]) -> bytes:
    """Return what the numbers of a table's channels mean to the C core."""
    return bytes([CHANNEL_NUMBERS.get(name, _NO_CHANNEL) for name in names]).ljust(256, bytes([_NO_CHANNEL]))
