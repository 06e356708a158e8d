"""The disks of one guest, none, one or several, as one: stopped together, and settled when all are."""

import threading
from collections.abc import Callable, Iterator, Sequence

from ftvm.errors import ConfigError
from ftvm.guests.disk.disk import Disk, Settled

__all__ = ["Disks"]


class Disks:
    """The disks of a guest, in their order."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = tuple(disks)
        self._flushes = (0, 0)

    @classmethod
    def open(cls, paths: Sequence[str], sizes: Sequence[int], names: Sequence[str], *, boots: bool) -> "Disks":
        """Open the images of disks of these sizes. Raises ConfigError; then none is open."""
        if len(paths) != len(sizes):
            raise ConfigError(
                f"the machine has {len(sizes)} disks, and {len(paths)} images were given: one is for each"
            )
        opened: list[Disk] = []
        try:
            for path, size, name in zip(paths, sizes, names, strict=True):
                opened.append(Disk(path, boots=boots, name=name))
                if opened[-1].size_bytes != size:
                    raise ConfigError(f"the disk {path} has {opened[-1].size_bytes} bytes, the machine's disk {size}")
        except BaseException:
            for disk in opened:
                disk.close()
            raise
        return cls(opened)

    def __iter__(self) -> Iterator[Disk]:
        return iter(self._disks)

    @property
    def trouble(self) -> str | None:
        """Why one of them cannot go on; None while all can."""
        return next((disk.trouble for disk in self._disks if disk.trouble is not None), None)

    def hurry(self) -> None:
        """As Disk.hurry, for all."""
        for disk in self._disks:
            disk.hurry()

    def rest(self) -> None:
        """As Disk.rest, for all."""
        for disk in self._disks:
            disk.rest()

    def note_flushes(self, machine: int, count: Callable[[], int]) -> None:
        """Sort out whose the flushes are that came since `hurry`: the guest's, or of the machine that stopped it.

        machine  names this run of the machine: another one counts from 0
        count    tells how many flushes the guest has made in it; asked only if there is doubt
        """
        doubtful = [disk for disk in self._disks if disk.was_flushed_in_haste()]
        if not doubtful:
            return
        before, self._flushes = self._flushes, (machine, count())
        if self._flushes not in (before, (machine, 0)):
            for disk in doubtful:
                disk.note_flush()

    def when_settled(self, then: Settled) -> None:
        """Call `then` once all are settled, as Disk.when_settled; without a disk, at once."""
        if not self._disks:
            then(None)
            return
        countdown = _Countdown(len(self._disks), then)
        for disk in self._disks:
            disk.when_settled(countdown.tell)

    def require_readable(self) -> None:
        """As Disk.require_readable, for all."""
        for disk in self._disks:
            disk.require_readable()


class _Countdown:
    """Calls once all have told, with the first trouble told; in the thread of the last."""

    def __init__(self, count: int, then: Settled) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._trouble: str | None = None
        self._then = then

    def tell(self, trouble: str | None) -> None:
        with self._lock:
            self._trouble = self._trouble or trouble
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._then(self._trouble)
