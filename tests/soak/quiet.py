"""Run a default pair that nobody harms, beside processes that compute: no takeover and no drop may come.

    python -m tests.soak.quiet --minutes 60 --load 4

Prints one JSON line; fails at the first takeover, drop or suspicion.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .stagehands import soak_pair

__all__ = ["main", "run_quietly"]

LOOK_SECONDS = 1.0


def run_quietly(seconds: float, load: int) -> dict[str, object]:
    """Run a pair for so long; return what was seen, and what was told that must not be."""
    run = 0.0
    with soak_pair(load=load, has_relay=False) as pair:
        while run < seconds and not pair.harm:
            pair.pass_time(LOOK_SECONDS)
            run += LOOK_SECONDS
        return {
            "minutes": round(run / 60, 2),
            "load": load,
            "load_average": round(os.getloadavg()[0], 2),
            "committed": pair.told["Committed"],
            "harm": pair.harm,
            "lines": list(pair.bad),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.quiet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=int, default=4, help="processes that do nothing but compute")
    options = parser.parse_args(arguments)
    found = run_quietly(options.minutes * 60, options.load)
    print(json.dumps(found))
    return 1 if found["harm"] else 0


if __name__ == "__main__":
    sys.exit(main())
