"""Writers that race for one record, in threads or in processes, and processes that are killed while they write.

How linearizability is checked without a clock: generations only grow, so a history is linearizable if each generation
ever seen holds one and the same record, and no call shows less than what another call had shown before it began. The
second is checked against a floor that all writers share and raise after each call.
"""

import multiprocessing
import multiprocessing.process
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from typing import Any, Final, Literal, TypeAlias

from ftvm.errors import ArbiterError
from ftvm.interfaces import Record, RecordStore
from ftvm.testing.contract import ContractBroken, require

__all__ = ["KILLED", "LINEARIZABLE", "MakeStore", "Writers", "check_killed_writers", "check_race"]

MakeStore = Callable[[], RecordStore]
Writers = Literal["threads", "processes"]

_NONE: Final = Record(0, None, None)
_KILLS: Final = 4
_CALLS_BEFORE_KILL: Final = 20
_RETRIES_MAX: Final = 100

LINEARIZABLE: Final = "Reads and proposals of racing writers are linearizable"
KILLED: Final = "A writer killed at any instant leaves a store that works"

_Floor: TypeAlias = "Synchronized[int]"
"""The highest generation that any finished call has shown."""


@dataclass(slots=True)
class _History:
    """What one writer saw: each generation's record, the proposals it was told that it won, and broken promises."""

    seen: dict[int, Record] = field(default_factory=dict)
    won: list[Record] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    def note(self, record: Record, floor: int) -> None:
        if record.generation < floor:
            self.breaches.append(f"generation {record.generation} was shown after {floor} had been")
        known = self.seen.setdefault(record.generation, record)
        if known != record:
            self.breaches.append(f"generation {record.generation} was shown as {known} and as {record}")


def _write_until(make_store: MakeStore, guest: str, name: str, last: int, floor: _Floor) -> _History:
    """Propose one generation after the other until `last` is in force."""
    history = _History()
    retries = _RETRIES_MAX
    with closing(make_store()) as store:
        record = _NONE
        while record.generation < last and not history.breaches:
            lowest = floor.value
            proposal = Record(record.generation + 1, f"{name} {record.generation + 1}", None)
            try:
                record = store.compare_and_set(guest, proposal)
            except ArbiterError as error:
                retries -= 1
                if retries == 0:
                    history.breaches.append(f"{_RETRIES_MAX} calls failed, the last one with: {error}")
                continue
            history.note(record, lowest)
            if record == proposal:
                history.won.append(record)
            elif record.generation < proposal.generation:
                history.breaches.append(f"{proposal} neither won nor lost: {record} is in force")
            with floor.get_lock():
                floor.value = max(floor.value, record.generation)
    return history


def check_race(make_store: MakeStore, guest: str, *, writers: Writers, writer_count: int, generations: int) -> None:
    """Let writers race up to a generation; raises ContractBroken if their histories contradict each other."""
    names = [f"writer {number}" for number in range(writer_count)]
    race = _race_processes if writers == "processes" else _race_threads
    histories = race(make_store, guest, names, generations)
    seen: dict[int, Record] = {}
    for history in histories:
        require(not history.breaches, LINEARIZABLE, "; ".join(history.breaches))
        for generation, record in history.seen.items():
            known = seen.setdefault(generation, record)
            require(known == record, LINEARIZABLE, f"generation {generation} is {known} to one and {record} to another")
    winners = sorted(record.generation for history in histories for record in history.won)
    require(len(winners) == len(set(winners)), LINEARIZABLE, "one generation was won twice")
    with closing(make_store()) as store:
        final = store.read(guest)
    require(final == seen.get(generations), LINEARIZABLE, f"the last record is {final}, not {seen.get(generations)}")


