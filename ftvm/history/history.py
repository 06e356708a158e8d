"""The public face of a history: open it, look into it, restore from it, keep points of it.

Times are seconds since 1970 here. An epoch is named by its number; where a number occurs in several streams (the guest
was started afresh) the newest is meant, and `stream` names another.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ftvm.checkpoint import Geometry, GuestPosition, Output
from ftvm.errors import ConfigError, HistoryError
from ftvm.history.clone import Clone, recorded_outputs
from ftvm.history.diff import Heat, PageDifference, diff_epochs, heat_of
from ftvm.history.export import export_epoch
from ftvm.history.extract import extract_recording
from ftvm.history.recording import Recording
from ftvm.history.restore import Progress, restore_guest
from ftvm.history.verify import Damage, Restorable, restorable_runs, verify_store
from ftvm.interfaces import Guest
from ftvm.store.catalogue import Pin, Stream
from ftvm.store.crypt import PLAIN, Sealer, load_key
from ftvm.store.entry import Entry, EntryLevel
from ftvm.store.pulling import pull_streams
from ftvm.store.retention import Keep
from ftvm.store.store import CATALOGUE, Store
from ftvm.store.thinning import Thinner

__all__ = ["Epoch", "History", "Snapshot", "Stretch"]

_SECOND: Final = 1_000_000_000
_AGO: Final = re.compile(r"-([0-9]+(?:\.[0-9]+)?)([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A point of the history that can be restored.

    number, stream  which; time: seconds since 1970
    kind      what the entry that ends there covers: fine, second, minute ...
    pages     that this entry changes; bytes: what it takes in deltas; outputs: how many it holds
    position  where the guest was, if it can be replayed
    """

    number: int
    stream: int
    time: float
    kind: str
    pages: int
    bytes: int
    outputs: int
    position: GuestPosition | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One unbroken run of epochs. Between two of them there is a gap; `reason` says why this one began, `ended` why it
    ended (None: it goes on)."""

    stream: int
    first: int
    last: int
    began: float
    until: float
    host: str
    reason: str
    ended: str | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An epoch that is kept until it is dropped."""

    name: str
    epoch: int
    stream: int
    time: float


