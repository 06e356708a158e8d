"""Each store here breaks one promise, and check_arbiter names it."""

import select
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ArbiterError, ClosedError, LocalProtocolError
from ftvm.interfaces import Record
from ftvm.testing.arbiter import check_arbiter
from ftvm.testing.contract import ContractBroken

NONE = Record(0, None, None)


class Cell:
    """What the handles of one broken store share."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.calls = 0
        self.place = "0" * 32


class Honest:
    """Right when nobody races: the base of what is broken below."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.is_closed = False

    def read(self, guest_id: str) -> Record:
        if self.is_closed:
            raise ClosedError("closed")
        return self.cell.records.get(guest_id, NONE)

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if record.generation < 1:
            raise LocalProtocolError("no such generation")
        if self.read(guest_id).generation == record.generation - 1:
            self.write(guest_id, record)
        return self.read(guest_id)

    def write(self, guest_id: str, record: Record) -> None:
        self.cell.records[guest_id] = record

    def place_id(self, guest_id: str) -> str | None:
        return None if guest_id not in self.cell.records else self.cell.place

    def close(self) -> None:
        self.is_closed = True


class PutsBlindly(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        self.write(guest_id, record)
        return record


class AcceptsGaps(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if self.read(guest_id).generation < record.generation:
            self.write(guest_id, record)
        return self.read(guest_id)


class AcceptsNonsense(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        return super().compare_and_set(guest_id, record) if record.generation > 0 else self.read(guest_id)


class LosesSome(Honest):
    def write(self, guest_id: str, record: Record) -> None:
        self.cell.calls += 1
        if self.cell.calls % 20:
            super().write(guest_id, record)


class BelievesItself(Honest):
    """Takes a proposal that it has made before for one that was won."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.proposed: set[Record] = set()

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if record in self.proposed and self.read(guest_id).generation == record.generation:
            return record
        self.proposed.add(record)
        return super().compare_and_set(guest_id, record)


class ForgetsWhenClosed(Honest):
    def close(self) -> None:
        if not self.is_closed and self.cell.calls:
            self.cell.records.clear()
        self.cell.calls += 1
        super().close()


class RefusesRepetition(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if self.read(guest_id) == record:
            return Record(record.generation, "somebody else", None)
        return super().compare_and_set(guest_id, record)


class MixesGuests(Honest):
    def read(self, guest_id: str) -> Record:
        return super().read(guest_id.lower().strip())

    def write(self, guest_id: str, record: Record) -> None:
        super().write(guest_id.lower().strip(), record)


class ConfusesNoneWithEmpty(Honest):
    def write(self, guest_id: str, record: Record) -> None:
        super().write(guest_id, Record(record.generation, record.active or None, record.standby or None))


class ReadsItsOwnPast(Honest):
    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.past: dict[str, Record] = {}

    def read(self, guest_id: str) -> Record:
        return self.past.setdefault(guest_id, super().read(guest_id))

    def write(self, guest_id: str, record: Record) -> None:
        super().write(guest_id, record)
        self.past[guest_id] = record


class ChecksThenWrites(Honest):
    def write(self, guest_id: str, record: Record) -> None:
        select.select((), (), (), 0.001)
        super().write(guest_id, record)


class NamesItselfNotItsPlace(Honest):
    def place_id(self, guest_id: str) -> str | None:
        return f"{id(self):032x}" if guest_id else None


class NamesItsPlaceAsItLikes(Honest):
    def place_id(self, guest_id: str) -> str | None:
        return f"the place of {guest_id}"


class WorksOnceClosed(Honest):
    def close(self) -> None:
        return


class FailsForEver(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if "race" in guest_id:
            raise ArbiterError("out of order")
        return super().compare_and_set(guest_id, record)


class HangsInARace(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if "race" in guest_id:
            select.select((), (), (), 2)
            raise ArbiterError("out of order")
        return super().compare_and_set(guest_id, record)


class CrashesInARace(Honest):
    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if "race" in guest_id:
            raise KeyError(guest_id)
        return super().compare_and_set(guest_id, record)


class RenamesOverTheNext(FileRecordStore):
    """Publishes by rename instead of link: whoever comes last has won."""

    def _publish(self, guest: str, generation: int, content: bytes) -> None:
        aside = self.path / f".{guest}.{generation}.{id(self)}"
        aside.write_bytes(content)
        select.select((), (), (), 0.001)
        aside.rename(self._file(guest, generation))


BROKEN = [
    (PutsBlindly, "A proposal takes effect only on the generation just below"),
    (AcceptsGaps, "A proposal takes effect only on the generation just below"),
    (AcceptsNonsense, "A record below generation 1 cannot be proposed"),
    (LosesSome, "gave Record"),
    (ForgetsWhenClosed, "What was set is there for a handle that is opened later|one cell|repeated|by every handle"),
    (RefusesRepetition, "A proposal may be repeated"),
    (BelievesItself, "Whose answer was lost can learn from a read"),
    (MixesGuests, "Each guest id has its own record"),
    (ConfusesNoneWithEmpty, "A record is read as it was set"),
    (ReadsItsOwnPast, "A record is read as it was set, by every handle"),
    (ChecksThenWrites, "racing writers are linearizable"),
    (NamesItselfNotItsPlace, "give the place of a record the same name"),
    (NamesItsPlaceAsItLikes, "is not 32 hexadecimal digits"),
    (WorksOnceClosed, "a read after close raised no ClosedError"),
    (FailsForEver, "100 calls failed, the last one with: out of order"),
    (CrashesInARace, "a writer raised KeyError"),
]


def handles_of(kind: Callable[[Cell], Honest]) -> Callable[[], Honest]:
    return partial(kind, Cell())


def test_honest_store_passes() -> None:
    check_arbiter(MemoryRecordStore().another)


@pytest.mark.parametrize(("kind", "complaint"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_broken_store_is_found(kind: type[Honest], complaint: str) -> None:
    with pytest.raises(ContractBroken, match=complaint):
        check_arbiter(handles_of(kind))


def test_store_that_hangs_is_found() -> None:
    with pytest.raises(ContractBroken, match="still hung after"):
        check_arbiter(handles_of(HangsInARace), patience_seconds=0.5)


def test_file_store_that_renames_instead_of_linking_is_found(tmp_path: Path) -> None:
    with pytest.raises(ContractBroken, match="racing writers are linearizable"):
        check_arbiter(partial(RenamesOverTheNext, tmp_path))