def _race_threads(make_store: MakeStore, guest: str, names: list[str], last: int) -> list[_History]:
    histories: list[_History] = []
    failures: list[BaseException] = []
    floor: _Floor = multiprocessing.Value("Q", 0)
    start = threading.Barrier(len(names))

    def run(name: str) -> None:
        try:
            start.wait()
            histories.append(_write_until(make_store, guest, name, last, floor))
        except Exception as error:  # noqa: BLE001 -- carried to the caller's thread, which raises it
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ContractBroken(LINEARIZABLE, f"a writer raised {failures[0]!r}") from failures[0]
    return histories


# --- writers in processes -------------------------------------------------------------------------

# Spawned, not forked: the caller may have threads, whose locks a fork would copy as they happen to be.
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Writer:
    """A process that writes, and the pipe by which it tells."""

    process: multiprocessing.process.BaseProcess
    told: "Connection[Any, Any]"

    @classmethod
    def start(cls, target: Callable[..., None], *args: object) -> "_Writer":
        told, telling = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=target, args=(*args, telling), daemon=True)
        process.start()
        telling.close()
        return cls(process, told)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def rest(self) -> Iterator[Record]:
        """Yield what it told before it died; a message cut short is not told."""
        try:
            while True:
                yield self.told.recv()
        except (EOFError, OSError):
            self.told.close()


def _race_processes(make_store: MakeStore, guest: str, names: list[str], last: int) -> list[_History]:
    floor: _Floor = _SPAWN.Value("Q", 0)
    start = _SPAWN.Barrier(len(names))
    writers = [_Writer.start(_run_race, make_store, guest, name, last, floor, start) for name in names]
    try:
        return [writer.told.recv() for writer in writers]
    except EOFError as error:
        raise ContractBroken(LINEARIZABLE, "a writer died; its traceback is on standard error") from error
    finally:
        for writer in writers:
            writer.kill()
            writer.told.close()


def _run_race(
    make_store: MakeStore,
    guest: str,
    name: str,
    last: int,
    floor: _Floor,
    start: Barrier,
    telling: "Connection[Any, Any]",
) -> None:
    start.wait()
    with telling:
        telling.send(_write_until(make_store, guest, name, last, floor))


def check_killed_writers(make_store: MakeStore, guest: str) -> None:
    """Keep two processes writing, kill one after the other, and check that all that was shown still holds."""
    seen: dict[int, Record] = {}
    writers: list[_Writer] = []
    try:
        for number in range(_KILLS + 1):
            writers.append(_Writer.start(_write_on, make_store, guest, f"writer {number}"))
            for _ in range(_CALLS_BEFORE_KILL if number else 1):
                _note_shown(seen, writers[0].told.recv())
            if number:
                _kill_first(writers, seen)
        while writers:
            _kill_first(writers, seen)
    except EOFError as error:
        raise ContractBroken(KILLED, "a survivor died, too; its traceback is on standard error") from error
    finally:
        for writer in writers:
            writer.kill()
            writer.told.close()
    with closing(make_store()) as store:
        last = store.read(guest)
        highest = max(seen)
        require(last.generation >= highest, KILLED, f"generation {highest} was shown, {last.generation} is left")
        require(seen.get(last.generation, last) == last, KILLED, f"{seen.get(last.generation)} has become {last}")
        proposal = Record(last.generation + 1, "survivor", None)
        require(store.compare_and_set(guest, proposal) == proposal, KILLED, "no further generation can be set")


def _write_on(make_store: MakeStore, guest: str, name: str, telling: "Connection[Any, Any]") -> None:
    with closing(make_store()) as store:
        record = store.read(guest)
        for number in range(1_000_000):
            try:
                record = store.compare_and_set(guest, Record(record.generation + 1, f"{name} {number}", None))
            except ArbiterError:
                continue
            telling.send(record)


def _kill_first(writers: list[_Writer], seen: dict[int, Record]) -> None:
    writer = writers.pop(0)
    writer.kill()
    for record in writer.rest():
        _note_shown(seen, record)


def _note_shown(seen: dict[int, Record], record: Record) -> None:
    known = seen.setdefault(record.generation, record)
    require(known == record, KILLED, f"generation {record.generation} is {known} to one and {record} to another")
