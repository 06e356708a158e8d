"""Plays many seeds of the simulator on several cores, and returns the histories in the order of the seeds.

The order, and so all that is counted, does not depend on how many processes there are or how fast each is.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Final

from ftvm.sim.mutation import mutate
from ftvm.sim.run import Run, play

__all__ = ["MISWRITTEN", "Hunt", "campaign", "hunt"]

MISWRITTEN: Final = frozenset({"AttributeError", "NameError", "TypeError"})
"""What a mutant raises that uses names which are no more: that would be found at once, and prove nothing."""

_FOR_LIFE: Final = contextlib.ExitStack()
"""Keeps a worker's mutant: it is undone when nobody refers to it any more."""

_SEEDS_AT_ONCE: Final = 16
"""How many seeds a worker takes at a time: few, so that all end together; but enough that handing over costs
nothing."""


def campaign(
    seeds: range, *, engine: str | None = None, mutant: str | None = None, jobs: int = 1
) -> Generator[Run, None, None]:
    """Play the seeds. Closing the iterator, or an exception in its user, ends all workers."""
    if jobs == 1:
        with mutate(mutant) if mutant is not None else contextlib.nullcontext():
            yield from (play(seed, engine=engine) for seed in seeds)
        return
    # A fresh interpreter for each: a fork of a process that has run anything else inherits its threads' locks.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin_worker, (mutant,)) as pool:
        yield from pool.imap(partial(play, engine=engine), seeds, chunksize=_SEEDS_AT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """The result of a search with one mutant: the seeds that found it, in order, after `tried` were played."""

    mutant: str
    tried: int
    found: tuple[Run, ...]


def hunt(mutant: str, seeds: range, *, engine: str | None = None, jobs: int = 1, enough: int = 1) -> Hunt:
    """Play seeds with a mutant until `enough` of them have found it, or all were played.

    A seed at which the mutant itself is wrong, because it uses names that are no more, has found nothing.
    """
    tried, found = 0, list[Run]()
    with contextlib.closing(campaign(seeds, engine=engine, mutant=mutant, jobs=jobs)) as histories:
        for history in histories:
            tried += 1
            if history.invariant not in {None, *MISWRITTEN}:
                found.append(history)
            if len(found) == enough:
                break
    return Hunt(mutant=mutant, tried=tried, found=tuple(found))


def _begin_worker(mutant: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    if mutant is not None:
        _FOR_LIFE.enter_context(mutate(mutant))