class History:
    """A history on disk. A context manager; for one thread at a time.

    Give it to `Standby(..., history=...)` or `record` to have it written: that takes it over.
    """

    def __init__(self, folder: Path, *, keep: Keep, sealer: Sealer, is_new: bool) -> None:
        self.folder = folder
        self.keep = keep
        self._sealer = sealer
        self._store = Store(folder, sealer=sealer, creates=is_new)

    @classmethod
    def open(
        cls, folder: str | Path, *, keep: Keep | None = None, key: str | Path | None = None, create: bool = False
    ) -> "History":
        """Open the history in `folder`.

        keep    what is kept for how long, once it is recorded into
        key     the file of its key, if it is encrypted
        create  make it if it is missing

        Raises ConfigError if it is missing, or it is of another version or key; HistoryError if it cannot be read.
        """
        folder = Path(folder)
        sealer = PLAIN if key is None else load_key(Path(key))
        is_new = create and not (folder / CATALOGUE).exists()
        return cls(folder, keep=keep or Keep(), sealer=sealer, is_new=is_new)

    def close(self) -> None:
        """Give the files back. Idempotent."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is there ---------------------------------------------------------------------------------------------

    @property
    def guest_id(self) -> str | None:
        """Whose history it is; None while nothing was recorded."""
        owner = self._store.owner
        return None if owner is None else owner.guest_id

    @property
    def geometry(self) -> Geometry:
        """The guest's shape. Raises HistoryError while nothing was recorded."""
        owner = self._store.owner
        if owner is None:
            raise HistoryError(f"nothing was recorded into {self.folder} yet")
        return owner.geometry

    @property
    def bytes(self) -> int:
        """What its entries take on disk."""
        return self._store.catalogue.total_bytes()

    def stretches(self) -> list[Stretch]:
        """Return the unbroken runs of epochs, oldest first."""
        found = ((stream, self._store.catalogue.span(stream.id)) for stream in self._store.streams())
        return [self._stretch(stream, span) for stream, span in found if span is not None]

    def _stretch(self, stream: Stream, span: tuple[int, int, int, int]) -> Stretch:
        counts = self._store.catalogue.counts(stream.id)
        return Stretch(
            stream=stream.id,
            first=span[0],
            last=span[1],
            began=stream.began_ns / _SECOND,
            until=span[3] / _SECOND,
            host=stream.host,
            reason=stream.reason,
            ended=stream.ended,
            bytes=sum(size for _, size in counts.values()),
        )

    def epochs(self, *, since: float | str | None = None, until: float | str | None = None) -> Iterator[Epoch]:
        """Yield the epochs that can be restored, oldest first.

        since, until  seconds since 1970, or "-10s", "-5m", "-1h" before the newest; None: from the first, to the last
        """
        first, last = self.time_ns(since, 0), self.time_ns(until, 1 << 62)
        for stream in self._store.catalogue.streams():
            bases = self._store.catalogue.bases(stream.id)
            start = bases[0].until if bases else 1 << 62
            before = -1
            for number, level, time_ns, pages, size, outputs, retired, idled in self._store.catalogue.points(
                stream.id, first, last
            ):
                if number >= start and number != before:
                    before = number
                    yield Epoch(
                        number=number,
                        stream=stream.id,
                        time=time_ns / _SECOND,
                        kind=EntryLevel(level).name.lower(),
                        pages=pages,
                        bytes=size,
                        outputs=outputs,
                        position=None if retired is None else GuestPosition(retired, idled),
                    )

    def epoch_at(self, time: float | str) -> Epoch:
        """Return the last epoch that can be restored at or before a time. Raises HistoryError if nothing is so old."""
        found = deque(self.epochs(until=time), maxlen=1)
        if not found:
            raise HistoryError(f"the history {self.folder} has nothing that old")
        return found[0]

    def time_ns(self, value: float | str | None, default: int) -> int:
        """Return a time in nanoseconds since 1970. Raises ConfigError if the text is not a time."""
        if value is None:
            return default
        if isinstance(value, str):
            ago = _AGO.fullmatch(value)
            if ago is None:
                raise ConfigError(f"{value!r} is no time: give seconds since 1970, or -10s, -5m, -1h, -2d")
            return self._store.catalogue.last_time_ns() - round(float(ago[1]) * _UNITS[ago[2]] * _SECOND)
        return round(value * _SECOND)

    def entry(self, epoch: int, stream: int | None = None) -> Entry:
        """Return the finest entry that ends at an epoch. Raises HistoryError."""
        number = self._stream(epoch, stream)
        row = self._store.catalogue.at_epoch(number, epoch)
        if row is None:
            raise HistoryError(f"epoch {epoch} is not in stream {number} of the history {self.folder}")
        return self._store.read(number, row)

    def entries(self, first: int, last: int, stream: int | None = None) -> Iterator[Entry]:
        """Yield the finest entries that lead from the state of epoch `first` to that of epoch `last`, in order."""
        number = self._stream(last, stream)
        rows = self._store.fine_chain(number, first, last)
        return (self._store.read(number, row) for row in rows)

    # --- what can be done with it ----------------------------------------------------------------------------------

    def restore(
        self, epoch: int, guest: Guest, *, stream: int | None = None, progress: Progress | None = None
    ) -> Entry:
        """Make a paused guest the one that it was at `epoch`, checked against the digest; return the entry.

        The guest must be of the same kind and size, blank, and of nobody else. Raises ConfigError, HistoryError,
        GuestError; the guest is of no use then.
        """
        told = progress or _silent
        return restore_guest(self._store, self._stream(epoch, stream), epoch, guest, told)

    def diff(
        self, first: int, last: int, *, stream: int | None = None, progress: Progress | None = None
    ) -> list[PageDifference]:
        """Return the pages that differ between two epochs. Takes as much memory as the guest has."""
        if first >= last:
            raise ConfigError(f"epoch {first} is not before epoch {last}")
        return list(diff_epochs(self._store, self._stream(last, stream), first, last, progress or _silent))

    def heat(self, *, since: float | str | None = None, until: float | str | None = None, stretches: int = 60) -> Heat:
        """Return how often each page changed over time, in so many stretches of it."""
        spans = [self._store.catalogue.span(stream.id) for stream in self._store.catalogue.streams()]
        known = [span for span in spans if span is not None]
        if not known:
            raise HistoryError(f"nothing was recorded into {self.folder} yet")
        first = self.time_ns(since, min(span[2] for span in known))
        last = self.time_ns(until, max(span[3] for span in known))
        if since is not None and until is not None and first > last:
            raise ConfigError(f"the time from {since} to {until} begins after it ends")
        streams = [stream.id for stream in self._store.catalogue.streams()]
        return heat_of(self._store, streams, first, max(first + 1, last), stretches)

    def snapshot(self, name: str, epoch: int | None = None, *, stream: int | None = None) -> Snapshot:
        """Keep an epoch, the newest if none is named, until it is dropped. Takes no room at once."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name of a snapshot: 1 to 64 letters, digits, dots, dashes")
        if epoch is None:
            newest = self._newest()
            epoch, stream = newest
        number = self._stream(epoch, stream)
        with self._store.catalogue.transaction():
            self._store.route(number, epoch)
            row = self._store.catalogue.at_epoch(number, epoch)
            pin = Pin(name=name, stream=number, epoch=epoch, time_ns=row.time_ns if row is not None else 0)
            self._store.catalogue.add_pin(pin)
        return _snapshot(pin)

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots."""
        return [_snapshot(pin) for pin in self._store.catalogue.pins()]

    def drop(self, name: str) -> None:
        """Let go of a snapshot; what it kept goes when the history is next thinned."""
        with self._store.catalogue.transaction():
            if not self._store.catalogue.drop_pin(name):
                raise ConfigError(f"there is no snapshot {name!r} in the history {self.folder}")

    def collect(self) -> int:
        """Thin the history now, as `keep` says; return the bytes given back. Raises ConfigError while it is recorded
        into."""
        with Store(self.folder, sealer=self._sealer, writes=True) as store:
            return Thinner(store, self.keep).run_whole()

    def verify(self, progress: Progress | None = None) -> Iterator[Damage]:
        """Yield what cannot be read, or does not restore to what it was. Takes as much memory as the guest has."""
        return verify_store(self._store, progress or _silent)

    def restorable(self, damaged: Sequence[Damage]) -> list[Restorable]:
        """Return the runs of epochs that can still be restored, given all that `verify` found."""
        points = ((epoch.stream, epoch.number) for epoch in self.epochs())
        return list(restorable_runs(self._store, points, damaged))

    def export(
        self, epoch: int, folder: str | Path, *, stream: int | None = None, progress: Progress | None = None
    ) -> list[Path]:
        """Write an epoch as plain files into a folder that is made; return them."""
        number = self._stream(epoch, stream)
        return export_epoch(self._store, number, epoch, Path(folder), progress or _silent)

    def extract(
        self, first: int, last: int, *, stream: int | None = None, progress: Progress | None = None
    ) -> Recording:
        """Return the stretch between two epochs of the built-in machine for a time machine: any instruction of it."""
        return extract_recording(self._store, self._stream(last, stream), first, last, progress or _silent)

    def pull(self, other: str | Path, *, key: str | Path | None = None) -> list[Stretch]:
        """Copy what another history of this guest has and this one has not: the half that the other host recorded.

        Raises ConfigError if it is another guest's, or while this one is recorded into.
        """
        sealer = PLAIN if key is None else load_key(Path(key))
        with Store(Path(other), sealer=sealer) as source, Store(self.folder, sealer=self._sealer, writes=True) as ours:
            taken = {stream.id for stream in pull_streams(ours, source)}
        return [each for each in self.stretches() if each.stream in taken]

    def clone(
        self,
        epoch: int,
        guest: Guest,
        *,
        stream: int | None = None,
        on_output: Callable[[Output], None] | None = None,
        progress: Progress | None = None,
    ) -> Clone:
        """Make a blank guest of the same kind and size a clone, paused at `epoch`; it is closed with the clone.

        It is cut off: no arbiter, no peer, and its outputs go to `on_output` alone, from its own thread. They are
        compared with those that were recorded.
        """
        clone = Clone(guest)
        try:
            number = self._stream(epoch, stream)
            later = (self._store.read(number, row) for row in self._store.onwards(number, epoch))
            clone.attach(self.entry(epoch, number), recorded_outputs(later), on_output or _unheard)
            restore_guest(self._store, number, epoch, guest, progress or _silent)
        except BaseException:
            clone.close()
            raise
        return clone

    def writer(self) -> Store:
        """Return the store, open to be written, and close this. Raises ConfigError if another process writes it."""
        store = Store(self.folder, sealer=self._sealer, writes=True)
        self.close()
        return store

    def _stream(self, epoch: int, stream: int | None) -> int:
        return self._store.stream_of(epoch).id if stream is None else stream

    def _newest(self) -> tuple[int, int]:
        for stream in reversed(self._store.catalogue.streams()):
            span, bases = self._store.catalogue.span(stream.id), self._store.catalogue.bases(stream.id)
            if span is not None and bases:
                return span[1], stream.id
        raise HistoryError(f"the history {self.folder} has nothing that can be restored yet")


def _snapshot(pin: Pin) -> Snapshot:
    return Snapshot(name=pin.name, epoch=pin.epoch, stream=pin.stream, time=pin.time_ns / _SECOND)


def _unheard(output: Output) -> None:
    """Nobody listens."""


def _silent(done: int, total: int) -> None:
    """Nobody watches."""
