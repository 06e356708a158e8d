"""Reset the connections of a live, healthy pair again and again, as a firewall does: nobody may be taken for dead.

    python -m tests.soak.resets --resets 1000

Prints one JSON line; fails at the first takeover, drop or suspicion.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence

from .stagehands import soak_pair

__all__ = ["main", "reset_often"]

PAUSE_SECONDS = (0.15, 0.6)
"""The first is about what it takes until both lanes are up again, keys checked; the last beyond every limit."""


def reset_often(resets: int, *options: str, seed: int = 0) -> dict[str, object]:
    """Reset a pair's connections so many times; return what was done, and what was told that must not be."""
    chance, done = random.Random(seed), 0
    with soak_pair(*options) as pair:
        while done < resets and not pair.harm:
            pair.reset()
            pair.pass_time(chance.uniform(*PAUSE_SECONDS))
            done += 1
        pair.pass_time(1.0)
        return {"resets": done, "committed": pair.told["Committed"], "harm": pair.harm, "lines": list(pair.bad)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.resets", description=__doc__)
    parser.add_argument("--resets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = reset_often(options.resets, seed=options.seed)
    print(json.dumps(found))
    return 1 if found["harm"] else 0


if __name__ == "__main__":
    sys.exit(main())
