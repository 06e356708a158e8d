"""The catalogue of a history: which entry stands where, in SQLite (WAL, synchronous FULL).

Rows name only what was synced before: a segment's `synced` mark moves in the transaction that adds its entries. A
stream is one unbroken run of epochs, recorded by one host; between two streams there is a gap, and the later says why.

Another process may read while one writes. Pins are written by whoever takes a snapshot, and read by who drops entries
in the same transaction, so that a snapshot that was answered is never undone.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.errors import ConfigError, HistoryError
from ftvm.store.entry import FORMAT, EntryLevel
from ftvm.store.retention import Base, EntryRow

__all__ = ["Catalogue", "NewEntry", "Pin", "SegmentRow", "Stream"]

_WAIT_SECONDS: Final = 10.0
_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, lineage TEXT NOT NULL, generation INTEGER NOT NULL,
    host TEXT NOT NULL, began_ns INTEGER NOT NULL, reason TEXT NOT NULL, ended TEXT);
CREATE TABLE segments (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, level INTEGER NOT NULL, name TEXT NOT NULL UNIQUE,
    synced INTEGER NOT NULL);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, level INTEGER NOT NULL, base INTEGER NOT NULL,
    epoch INTEGER NOT NULL, time_ns INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, pages INTEGER NOT NULL, delta_bytes INTEGER NOT NULL, outputs INTEGER NOT NULL,
    retired INTEGER, idled INTEGER);
CREATE INDEX by_base ON entries (stream, level, base);
CREATE TABLE bases (
    stream INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, time_ns INTEGER NOT NULL,
    PRIMARY KEY (stream, until)) WITHOUT ROWID;
CREATE TABLE pins (
    name TEXT PRIMARY KEY, stream INTEGER NOT NULL, epoch INTEGER NOT NULL, time_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
_SEGMENT_NAME: Final = re.compile(r"[0-9]{1,20}\.seg")
_ROW: Final = "id, level, base, epoch, time_ns, segment, offset, length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One unbroken run of epochs. `reason` says why the one before ended there, `ended` why this one did."""

    id: int
    uuid: str
    lineage: str
    generation: int
    host: str
    began_ns: int
    reason: str
    ended: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """A file of entries; `synced` bytes of it are promised."""

    id: int
    stream: int
    level: EntryLevel
    name: str
    synced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A snapshot: an epoch that is kept."""

    name: str
    stream: int
    epoch: int
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry that was synced, to be added."""

    stream: int
    level: EntryLevel
    base: int
    epoch: int
    time_ns: int
    segment: int
    offset: int
    length: int
    pages: int
    delta_bytes: int
    outputs: int
    retired: int | None
    idled: int | None


