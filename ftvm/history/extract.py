"""A stretch of a history of the built-in machine as a recording: what the time machine, gdb and the picture go through.

Any instruction can be reached where the inputs' log was kept: of a guest recorded alone, of one under an engine that
ships the log (hybrid, lockstep), and under the others if both hosts record. Else only whole epochs can be restored.
"""

import mmap
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ftvm.checkpoint import Geometry, LogKind, LogRecord
from ftvm.errors import ConfigError, HistoryError
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.riscv.machine import MachineShape
from ftvm.history.recording import Recording
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.entry import Entry
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES, pages_to_bytes

__all__ = ["extract_recording", "follows", "inputs_between", "shape_of"]

_SHAPE: Final = re.compile(r"riscv/[12] ram=(\d+)KiB net=(\S+) disk=(\d+)KiB entropy=(yes|no)")


def shape_of(geometry: Geometry) -> MachineShape:
    """Return what a built-in machine is made of. Raises ConfigError for any other guest."""
    found = _SHAPE.fullmatch(geometry.machine)
    if found is None:
        raise ConfigError(f"only the built-in machine can be led to an instruction, not {geometry.machine}")
    ram, mac, disk, entropy = found.groups()
    return MachineShape(
        ram_bytes=int(ram) << 10,
        mac=None if mac == "none" else mac_bytes(mac),
        disk_bytes=int(disk) << 10,
        has_entropy=entropy == "yes",
    )


def extract_recording(store: Store, stream: int, first: int, last: int, progress: Progress) -> Recording:
    """Return the stretch from the state of epoch `first` to that of `last` as a recording.

    Raises ConfigError if it is not of the built-in machine or has no inputs' log, HistoryError if an epoch is gone.
    """
    owner = store.owner
    if owner is None:
        raise HistoryError(f"nothing was recorded into {store.folder} yet")
    shape = shape_of(owner.geometry)
    entries = [store.read(stream, row) for row in store.fine_chain(stream, first, last)]
    if first >= last:
        raise ConfigError(f"epoch {first} is not before epoch {last}")
    memory = mmap.mmap(-1, pages_to_bytes(store.page_count))
    start = RestoredMemory(store, stream, [memoryview(memory)]).go_to(first, progress)
    end = entries[-1].position
    if end is None:
        raise ConfigError(f"epoch {last} does not say where the guest was")
    inputs = [record for record in inputs_between(start, entries) if record.kind is not LogKind.OUTPUT]
    blank = bytes(PAGE_BYTES)
    contents = ((page, memory[pages_to_bytes(page) : pages_to_bytes(page + 1)]) for page in range(store.page_count))
    return Recording(
        shape=shape,
        state=start.devices,
        pages={page: content for page, content in contents if content != blank},
        inputs=tuple(replace(record, index=place) for place, record in enumerate(inputs, 1)),
        end=end,
        digest=entries[-1].memory_digest,
    )


def inputs_between(before: Entry, entries: Sequence[Entry]) -> tuple[LogRecord, ...]:
    """Return the log from the state of `before` to that of the last entry. Raises HistoryError if some is missing."""
    for entry in entries:
        if not follows(before, entry):
            raise HistoryError(
                f"the inputs of epoch {entry.epoch} are not in the history, only whole epochs: begin at a later epoch; "
                f"or record under lockstep, or, under {entry.engine}, with a history on both hosts"
            )
        before = entry
    return tuple(record for entry in entries for record in entry.log)


def follows(before: Entry, entry: Entry) -> bool:
    """Tell whether an entry has the log of all that came since the one before, as far as can be told.

    Each output has a record in the log, and so has each time that the guest waited.
    """
    if entry.log_index != before.log_index + len(entry.log):
        return False
    if entry.log:
        return entry.log[0].index == before.log_index + 1
    here, there = before.position, entry.position
    has_waited = here is not None and there is not None and here.idled != there.idled
    return entry.output_next == before.output_next and not has_waited
