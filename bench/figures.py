"""The statistics of real hosts: histograms that processes tell of, rates, percentiles.

A histogram is {bucket: count} of nanoseconds, 256 buckets to each power of two, so that a value is known to 0.4 %. It
travels as {"bucket": count}, and only grows: what a window held is the difference of two.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

STEPS_LOG = 8
STEPS = 1 << STEPS_LOG
"""Buckets to a power of two; wire.c counts by the same."""


def bucket_of(nanos: int) -> int:
    """Return the bucket that a time falls into; what is shorter than 256 ns is taken for that."""
    value = max(nanos, STEPS)
    power = value.bit_length() - 1
    return power * STEPS + ((value >> (power - STEPS_LOG)) & (STEPS - 1))


def middle_of(bucket: int) -> float:
    """Return the middle of a bucket in nanoseconds."""
    power, step = divmod(bucket, STEPS)
    return (STEPS + step + 0.5) * 2.0 ** (power - STEPS_LOG)


class Histogram:
    """Counts times; `told` is what travels."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, nanos: int, count: int = 1) -> None:
        self._counts[bucket_of(nanos)] += count

    def told(self) -> dict[str, int]:
        return {str(bucket): count for bucket, count in tuple(self._counts.items())}


def between(before: Mapping[str, int], after: Mapping[str, int]) -> dict[int, int]:
    """Return what came between two histograms that were told. Raises ValueError if they are not of one process."""
    found = {int(bucket): count - before.get(bucket, 0) for bucket, count in after.items()}
    if min(found.values(), default=0) < 0 or before.keys() - after.keys():
        raise ValueError("a histogram only grows: these two are not of one process, or told in the other order")
    return {bucket: count for bucket, count in found.items() if count}


def percentile(counts: Mapping[int, int], percent: float) -> float | None:
    """Return a percentile in nanoseconds by the nearest rank; None of nothing."""
    wanted = max(1, -int(-sum(counts.values()) * percent // 100))
    for bucket in sorted(counts):
        wanted -= counts[bucket]
        if wanted <= 0:
            return middle_of(bucket)
    return None


def rank(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile of single values by the nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(1, -int(-len(ordered) * percent // 100)) - 1] if ordered else None


def best_rate(samples: Sequence[tuple[int, int]]) -> float | None:
    """Return the rate per second of the slice at the fastest tenth; samples are (nanoseconds, count so far).

    Other users of the machine slow a slice down and never speed one up. None if no time has passed.
    """
    rates = [
        (count - count_before) / ((at - before) / 1e9)
        for (before, count_before), (at, count) in pairwise(samples)
        if at > before
    ]
    return rank(rates, 90)


def mean_rate(samples: Sequence[tuple[int, int]]) -> float | None:
    """Return the rate per second from the first sample to the last; None if no time has passed."""
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return None
    (before, count_before), (at, count) = samples[0], samples[-1]
    return (count - count_before) / ((at - before) / 1e9)


def per(amount: float, count: int) -> float | None:
    """Return an amount for each of `count`; None for none."""
    return amount / count if count > 0 else None
