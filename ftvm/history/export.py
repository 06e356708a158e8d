"""Writes an epoch as plain files: each region's memory, the devices' state, and what it is, for other tools."""

import json
import mmap
from pathlib import Path

from ftvm.errors import ConfigError, HistoryError
from ftvm.history.restore import Progress, RestoredMemory
from ftvm.store.store import Store
from ftvm.units import pages_to_bytes

__all__ = ["export_epoch"]


def export_epoch(store: Store, stream: int, epoch: int, folder: Path, progress: Progress) -> list[Path]:
    """Write `REGION.bin` for each region, `devices.bin` and `about.json` into a folder that is made; return them.

    They hold all that was in the guest's memory: only their owner may read them. Raises ConfigError if the folder
    exists, HistoryError if the epoch cannot be restored or the files not be written.
    """
    owner = store.owner
    if owner is None:
        raise HistoryError(f"nothing was recorded into {store.folder} yet")
    memory = mmap.mmap(-1, pages_to_bytes(store.page_count))
    entry = RestoredMemory(store, stream, [memoryview(memory)]).go_to(epoch, progress)
    about = {
        "guest": owner.guest_id,
        "machine": owner.geometry.machine,
        "regions": [[region.name, region.page_count] for region in owner.geometry.regions],
        "epoch": epoch,
        "time": entry.time_ns / 1e9,
        "engine": entry.engine,
        "position": None if entry.position is None else [entry.position.retired, entry.position.idled],
        "memory_digest": f"{entry.memory_digest:032x}",
    }
    contents: dict[str, bytes | memoryview] = {"devices.bin": entry.devices}
    at = 0
    for region in owner.geometry.regions:
        size = pages_to_bytes(region.page_count)
        contents[f"{region.name}.bin"] = memoryview(memory)[at : at + size]
        at += size
    contents["about.json"] = (json.dumps(about, indent=2) + "\n").encode()
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as there:
        raise ConfigError(f"{folder} exists: name a folder that does not") from there
    except OSError as wrong:
        raise ConfigError(f"{folder} cannot be made: {wrong.strerror}") from wrong
    try:
        for name, content in contents.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(content)
    except OSError as wrong:
        raise HistoryError(f"{folder} cannot be written: {wrong.strerror}") from wrong
    return [folder / name for name in contents]
