"""A model of power cuts: which states may a disk be in when the power fails while a piece of code runs?

Tests that kill a process at a write prove little: what it wrote is still in the kernel's cache, and arrives. A power
cut loses what was never synced, and not in the order in which it was written. `PowerCuts` records what the code does
(filesteps.py) and then makes the states that a cut may leave; `check` opens each with the code that recovers::

    cuts = PowerCuts(folder)
    with cuts.recorded():
        store(folder, 1)
        cuts.mark(1)                 # promised from here on
        store(folder, 2)
    cuts.check(recover, draws=500)   # recover(folder, marks) raises what it finds wrong

What may be lost, each independent of all others:

* of a file's unsynced writes any, in any order, each torn at sectors: a sector (512 bytes) holds what any of the writes
  that meet in it make of it, in any order (of more than four, as many as came first);
* its size, apart from its data: what the file has no data for reads as zeros. A file that was cut may still be whole;
* its rights (chmod), while it was not synced;
* each change of a folder's names (create, link, rename, unlink, mkdir), while the folder was not synced; a rename
  happens as a whole or not at all.

fsync and fdatasync of a file make its data and its size durable, and not its name; those of a folder its names. Not
modelled: a device that lies about a sync or breaks sectors, stale blocks in place of zeros, renames between folders.
The model is more hostile than any real file system: code that is safe here is safe on all.

Sources: POSIX.1-2017, fsync and rename; Pillai et al., All File Systems Are Not Created Equal (ALICE), OSDI 2014: what
applications wrongly rely on; Zheng et al., Torturing Databases for Fun and Profit, OSDI 2014: record, then replay any
prefix; the SQLite project, "Atomic Commit", 2: sectors and reordering.
"""

import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final
from unittest import mock

from ftvm.errors import LimitExceeded
from ftvm.testing.contract import ContractBroken, require
from ftvm.testing.filesteps import Marked, Step, StepLog, Synced, recorded
from ftvm.testing.survivors import Key, Picks, SyncedFiles, Tree, read_tree

__all__ = ["PowerCut", "PowerCuts"]

CUTS_MAX: Final = 20_000
"""So many states are opened in a few seconds; who has more draws, or makes the case smaller."""

_CLAUSE: Final = "a power cut at any step leaves what the code can recover from"

