"""Leads a guest through a log again: the same inputs at the same positions, to the same outputs.

Source: Bressoud & Schneider, Hypervisor-based fault tolerance, 1996, section 2 (the backup takes interrupts at the
same points of the
instruction stream); Scales et al., 2010, section 2.1.
"""

from collections.abc import Iterable

from ftvm.checkpoint import LogKind, LogRecord
from ftvm.errors import GuestError
from ftvm.interfaces import ReplayableGuest
from ftvm.runtime.sink import NumberingSink

__all__ = ["replay"]


def replay(guest: ReplayableGuest, log: Iterable[LogRecord], sink: NumberingSink) -> None:
    """Replay `log` on the paused guest, which emits into `sink`; it stands behind the last record afterwards.

    Raises GuestError if the guest goes another way; its state is then of no use.
    """
    for record in log:
        guest.run_until(record.position)
        if record.kind is not LogKind.OUTPUT:
            guest.inject(record)
        elif sink.output_next != record.amount + 1:
            made = sink.output_next - 1
            raise GuestError(f"the replay diverged: at {record.position} output {record.amount} was made, now {made}")
