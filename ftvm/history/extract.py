"""A stretch of a history of the built-in machine as a recording: what the time machine, gdb and the picture go through.

Any instruction can be reached where the inputs' log was kept: of a guest recorded alone, and of one under an engine
that ships the log (hybrid, lockstep). Under the others only whole epochs can be restored.
"""

import mmap
import re
from dataclasses import replace
from typing import Final

from ftvm.checkpoint import Geometry, LogKind
from ftvm.errors import ConfigError, HistoryError
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.riscv.machine import MachineShape
from ftvm.history.recording import Recording
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.entry import Entry
from ftvm.store.store import Store
from ftvm.units import PAGE_BYTES, pages_to_bytes

__all__ = ["extract_recording", "shape_of"]

_LOGGED: Final = frozenset({"alone", "hybrid", "lockstep"})
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
    _check_log(start, entries)
    if end is None:
        raise ConfigError(f"epoch {last} does not say where the guest was")
    inputs = [record for entry in entries for record in entry.log if record.kind is not LogKind.OUTPUT]
    blank = bytes(PAGE_BYTES)
    contents = ((page, memory[pages_to_bytes(page) : pages_to_bytes(page + 1)]) for page in range(store.page_count))
    return Recording(
        shape=shape,
        state=start.devices,
        pages={page: content for page, content in contents if content != blank},
        inputs=tuple(replace(record, index=place) for place, record in enumerate(inputs, 1)),
        end=end,
    )


def _check_log(start: Entry, entries: list[Entry]) -> None:
    """Raise ConfigError unless the log of all inputs from `start` on is there."""
    for entry in entries:
        if entry.engine not in _LOGGED:
            raise ConfigError(
                f"epoch {entry.epoch} was recorded under {entry.engine}, which keeps no log of inputs: only its whole "
                "state can be restored. Record under hybrid or lockstep, or alone"
            )
    count = sum(len(entry.log) for entry in entries)
    if count != entries[-1].log_index - start.log_index:
        wanted = entries[-1].log_index - start.log_index
        raise HistoryError(f"{wanted} inputs came in this stretch, and {count} of them were kept")
