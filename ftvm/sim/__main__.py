"""`python -m ftvm.sim --seeds N`: play many seeded histories, print what happened, and each violation's seed."""

import argparse
import json
import sys
from collections import Counter
from typing import Final

from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import FtvmError
from ftvm.sim.checkers import Violation
from ftvm.sim.world import World

INTERVAL: Final = 0.04


def main() -> int:
    """Play the seeds; return 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many histories to play")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--engine", choices=list(ENGINES), default="remus")
    parser.add_argument("--trace", action="store_true", help="print every event of each history")
    options = parser.parse_args()
    told: Counter[str] = Counter()
    violations: list[dict[str, object]] = []
    events = takeovers = switchovers = 0
    for seed in range(options.start, options.start + options.seeds):
        world = World(seed, engine=engine_named(options.engine, INTERVAL), traces=options.trace)
        try:
            world.run()
        except FtvmError as wrong:
            name = wrong.invariant if isinstance(wrong, Violation) else type(wrong).__name__
            violations.append({"seed": seed, "invariant": name, "event": world.timeline.events, "what": str(wrong)})
        if options.trace:
            print("\n".join(world.lines))
        told.update(world.ledger.by_kind())
        events += world.timeline.events
        takeovers += world.records.takeovers
        switchovers += world.records.switchovers
    print(
        json.dumps(
            {
                "seeds": options.seeds,
                "engine": options.engine,
                "events": events,
                "takeovers": takeovers,
                "switchovers": switchovers,
                "faults": dict(sorted(told.items())),
                "violations": violations,
            }
        )
    )
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
