"""Seeded randomness: one stream for each kind and place, all from one seed, independent of each other."""

import random

__all__ = ["Rng", "stream"]

Rng = random.Random


def stream(seed: int, *kind: str) -> Rng:
    """Return a seed's stream of one kind; the interpreter's hash seed has no part in it."""
    return Rng(f"{seed}/{'/'.join(kind)}")
