"""The record in the memory of this process: for tests and for pairs that live in one process.

Several handles share one set of cells, from any threads, without a lock: a generation is decided by
`dict.setdefault`, which is atomic, as link(2) is for the file store. Nothing survives the process, so this is no
arbiter for two hosts.
"""

import secrets

from ftvm.arbiters.proposal import check_guest_id, check_proposal
from ftvm.errors import ClosedError
from ftvm.interfaces import Record

__all__ = ["MemoryRecordStore"]


class _Cells(dict[tuple[str, int], Record]):
    """The records of all generations, by guest and generation, and what names this set of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.place = secrets.token_hex(16)


_NAMED: dict[str, _Cells] = {}


class MemoryRecordStore:
    """interfaces.RecordStore over cells that other handles may share; without `cells`, fresh ones."""

    def __init__(self, cells: _Cells | None = None) -> None:
        self._cells = _Cells() if cells is None else cells
        self._is_closed = False

    @classmethod
    def named(cls, name: str) -> "MemoryRecordStore":
        """Return a handle on the cells of that name, the same ones for everybody in this process."""
        return cls(_NAMED.setdefault(name, _Cells()))

    def another(self) -> "MemoryRecordStore":
        """Return one more handle on the same cells."""
        return MemoryRecordStore(self._cells)

    def read(self, guest_id: str) -> Record:
        """Return the record in force; generation 0 if the guest has no record."""
        self._check_open()
        check_guest_id(guest_id)
        record = Record(0, None, None)
        while (newer := self._cells.get((guest_id, record.generation + 1))) is not None:
            record = newer
        return record

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        """Put `record` in force if it is the next generation; return what is in force now."""
        check_proposal(record)
        if self.read(guest_id).generation == record.generation - 1:
            self._cells.setdefault((guest_id, record.generation), record)
        return self.read(guest_id)

    def place_id(self, guest_id: str) -> str | None:
        """See interfaces.RecordStore; it is there from the beginning, for all guests."""
        check_guest_id(guest_id)
        return self._cells.place

    def close(self) -> None:
        """Give back the handle. Idempotent."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this record store is closed")
