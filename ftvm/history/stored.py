"""A stretch of what a standby recorded, as a time machine takes it: an epoch to begin with, and the inputs since.

Each epoch that is restored is checked against its digest. From there on the machine executes again, so the inputs must
have been shipped, as lockstep does, and the others where both hosts record; and the guest must be a built-in
machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from ftvm.checkpoint import Bitmap, Geometry, GuestPosition, LogRecord, RegionShape
from ftvm.errors import ConfigError, HistoryError
from ftvm.guests.riscv.machine import Machine
from ftvm.history.extract import follows, inputs_between, shape_of
from ftvm.history.history import Epoch, History
from ftvm.history.restore import Progress
from ftvm.interfaces import Guest, Region
from ftvm.store.entry import Entry

__all__ = ["StoredPast"]


class StoredPast:
    """From epoch `first` of a history to epoch `last`, of the newest stretch unless another is named.

    first   None: the earliest epoch of the stretch from which all inputs are there
    last    None: the newest

    Raises HistoryError if there is no such epoch or inputs between the two are missing, ConfigError if the guest is no
    built-in machine.
    """

    def __init__(
        self,
        history: History,
        *,
        first: int | None = None,
        last: int | None = None,
        stream: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.shape = shape_of(history.geometry)
        self._history = history
        self._progress = progress
        epochs = _epochs_of(history, stream)
        self.last = epochs[-1].number if last is None else last
        self._stream = epochs[-1].stream
        self.first = epochs[0].number if first is None else first
        if self.first >= self.last:
            raise ConfigError(f"epoch {self.first} is not before epoch {self.last}")
        before = history.entry(self.first, self._stream)
        entries = list(history.entries(self.first, self.last, self._stream))
        if first is None:
            before, entries = _unbroken(before, entries)
            self.first = before.epoch
        self.inputs: Sequence[LogRecord] = inputs_between(before, entries)
        self.end = _position_of(entries[-1])
        self.digest = entries[-1].memory_digest

    @classmethod
    def of_epoch(cls, history: History, epoch: int, *, progress: Progress | None = None) -> "StoredPast":
        """Return what ran from the epoch kept before `epoch` to it, in the newest stretch. Raises as the class does."""
        stream = _epochs_of(history, None)[-1].stream
        return cls(history, first=history.entry(epoch, stream).base, last=epoch, stream=stream, progress=progress)

    def position_of(self, epoch: int) -> GuestPosition:
        """Return where the guest was when an epoch was cut. Raises HistoryError if it is not in the history."""
        return _position_of(self._history.entry(epoch, self._stream))

    def restore(self, machine: Machine) -> None:
        """Bring a blank machine to the first epoch, checked against its digest. Raises HistoryError, GuestError."""
        guest = cast("Guest", _Blank(machine))
        self._history.restore(self.first, guest, stream=self._stream, progress=self._progress)


class _Blank:
    """A machine as far as a history needs a guest, to restore into it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._memories = {"ram": machine.ram} | ({"disk": machine.disk} if machine.disk is not None else {})

    @property
    def geometry(self) -> Geometry:
        regions = tuple(RegionShape(name=name, page_count=one.page_count) for name, one in self._memories.items())
        return Geometry(machine=str(self._machine.shape), regions=regions)

    @property
    def memory(self) -> tuple[Region, ...]:
        return tuple(
            Region(name=name, buffer=one.buffer, page_count=one.page_count) for name, one in self._memories.items()
        )

    def pause(self) -> None:
        """It does not run."""

    def collect_dirty(self) -> Bitmap:
        memories = list(self._memories.values())
        counts = tuple(one.page_count for one in memories)
        return Bitmap(counts, tuple(one.take_dirty() for one in memories))

    def load_devices(self, devices: bytes) -> None:
        self._machine.load(devices)


def _epochs_of(history: History, stream: int | None) -> list[Epoch]:
    epochs = list(history.epochs())
    if stream is None and epochs:
        stream = epochs[-1].stream
    found = [epoch for epoch in epochs if epoch.stream == stream]
    if not found:
        raise HistoryError(f"the history {history.folder} has no epoch to begin with yet")
    return found


def _unbroken(before: Entry, entries: list[Entry]) -> tuple[Entry, list[Entry]]:
    """Leave out what lies before the last missing input."""
    start = 0
    for number, (one, next_one) in enumerate(pairwise((before, *entries)), 1):
        if not follows(one, next_one):
            start = number
    if start and not any(entry.log for entry in entries[start:]):
        return before, entries  # who asks will be told what is missing
    return (entries[start - 1], entries[start:]) if start else (before, entries)


def _position_of(entry: Entry) -> GuestPosition:
    if entry.position is None:
        raise HistoryError(f"epoch {entry.epoch} does not say at which instruction the guest was")
    return entry.position
