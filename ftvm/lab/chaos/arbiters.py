"""Arbiters that can be broken and repaired: a folder that goes away or fills up, and an etcd that is killed or stopped.

Each keeps its promises once it is repaired: nothing here makes an arbiter forget.
"""

import contextlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, Protocol

from ftvm.arbiters.recordtext import decode_record
from ftvm.arbiters.urls import open_record_store
from ftvm.errors import ArbiterError, BrokenError
from ftvm.interfaces import Record
from ftvm.lab.chaos.namespace import mount_disk, remount_disk
from ftvm.lab.processes import Child, Children
from ftvm.lab.stage import GUEST_ID, free_ports
from ftvm.units import seconds_to_nanos

__all__ = ["BreakableArbiter", "EtcdArbiter", "FileArbiter"]

DISK_BYTES: Final = 16 << 20
"""A page for each generation of a long run, with room to spare."""

BALLAST_BYTES: Final = 1 << 16
ETCD_START_TRIES: Final = 600
ETCD_TRY_NS: Final = seconds_to_nanos(0.05)


class BreakableArbiter(Protocol):
    """What a fault does to an arbiter."""

    @property
    def url(self) -> str:
        """What a host is told."""
        ...

    def break_down(self, chance: Random) -> str:
        """Make it unreachable; return how."""
        ...

    def mend(self) -> None:
        """Undo `break_down` and `fill`. Idempotent."""
        ...

    def fill(self) -> None:
        """Leave it no room for another record."""
        ...

    def record(self) -> Record:
        """Return the record in force; generation 0 if the guest has no record. Raises ArbiterError."""
        ...

    def all_records(self) -> list[Record]:
        """Return every record there ever was, oldest first; none if this arbiter does not keep them."""
        ...


class FileArbiter:
    """A folder, on a separate small disk where this process may mount."""

    def __init__(self, folder: Path, *, has_disk: bool) -> None:
        self._disk = folder / "arbiter"
        self._disk.mkdir()
        self._has_disk = has_disk
        if has_disk:
            mount_disk(self._disk, DISK_BYTES)
        self._records = self._disk / "records"
        self._away = self._disk / "away"
        self._ballast = self._disk / "ballast"
        self._is_read_only = False
        self._records.mkdir()

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"file://{self._records}"

    def break_down(self, chance: Random) -> str:
        """Move the folder away, put an empty one in its place, or make its disk read only."""
        how = chance.choice(["gone", "empty", *(["read only"] if self._has_disk else [])])
        if how == "read only":
            remount_disk(self._disk, is_read_only=True)
            self._is_read_only = True
            return how
        self._records.rename(self._away)
        if how == "empty":
            self._records.mkdir()
        return how

    def mend(self) -> None:
        """Give back the folder, the disk and its room."""
        if self._is_read_only:
            remount_disk(self._disk, is_read_only=False)
            self._is_read_only = False
        if self._away.exists():
            if self._records.exists():
                self._remove_empty()
            self._away.rename(self._records)
        self._ballast.unlink(missing_ok=True)

    def _remove_empty(self) -> None:
        found = [path.name for path in self._records.iterdir()]
        if found:
            raise BrokenError(f"a host took an empty folder for its arbiter and wrote {found} there")
        self._records.rmdir()

    def fill(self) -> None:
        """Write ballast until not a byte more fits."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(BALLAST_BYTES)) == BALLAST_BYTES:
                pass

    def record(self) -> Record:
        """Read the newest generation."""
        return _read_record(self.url)

    def all_records(self) -> list[Record]:
        """Read every generation."""
        files = sorted(self._records.glob(f"{GUEST_ID}.*"))
        return [decode_record(file.read_bytes(), guest_id=GUEST_ID) for file in files]


class EtcdArbiter:
    """One member of a real etcd."""

    def __init__(self, folder: Path, children: Children, on_wait: Callable[[int], None]) -> None:
        """Start it and wait until it answers; `on_wait` passes time. Raises BrokenError."""
        self._folder = folder
        self._children = children
        self._on_wait = on_wait
        self._ports = free_ports(socket.SOCK_STREAM, 2)
        self._is_frozen = False
        self._process = self._start()

    @property
    def url(self) -> str:
        """Of its only member."""
        return f"etcd://127.0.0.1:{self._ports[0]}"

    def break_down(self, chance: Random) -> str:
        """Kill it, or let it hang."""
        how = chance.choice(["killed", "frozen"])
        if how == "killed":
            self._children.bury(self._process)
        else:
            self._process.freeze()
            self._is_frozen = True
        return how

    def mend(self) -> None:
        """Start it again from its own log, or let it go on."""
        if self._is_frozen:
            self._process.wake()
            self._is_frozen = False
        elif not self._process.is_alive:
            self._process = self._start()

    def fill(self) -> None:
        """Refuse: only the folder's disk can be filled."""
        raise BrokenError("the disk of an etcd cannot be filled")

    def record(self) -> Record:
        """Read it from etcd."""
        return _read_record(self.url)

    def all_records(self) -> list[Record]:
        """Return none: etcd keeps the newest."""
        return []

    def _start(self) -> Child:
        program = shutil.which("etcd")
        if program is None:
            raise BrokenError("etcd is not installed: apt-get install etcd-server")
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports)
        options = {
            "name": "chaos",
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"chaos={peer}",
            "log-level": "error",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        process = self._children.start("etcd", [program, *words], lambda _: None)
        for _ in range(ETCD_START_TRIES):
            try:
                self.record()
            except ArbiterError:
                self._on_wait(ETCD_TRY_NS)
                self._children.check()
            else:
                return process
        raise BrokenError(f"etcd does not answer\n{process.last_words()}")


def _read_record(url: str) -> Record:
    store = open_record_store(url)
    try:
        return store.read(GUEST_ID)
    finally:
        store.close()