class Catalogue:
    """The rows. For one thread at a time."""

    def __init__(self, path: Path, *, meta: dict[str, str] | None = None) -> None:
        """Open it, or create it with `meta`. Raises HistoryError, and ConfigError if it is of another version."""
        self.path = path
        if meta is None and not path.exists():
            raise ConfigError(f"{path.parent} holds no history: {path.name} is missing")
        with self._told():
            self._db = sqlite3.connect(
                path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            is_new = meta is not None and not self._all("SELECT 1 FROM sqlite_master LIMIT 1")
            if is_new:  # also where a crash cut its making off
                path.chmod(0o600)
                self._db.execute("PRAGMA page_size = 1024")  # before the journal mode, or it stays as it was
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if is_new and meta is not None:
                with self.transaction():
                    for statement in filter(None, map(str.strip, _TABLES.split(";"))):
                        self._db.execute(statement)
                    self.set_meta({"format": str(FORMAT), **meta})
        self._check_format()

    def close(self) -> None:
        """Give the file back. Idempotent."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as wrong:
            raise HistoryError(f"the catalogue {self.path} cannot be used: {wrong}") from wrong

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of it, durably, or nothing. Raises HistoryError."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._told(), closing(self._db.execute(query, values)) as cursor:
            return cursor.fetchall()

    def _do(self, statement: str, *values: object) -> int:
        with self._told():
            return int(self._db.execute(statement, values).lastrowid or 0)

    def _check_format(self) -> None:
        try:
            found = self.meta().get("format")
        except HistoryError as wrong:
            raise HistoryError(f"{self.path} is no catalogue of a history: {wrong}") from wrong
        if found != str(FORMAT):
            self.close()
            raise ConfigError(f"{self.path.parent} is a history of format {found}, and this ftvm reads {FORMAT}")

    # --- what it is about ------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, str]:
        """Return what is said of the whole history."""
        return {str(key): str(value) for key, value in self._all("SELECT key, value FROM meta")}

    def set_meta(self, values: dict[str, str]) -> None:
        """Say something of the whole history."""
        for item in values.items():
            self._do("INSERT OR REPLACE INTO meta VALUES (?, ?)", *item)

    # --- streams and segments --------------------------------------------------------------------------------------

    def add_stream(self, *, uuid: str, lineage: str, generation: int, host: str, began_ns: int, reason: str) -> int:
        """Start a stream; return its id."""
        query = "INSERT INTO streams (uuid, lineage, generation, host, began_ns, reason) VALUES (?, ?, ?, ?, ?, ?)"
        return self._do(query, uuid, lineage, generation, host, began_ns, reason)

    def end_stream(self, stream: int, why: str) -> None:
        """Note why a stream ended."""
        self._do("UPDATE streams SET ended = ? WHERE id = ? AND ended IS NULL", why, stream)

    def streams(self) -> list[Stream]:
        """Return the streams, oldest first."""
        names = ("id", "uuid", "lineage", "generation", "host", "began_ns", "reason", "ended")
        query = f"SELECT {', '.join(names)} FROM streams ORDER BY began_ns, id"
        return [Stream(**dict(zip(names, row, strict=True))) for row in self._all(query)]

    def name_stream(self, stream: int, uuid: str) -> None:
        """Give a stream its name, once it is whole."""
        self._do("UPDATE streams SET uuid = ? WHERE id = ?", uuid, stream)

    def drop_stream(self, stream: int) -> None:
        """Forget a stream and its entries; their bytes go with their segments."""
        self._do("DELETE FROM entries WHERE stream = ?", stream)
        self._do("DELETE FROM bases WHERE stream = ?", stream)
        self._do("DELETE FROM streams WHERE id = ?", stream)

    def add_segment(self, stream: int, level: EntryLevel, name: str) -> int:
        """Note a file before anything in it counts; return its id."""
        query = "INSERT INTO segments (stream, level, name, synced) VALUES (?, ?, ?, 0)"
        return self._do(query, stream, int(level), name)

    def mark_segment(self, segment: int, synced: int) -> None:
        """Note that so many bytes of it are safe."""
        self._do("UPDATE segments SET synced = ? WHERE id = ?", synced, segment)

    def segments(self) -> list[SegmentRow]:
        """Return all segments."""
        rows = self._all("SELECT id, stream, level, name, synced FROM segments ORDER BY id")
        return [self._segment(row) for row in rows]

    def segment_name(self, segment: int) -> str:
        """Return its file's name. Raises HistoryError if it is gone."""
        rows = self._all("SELECT name FROM segments WHERE id = ?", segment)
        if not rows:
            raise HistoryError("a segment that was asked for has been dropped meanwhile")
        return self._checked_name(rows[0][0])

    def empty_segments(self) -> list[SegmentRow]:
        """Return the segments that no entry names."""
        rows = self._all(
            "SELECT id, stream, level, name, synced FROM segments "
            "WHERE id NOT IN (SELECT DISTINCT segment FROM entries)"  # some ms: an index would double what is written
        )
        return [self._segment(row) for row in rows]

    def _segment(self, row: tuple[Any, ...]) -> SegmentRow:
        number, stream, level, name, synced = row
        return SegmentRow(
            id=number, stream=stream, level=EntryLevel(level), name=self._checked_name(name), synced=synced
        )

    def _checked_name(self, name: object) -> str:
        """Return a file's name: it is cut and removed by it, so it must lie in the history's folder."""
        if not isinstance(name, str) or not _SEGMENT_NAME.fullmatch(name):
            raise HistoryError(f"the catalogue {self.path} names {name!r:.80} as a segment, which it cannot be")
        return name

    def drop_segment(self, segment: int) -> None:
        """Forget a segment, whose file goes."""
        self._do("DELETE FROM segments WHERE id = ?", segment)

    def total_bytes(self) -> int:
        """Return what all segments take."""
        return int(self._all("SELECT COALESCE(SUM(synced), 0) FROM segments")[0][0])

    # --- entries ---------------------------------------------------------------------------------------------------

    def add_entry(self, new: NewEntry) -> int:
        """Add an entry; return its id."""
        values = [getattr(new, name) for name in NewEntry.__slots__]
        query = f"INSERT INTO entries ({', '.join(NewEntry.__slots__)}) VALUES ({', '.join('?' * len(values))})"
        return self._do(query, *values)

    def rows(self, stream: int, level: EntryLevel, first: int, last: int) -> list[EntryRow]:
        """Return the rows of one level with a base from `first` to `last`, by rising base."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level = ? AND base BETWEEN ? AND ? ORDER BY base"
        return [_row(row) for row in self._all(query, stream, int(level), first, last)]

    def rows_upto(self, stream: int, epoch: int) -> list[EntryRow]:
        """Return all rows but those of bases that end at or before an epoch."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level > 0 AND epoch <= ?"
        return [_row(row) for row in self._all(query, stream, epoch)]

    def timed_rows(self, stream: int, since_ns: int, until_ns: int) -> list[EntryRow]:
        """Return the rows of all levels but bases of a stretch of time."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level > 0 AND time_ns BETWEEN ? AND ?"
        return [_row(row) for row in self._all(query, stream, since_ns, until_ns)]

    def older_rows(self, stream: int, level: EntryLevel, before_ns: int, limit: int, after: int = -1) -> list[EntryRow]:
        """Return up to `limit` rows of a level older than `before_ns`, by rising base, from base `after` on."""
        query = (
            f"SELECT {_ROW} FROM entries WHERE stream = ? AND level = ? AND base >= ? AND time_ns < ? "
            "ORDER BY base LIMIT ?"
        )
        return [_row(row) for row in self._all(query, stream, int(level), after, before_ns, limit)]

    def reach(self, stream: int, level: EntryLevel, here: int) -> EntryRow | None:
        """Return the row of a level with the greatest base that is at most `here`."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level = ? AND base <= ? ORDER BY base DESC LIMIT 1"
        rows = self._all(query, stream, int(level), here)
        return _row(rows[0]) if rows else None

    def at_epoch(self, stream: int, epoch: int) -> EntryRow | None:
        """Return the finest entry that ends at this epoch."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level = ? AND base < ? ORDER BY base DESC LIMIT 1"
        for level in tuple(EntryLevel)[1:]:
            rows = self._all(query, stream, int(level), epoch)
            if rows and rows[0][3] == epoch:
                return _row(rows[0])
        return None

    def neighbours(self, stream: int, epoch: int) -> tuple[int | None, int | None]:
        """Return the last kept epoch before and the first one behind `epoch`."""
        query = "SELECT MAX(CASE WHEN epoch < ? THEN epoch END), MIN(CASE WHEN epoch > ? THEN epoch END) FROM entries"
        return self._all(f"{query} WHERE stream = ? AND level > 0", epoch, epoch, stream)[0]

    def points(self, stream: int, since_ns: int, until_ns: int) -> Iterator[tuple[Any, ...]]:
        """Yield (epoch, level, time_ns, pages, delta_bytes, outputs, retired, idled) by rising epoch."""
        query = (
            "SELECT epoch, level, time_ns, pages, delta_bytes, outputs, retired, idled FROM entries "
            "WHERE stream = ? AND level > 0 AND time_ns >= ? AND time_ns <= ? ORDER BY epoch, level"
        )
        yield from self._all(query, stream, since_ns, until_ns)

    def span(self, stream: int) -> tuple[int, int, int, int] | None:
        """Return first and last epoch and time of a stream's points, None if it has none."""
        query = "SELECT MIN(epoch), MAX(epoch), MIN(time_ns), MAX(time_ns) FROM entries WHERE stream = ? AND level > 0"
        row = self._all(query, stream)[0]
        return None if row[0] is None else row

    def counts(self, stream: int) -> dict[EntryLevel, tuple[int, int]]:
        """Return how many entries of each level a stream has, and their bytes."""
        query = "SELECT level, COUNT(*), SUM(length) FROM entries WHERE stream = ? GROUP BY level"
        return {EntryLevel(level): (count, size) for level, count, size in self._all(query, stream)}

    def drop_entries(self, rows: Sequence[int]) -> None:
        """Forget entries; their bytes go with their segments."""
        with self._told():
            self._db.executemany("DELETE FROM entries WHERE id = ?", [(row,) for row in rows])

    def last_time_ns(self) -> int:
        """Return the time of the newest entry, 0 without entries."""
        return int(self._all("SELECT COALESCE(MAX(time_ns), 0) FROM entries")[0][0])

    # --- bases and pins --------------------------------------------------------------------------------------------

    def add_base(self, stream: int, base: Base) -> None:
        """Note that a base is whole."""
        self._do("INSERT INTO bases VALUES (?, ?, ?, ?)", stream, base.since, base.until, base.time_ns)

    def bases(self, stream: int) -> list[Base]:
        """Return the bases of a stream, by rising epoch."""
        rows = self._all("SELECT since, until, time_ns FROM bases WHERE stream = ? ORDER BY until", stream)
        return [Base(since=since, until=until, time_ns=time_ns) for since, until, time_ns in rows]

    def drop_base(self, stream: int, until: int) -> None:
        """Forget a base."""
        self._do("DELETE FROM bases WHERE stream = ? AND until = ?", stream, until)

    def portions(self, stream: int, since: int) -> list[EntryRow]:
        """Return the portions of a base."""
        query = f"SELECT {_ROW} FROM entries WHERE stream = ? AND level = 0 AND base = ? ORDER BY id"
        return [_row(row) for row in self._all(query, stream, since)]

    def add_pin(self, pin: Pin) -> None:
        """Keep an epoch. Raises ConfigError if the name is taken."""
        if self._all("SELECT 1 FROM pins WHERE name = ?", pin.name):
            raise ConfigError(f"there is a snapshot {pin.name!r} already: drop it first, or choose another name")
        self._do("INSERT INTO pins VALUES (?, ?, ?, ?)", pin.name, pin.stream, pin.epoch, pin.time_ns)

    def pins(self, stream: int | None = None) -> list[Pin]:
        """Return the snapshots, of one stream or of all, by rising epoch."""
        query = "SELECT name, stream, epoch, time_ns FROM pins WHERE ? IS NULL OR stream = ? ORDER BY epoch, name"
        return [Pin(name=n, stream=s, epoch=e, time_ns=t) for n, s, e, t in self._all(query, stream, stream)]

    def drop_pin(self, name: str) -> bool:
        """Let go of a snapshot; tell whether there was one."""
        with self._told():
            return self._db.execute("DELETE FROM pins WHERE name = ?", (name,)).rowcount > 0


def _row(values: tuple[Any, ...]) -> EntryRow:
    number, level, base, epoch, time_ns, segment, offset, length = values
    return EntryRow(
        id=number,
        level=EntryLevel(level),
        base=base,
        epoch=epoch,
        time_ns=time_ns,
        segment=segment,
        offset=offset,
        length=length,
    )