Recover = Callable[[Path, tuple[object, ...]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut:
    """One state that a power cut may leave.

    step   how many steps had been made, counted from the start of the recording
    marks  what had been promised by then
    lost   what of the unsynced did not make it, for a person to read
    tree   the files
    """

    step: int
    marks: tuple[object, ...]
    lost: tuple[str, ...]
    tree: Tree = field(repr=False)

    def write_to(self, folder: Path) -> None:
        """Make the state in an empty folder."""
        self.tree.write_to(folder)

    def __str__(self) -> str:
        lost = ", ".join(self.lost) if self.lost else "nothing"
        return f"cut after step {self.step}, marks {list(self.marks)}; lost: {lost}"


class PowerCuts:
    """The power cuts of one run."""

    def __init__(self, folder: Path, *, sector_bytes: int = 512) -> None:
        """Take what is in `folder` as durable. Larger sectors make fewer states, for `every`."""
        self._log = StepLog(folder)
        self._sector_bytes = sector_bytes
        self._disk_after = cache(self._replay)

    @property
    def steps(self) -> Sequence[Step]:
        """What was done to the files, in order."""
        return self._log.steps[self._log.durable :]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what is done below the folder meanwhile, by any thread of this process.

        Raises ContractBroken if something changed the folder past what is recorded.
        """
        with recorded(self._log):
            yield
        self._disk_after.cache_clear()
        disk = self._disk_after(len(self._log.steps))
        is_whole = disk.tree(disk.picks_of_all()).names() == read_tree(self._log.root).names()
        require(is_whole, "all that changes the folder is recorded", f"{self._log.root} was changed in another way")

    def mark(self, what: object) -> None:
        """Note that from here on `what` is promised; each cut tells what was."""
        self._log.mark(what)

    def draw(self, chance: random.Random) -> PowerCut:
        """Return one state, by chance."""
        at = chance.choice(self._moments())
        disk = self._disk_after(at)
        return self._cut(at, _draw_picks(disk, chance))

    def every(self, limit: int = CUTS_MAX) -> Iterator[PowerCut]:
        """Yield each state once or more. Raises LimitExceeded before the first if that may be more than `limit`."""
        moments = self._moments()
        wanted = sum(self._disk_after(at).count_states() for at in moments)
        if wanted > limit:
            raise LimitExceeded("states that a power cut may leave", limit=limit, wanted=wanted)
        for at in moments:
            options = self._disk_after(at).options
            for picked in itertools.product(*(range(len(option)) for option in options.values())):
                yield self._cut(at, dict(zip(options, picked, strict=True)))

    def check(self, recover: Recover, *, draws: int | None = None, seed: int = 0) -> int:
        """Have each state recovered: every one, or so many by chance. Return how many that were.

        recover  is given a folder in such a state and the marks, and raises what it finds wrong
        draws    how many states are drawn; None for every one

        Raises ContractBroken from what `recover` raised, with a cut that loses as little as possible.
        """
        chance = random.Random(seed)
        cuts = self.every() if draws is None else (self.draw(chance) for _ in range(draws))
        count = 0
        for count, cut in enumerate(cuts, 1):  # noqa: B007 - returned
            if _try(recover, cut) is not None:
                least = self._shrink(recover, cut)
                wrong = _try(recover, least)
                raise ContractBroken(_CLAUSE, f"{least}: {wrong or 'it fails now and then'}") from wrong
        return count

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _moments(self) -> list[int]:
        """Return the numbers of steps after which it is worth to cut.

        Before any other step a cut leaves nothing that it may not also leave after it: that step is lost then.
        """
        steps, first = self._log.steps, self._log.durable
        return [at for at in range(first, len(steps) + 1) if at == len(steps) or _is_promise(steps[at])]

    def _replay(self, at: int) -> SyncedFiles:
        disk = SyncedFiles(self._sector_bytes)
        for number, step in enumerate(self._log.steps[:at], 1):
            disk.take(step)
            if number == self._log.durable:
                disk.settle()
        return disk

    def _cut(self, at: int, picks: Picks) -> PowerCut:
        disk = self._disk_after(at)
        marks = tuple(step.what for step in self._log.steps[:at] if isinstance(step, Marked))
        return PowerCut(step=at - self._log.durable, marks=marks, lost=disk.tell_lost(picks), tree=disk.tree(picks))

    def _shrink(self, recover: Recover, cut: PowerCut) -> PowerCut:
        """Return a cut at the same step that fails, too, and of whose losses none can be left out."""
        at = cut.step + self._log.durable
        disk = self._disk_after(at)
        picks, whole = dict(cut.tree.picks), disk.picks_of_all()
        for part in _halves([key for key in picks if picks[key] != whole[key]]):
            smaller = {**picks, **{key: whole[key] for key in part}}
            if smaller != picks and _try(recover, self._cut(at, smaller)) is not None:
                picks = smaller
        return self._cut(at, picks)


def _is_promise(step: Step) -> bool:
    return isinstance(step, Synced | Marked)


def _halves(keys: list[Key]) -> Iterator[list[Key]]:
    """Yield all, then each half, quarter and so on, down to single ones."""
    size = len(keys)
    while size:
        yield from (keys[start : start + size] for start in range(0, len(keys), size))
        size = size // 2 if size > 1 else 0


def _draw_picks(disk: SyncedFiles, chance: random.Random) -> Picks:
    """Draw what is lost: of each kind and file all, nothing, one alone, all but one, or any."""
    picks: Picks = {}
    for _, group in itertools.groupby(disk.options, key=lambda key: key[:2]):
        keys = list(group)
        style, single = (
            chance.choice(("lost", "kept", "lost but one", "kept but one", "any", "any")),
            chance.choice(keys),
        )
        for key in keys:
            last = len(disk.options[key]) - 1
            is_kept = style.startswith("kept") != (key == single and style.endswith("one"))
            picks[key] = chance.randint(0, last) if style == "any" else last * is_kept
    return picks


def _try(recover: Recover, cut: PowerCut) -> Exception | None:
    with tempfile.TemporaryDirectory(prefix="ftvm-powercut-") as folder, _syncs_left_out():
        cut.write_to(Path(folder))
        try:
            recover(Path(folder), cut.marks)
        except Exception as wrong:  # noqa: BLE001 - whatever it is, it is what is wrong with this state
            return wrong
    return None


@contextmanager
def _syncs_left_out() -> Iterator[None]:
    """Have no sync wait for the real disk: nobody cuts the power of this machine."""
    with ExitStack() as stack:
        for name in ("fsync", "fdatasync"):
            stack.enter_context(mock.patch.object(os, name, _do_nothing))
        yield


def _do_nothing(_descriptor: int) -> None:
    """Stand in for a sync."""
