"""A history on disk: appends entries, reads them back, finds the way to an epoch.

    folder/ (0700)   catalogue.db   lock   segments/NAME.seg (0600)

One process writes; `writes=True` takes the lock. Any other may read meanwhile, and take snapshots. What was appended
counts from `commit` on: first the segments are synced, then their folder, then one transaction of the catalogue names
the entries. After a crash, what no row names is cut off or removed when the store is next opened to be written: at most
the last group is lost, and the store always opens.
"""

import contextlib
import fcntl
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from ftvm.checkpoint import Geometry, RegionShape
from ftvm.errors import ConfigError, HistoryError
from ftvm.store.catalogue import Catalogue, NewEntry, Stream
from ftvm.store.crypt import PLAIN, Sealer
from ftvm.store.entry import Entry, EntryLevel, decode_entry, devices_like, encode_entry
from ftvm.store.retention import WIDTH_NS, Base, EntryRow
from ftvm.store.segment import SegmentReader, SegmentWriter, broken
from ftvm.units import PageCount

__all__ = ["CATALOGUE", "HistoryOwner", "Store"]

CATALOGUE: Final = "catalogue.db"
_SEGMENTS: Final = "segments"
_LOCK: Final = "lock"
_REGION_NAME: Final = re.compile(r"[^/\0]{1,64}")
CRASHED: Final = "recording was not ended in order"
_READERS_MAX: Final = 16
_LOCK_TRIES: Final = 10_000
_SEGMENT_BYTES: Final = 16 << 20
_SEGMENT_SPANS: Final = {
    EntryLevel.BASE: 1 << 62,
    EntryLevel.FINE: 10 * WIDTH_NS[EntryLevel.SECOND],
    EntryLevel.SECOND: WIDTH_NS[EntryLevel.TEN_MINUTES],
    EntryLevel.MINUTE: 3 * WIDTH_NS[EntryLevel.HOUR],
    EntryLevel.TEN_MINUTES: 3 * WIDTH_NS[EntryLevel.HOUR],
    EntryLevel.HOUR: 3 * WIDTH_NS[EntryLevel.HOUR],
}
"""A segment holds entries of one level, and of a stretch of time that is short against how long they are kept: files go
as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryOwner:
    """Whose history it is."""

    guest_id: str
    geometry: Geometry


@dataclass(slots=True)
class _Open:
    """A segment that is written; `number` once the catalogue knows it."""

    writer: SegmentWriter
    stream: int
    level: EntryLevel
    until_ns: int
    number: int | None = None


class Store:
    """See the module. For one thread at a time."""

    def __init__(self, folder: Path, *, sealer: Sealer = PLAIN, writes: bool = False, creates: bool = False) -> None:
        """Open the store; with `creates` make it if it is missing.

        Raises ConfigError if it is missing, or it needs another key or version, or (to write) if another process
        writes; HistoryError if it cannot be read or written.
        """
        self.folder = folder
        self.sealer = sealer
        self.writes = writes
        self._lock = -1
        self._open: dict[EntryLevel, _Open] = {}
        self._pending: list[tuple[_Open, NewEntry]] = []
        self._bases: list[tuple[int, Base]] = []
        self._readers: OrderedDict[int, SegmentReader] = OrderedDict()
        self._like: tuple[int, int, bytes] | None = None
        self._serial = 0
        try:
            if creates:
                (folder / _SEGMENTS).mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            if writes:
                self._take_lock()
        except OSError as wrong:
            raise broken(folder, "opened", wrong) from wrong
        try:
            self.catalogue = Catalogue(folder / CATALOGUE, meta={"key": sealer.key_id} if creates else None)
            self._check_key()
            if writes:
                self.recover()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give all files back; what was not committed is lost. Idempotent."""
        for each in self._open.values():
            each.writer.close()
        self._open.clear()
        while self._readers:
            self._readers.popitem()[1].close()
        catalogue: Catalogue | None = getattr(self, "catalogue", None)
        if catalogue is not None:
            catalogue.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(_LOCK_TRIES):
            if self._has_lock(fcntl.LOCK_EX):
                return
            if not self._has_lock(fcntl.LOCK_SH):
                break
            os.sched_yield()  # nobody writes: somebody asks `is_recorded`, and lets go in a moment
        os.close(self._lock)
        self._lock = -1
        raise ConfigError(f"another process writes the history {self.folder}: wait for it, or stop it")

    def _has_lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def is_recorded(self) -> bool:
        """Whether a process writes it now."""
        if self.writes:
            return True
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def streams(self) -> list[Stream]:
        """Return the streams, oldest first; one that a crash ended says so, also before somebody writes again."""
        streams = self.catalogue.streams()
        if self.is_recorded:
            return streams
        return [stream if stream.ended is not None else replace(stream, ended=CRASHED) for stream in streams]

    def _check_key(self) -> None:
        wanted = self.catalogue.meta().get("key", "")
        if wanted == self.sealer.key_id:
            return
        if not wanted:
            raise ConfigError(f"the history {self.folder} is not encrypted: leave out the key")
        if not self.sealer.key_id:
            raise ConfigError(f"the history {self.folder} is encrypted: give its key")
        raise ConfigError(f"the history {self.folder} needs another key: {wanted}, not {self.sealer.key_id}")

    # --- whose it is -----------------------------------------------------------------------------------------------

    @property
    def owner(self) -> HistoryOwner | None:
        """Whose history it is; None while nothing was recorded."""
        meta = self.catalogue.meta()
        if "geometry" not in meta:
            return None
        try:
            shape = json.loads(meta["geometry"])
            regions = tuple(RegionShape(name=_region_name(n), page_count=PageCount(c)) for n, c in shape["regions"])
            return HistoryOwner(guest_id=meta["guest"], geometry=Geometry(machine=shape["machine"], regions=regions))
        except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as wrong:
            raise HistoryError(f"{self.folder} does not say whose history it is: {wrong}") from wrong

    def claim(self, owner: HistoryOwner) -> None:
        """Make it the history of this guest. Raises ConfigError if it is another's."""
        held = self.owner
        if held is None:
            regions = [[region.name, region.page_count] for region in owner.geometry.regions]
            shape = json.dumps({"machine": owner.geometry.machine, "regions": regions})
            with self.catalogue.transaction():
                self.catalogue.set_meta({"guest": owner.guest_id, "geometry": shape})
        elif held.guest_id != owner.guest_id:
            raise ConfigError(f"{self.folder} is the history of guest {held.guest_id!r}, not of {owner.guest_id!r}")
        elif held.geometry != owner.geometry:
            what = held.geometry.difference(owner.geometry)
            raise ConfigError(f"the guest is not the one of the history {self.folder} (history's / guest's): {what}")

    @property
    def page_count(self) -> int:
        """Pages of the guest. Raises HistoryError while nothing was recorded."""
        owner = self.owner
        if owner is None:
            raise HistoryError(f"nothing was recorded into {self.folder} yet")
        return int(owner.geometry.page_count)

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, stream: int, entry: Entry) -> int:
        """Write an entry; it counts from `commit` on. Returns the bytes that it takes. Raises HistoryError."""
        place = self._segment_for(stream, entry)
        offset, length = place.writer.append(encode_entry(entry, like=self._resembled(entry)))
        where = entry.position
        new = NewEntry(
            stream=stream,
            level=entry.level,
            base=entry.base,
            epoch=entry.epoch,
            time_ns=entry.time_ns,
            segment=place.number or 0,
            offset=offset,
            length=length,
            pages=entry.pages.count,
            delta_bytes=entry.pages.size_bytes,
            outputs=len(entry.outputs),
            retired=None if where is None else where.retired,
            idled=None if where is None else where.idled,
        )
        self._pending.append((place, new))
        return length

    def drop_portions(self, stream: int, since: int) -> None:
        """Forget the portions of a base that was given up, and close their file."""
        self._pending = [each for each in self._pending if each[1].level is not EntryLevel.BASE]
        with self.catalogue.transaction():
            self.catalogue.drop_entries([row.id for row in self.catalogue.portions(stream, since)])
        place = self._open.pop(EntryLevel.BASE, None)
        if place is not None:
            place.writer.close()

    def add_base(self, stream: int, base: Base) -> None:
        """Note that a base's portions are all appended; it counts from `commit` on."""
        self._bases.append((stream, base))

    def commit(self) -> None:
        """Return when all that was appended survives a power cut. Raises HistoryError; then it may be lost."""
        touched = {id(place): place for place, _ in self._pending}.values()
        if not touched and not self._bases:
            return
        for place in touched:
            place.writer.sync()
        if any(place.number is None for place in touched):
            self._sync_names()
        with self.catalogue.transaction():
            for place in touched:
                if place.number is None:
                    name = place.writer.path.name
                    place.number = self.catalogue.add_segment(place.stream, place.level, name)
                self.catalogue.mark_segment(place.number, place.writer.synced)
            for place, new in self._pending:
                self.catalogue.add_entry(_in_segment(new, place.number or 0))
            for stream, base in self._bases:
                self.catalogue.add_base(stream, base)
        self._pending.clear()
        self._bases.clear()

    def end_segments(self) -> None:
        """Close all files that are written: the next entry starts new ones."""
        for place in self._open.values():
            place.writer.close()
        self._open.clear()
        self._like = None

    @property
    def open_segments(self) -> set[str]:
        """The names of files that are still written."""
        return {place.writer.path.name for place in self._open.values()}

    def _segment_for(self, stream: int, entry: Entry) -> _Open:
        place = self._open.get(entry.level)
        is_full = place is not None and place.writer.end >= _SEGMENT_BYTES and entry.level is not EntryLevel.BASE
        if place is not None and (is_full or place.stream != stream or entry.time_ns >= place.until_ns):
            if any(each is place for each, _ in self._pending):
                self.commit()
            place.writer.close()
            place = None
        if place is None:
            until_ns = entry.time_ns + _SEGMENT_SPANS[entry.level]
            place = _Open(self._new_segment(), stream, entry.level, until_ns)
            self._open[entry.level] = place
        return place

    def end_base_segment(self) -> None:
        """Close the file of a base that is whole, or given up."""
        place = self._open.pop(EntryLevel.BASE, None)
        if place is not None:
            self.commit()
            place.writer.close()

    def break_likeness(self) -> None:
        """Have the next entry stand for itself: what is before it may be dropped alone."""
        self._like = None

    def _new_segment(self) -> SegmentWriter:
        folder = self.folder / _SEGMENTS
        while True:
            self._serial += 1
            path = folder / f"{self._serial:08d}.seg"
            if not path.exists():
                return SegmentWriter(path, sealer=self.sealer)

    def _resembled(self, entry: Entry) -> tuple[int, bytes] | None:
        """Return a device state to pack this one by: that of the first epoch of the second, which goes with it."""
        if entry.level is not EntryLevel.FINE or not entry.devices:
            return None
        second = entry.time_ns // WIDTH_NS[EntryLevel.SECOND]
        if self._like is not None and self._like[0] == second:
            return self._like[1:]
        self._like = (second, entry.epoch, entry.devices)
        return None

    def _sync_names(self) -> None:
        try:
            descriptor = os.open(self.folder / _SEGMENTS, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as wrong:
            raise broken(self.folder, "synced", wrong) from wrong

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, stream: int, row: EntryRow) -> Entry:
        """Return an entry. Raises HistoryError if it is damaged, dropped meanwhile, or not the one of the row."""
        entry = self._decoded(stream, row)
        if (entry.level, entry.base, entry.epoch) != (row.level, row.base, row.epoch):
            raise HistoryError(
                f"where {self.folder} has epoch {row.epoch} is another entry, of epoch {entry.epoch}: files changed "
                "their names, or were put back from elsewhere"
            )
        return entry

    def _decoded(self, stream: int, row: EntryRow) -> Entry:
        content = self._reader(row.segment).record(row.offset)
        like = devices_like(content)
        if like is None:
            return decode_entry(content)
        needed = self.catalogue.at_epoch(stream, like)
        if needed is None or needed.level is not EntryLevel.FINE:
            raise HistoryError(f"epoch {row.epoch} needs the device state of epoch {like}, which is gone")
        return decode_entry(content, like=self.read(stream, needed).devices)

    def _reader(self, segment: int) -> SegmentReader:
        reader = self._readers.get(segment)
        if reader is None:
            name = self.catalogue.segment_name(segment)
            reader = SegmentReader(self.folder / _SEGMENTS / name, sealer=self.sealer)
            self._readers[segment] = reader
            while len(self._readers) > _READERS_MAX:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(segment)
        return reader

    def route(self, stream: int, epoch: int) -> tuple[Base, list[EntryRow]]:
        """Return the base to start from and the entries that lead from it to `epoch`, in order.

        Raises HistoryError that names the nearest epochs that are kept, if this one is not.
        """
        bases = self.catalogue.bases(stream)
        for base in reversed(bases):
            if base.until <= epoch:
                rows = self.chain(stream, base.since, epoch)
                if rows is not None:
                    return base, rows
        if not bases:
            raise HistoryError(
                f"epoch {epoch} cannot be restored, nor any other of stream {stream} of {self.folder}: recording ended "
                "before all of memory was copied once"
            )
        before, behind = self.catalogue.neighbours(stream, epoch)
        near = " and ".join(str(each) for each in (before, behind) if each is not None) or "none"
        raise HistoryError(f"epoch {epoch} is not in the history {self.folder} (any more): the nearest kept are {near}")

    def chain(self, stream: int, here: int, epoch: int) -> list[EntryRow] | None:
        """Return the fewest entries that lead from the state of epoch `here` to that of `epoch`; None if none do."""
        rows: list[EntryRow] = []
        while here < epoch:
            reached = (self.catalogue.reach(stream, level, here) for level in tuple(EntryLevel)[1:])
            fitting = [row for row in reached if row is not None and here < row.epoch <= epoch]
            if not fitting:
                return None
            rows.append(max(fitting, key=lambda row: row.epoch))
            here = rows[-1].epoch
        return rows

    def fine_chain(self, stream: int, first: int, last: int) -> list[EntryRow]:
        """Return the finest entries that lead from epoch `first` to epoch `last`. Raises HistoryError if none do."""
        rows = list(self.onwards(stream, first, last))
        if first < last and (not rows or rows[-1].epoch != last):
            here = rows[-1].epoch if rows else first
            raise HistoryError(f"no entries lead from epoch {here} to epoch {last} in stream {stream}")
        return rows

    def onwards(self, stream: int, here: int, last: int = 1 << 62) -> Iterator[EntryRow]:
        """Yield the finest entries from the state of epoch `here` on, as far as they lead, up to `last`."""
        while here < last:
            found = (self.catalogue.reach(stream, level, here) for level in tuple(EntryLevel)[1:])
            fitting = [row for row in found if row is not None and row.base == here and row.epoch <= last]
            if not fitting:
                return
            row = min(fitting, key=lambda row: row.epoch)
            yield row
            here = row.epoch

    def stream_of(self, epoch: int) -> Stream:
        """Return the newest stream that has an epoch. Raises HistoryError."""
        near: list[str] = []
        for stream in reversed(self.catalogue.streams()):
            if self.catalogue.at_epoch(stream.id, epoch) is not None:
                return stream
            span = self.catalogue.span(stream.id)
            if span is not None:
                near.append(f"{span[0]} to {span[1]}")
                before, behind = self.catalogue.neighbours(stream.id, epoch)
                if before is not None and behind is not None:
                    raise HistoryError(f"epoch {epoch} is gone: the nearest kept are {before} and {behind}")
        raise HistoryError(f"epoch {epoch} is not in the history {self.folder}, which has {', '.join(near) or 'none'}")

    # --- recovery --------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Cut off and remove what no row of the catalogue names; end streams that a crash ended."""
        with self.catalogue.transaction():
            for stream in self.catalogue.streams():
                self.catalogue.end_stream(stream.id, CRASHED)
                whole = {base.since for base in self.catalogue.bases(stream.id)}
                portions = self.catalogue.rows(stream.id, EntryLevel.BASE, 0, 1 << 62)
                self.catalogue.drop_entries([row.id for row in portions if row.base not in whole])
        self.remove_empty_segments()
        for segment in self.catalogue.segments():
            path = self.folder / _SEGMENTS / segment.name
            with contextlib.suppress(FileNotFoundError):  # reading its entries names it
                try:
                    if path.stat().st_size > segment.synced:
                        os.truncate(path, segment.synced)
                except FileNotFoundError:
                    raise
                except OSError as wrong:
                    raise broken(path, "cut", wrong) from wrong

    def remove_empty_segments(self) -> int:
        """Remove the files that no entry needs; return how many bytes that gave back. Raises HistoryError."""
        freed = 0
        with self.catalogue.transaction():
            for segment in self.catalogue.empty_segments():
                if segment.name not in self.open_segments:
                    self.catalogue.drop_segment(segment.id)
                    self._forget_reader(segment.id)
        named = {segment.name for segment in self.catalogue.segments()} | self.open_segments
        try:
            for path in (self.folder / _SEGMENTS).iterdir():
                if path.name not in named:
                    freed += path.stat().st_size
                    os.unlink(path)
        except OSError as wrong:
            raise broken(self.folder, "cleaned", wrong) from wrong
        return freed

    def _forget_reader(self, segment: int) -> None:
        reader = self._readers.pop(segment, None)
        if reader is not None:
            reader.close()


def _region_name(name: object) -> str:
    """Return a region's name: files are called by it."""
    if not isinstance(name, str) or not _REGION_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no name of a region")
    return name


def _in_segment(new: NewEntry, segment: int) -> NewEntry:
    return NewEntry(**{**asdict(new), "segment": segment})
