"""The built-in machine led along a log by the C core: many records by one call.

The only wrapper of the native noun `follow` (ftvm/_native/follow.h is the manual).
"""

from collections.abc import Sequence
from typing import Final

from ftvm._native import ffi, lib
from ftvm.checkpoint import GuestPosition, LogRecord
from ftvm.guests.riscv.machine import Machine
from ftvm.guests.riscv.turn import CHANNEL_NUMBERS, INPUT, KINDS, ROW

__all__ = ["Course", "rows_of"]

_KIND_NUMBERS: Final = {kind: number for number, kind in KINDS.items()}
_NO_CHANNEL: Final = (1 << 32) - 1
"""An input that no built-in machine takes."""
_NUMBER_MAX: Final = (1 << 64) - 1


class Course:
    """What leads one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._course = ffi.new("ftvm_follow_course *")

    def lead(self, log: Sequence[LogRecord], made_here: range, limit: int | None) -> tuple[int, list[GuestPosition]]:
        """Run the machine, whose outputs are drained, along the records; releases the GIL.

        made_here  numbers of the outputs that it made where it stands; without any, empty and from its next one
        limit      how many instructions may be begun; None for any number
        Returns how many records it took, and where it made each output that lies to be drained now. It stopped at
        the next record because that is not as it should be, or for the limit, or for the outputs.
        """
        course, rows = self._course, rows_of(log)
        course.made, course.first_here = made_here.stop - 1, made_here.start
        course.instructions = _NUMBER_MAX if limit is None else max(0, limit)
        taken = int(lib.ftvm_follow(self._machine.native, rows, len(rows), course))
        places = ffi.unpack(course.places, course.place_count)
        return taken, [GuestPosition(place.retired, place.idled) for place in places]


def rows_of(log: Sequence[LogRecord]) -> bytes:
    """Return records as the C core reads them."""
    parts = []
    for record in log:
        at, payload = record.position, record.payload
        channel = CHANNEL_NUMBERS.get(record.channel, _NO_CHANNEL) if record.kind is INPUT else 0
        parts.append(
            ROW.pack(_KIND_NUMBERS[record.kind], channel, at.retired, at.idled, record.amount, len(payload), 0)
        )
        if payload:
            parts += payload, bytes(-len(payload) % 8)
    return b"".join(parts)
