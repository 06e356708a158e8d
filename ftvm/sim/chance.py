"""Streams of chance: one for each kind and place, all from the seed, independent of each other."""

import random

__all__ = ["stream"]


def stream(seed: int, *kind: str) -> random.Random:
    """Return a seed's stream of one kind of chance; the interpreter's hash seed has no part in it."""
    return random.Random(f"{seed}/{'/'.join(kind)}")
